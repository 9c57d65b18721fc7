"""Countdown data as veRL reads it: train.parquet and test.parquet in a folder of the cache."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.tasks.countdown import hub
from experiments.tasks.countdown.cache import cached
from experiments.tasks.countdown.problems import Problem, Space, generate
from experiments.tasks.countdown.prompts import TEMPLATES, render

FORMAT = 2  # raise it when the rows or the way problems are drawn change, so that no old cache is taken for new
# veRL's agent loop for each data source of a split: sampled and greedy validation tell different stories.
AGENTS = {
    "train": {"countdown": "single_turn_agent"},
    "test": {"countdown": "single_turn_agent", "countdown_greedy": "greedy_agent"},
}
ROW_GROUP = 50_000  # rows written at a time: bounds the memory that half a million prompts take


@dataclass(frozen=True)
class CountdownData:
    """Two parquet files that veRL trains and validates on, and the digest of all that determines them."""

    train: Path
    test: Path
    digest: str


def prepare(
    *, space: Space, template: str, train_size: int, test_size: int, seed: int, cache_dir: Path
) -> CountdownData:
    """Make train and test problems of a space, or take them from the cache.

    All problems are distinct up to the order of their numbers. The test problems are held-out ones (see
    problems.is_held_out), the train problems are not. Each test problem has two rows: data source "countdown" is
    sampled as the rollout's val_kwargs say, "countdown_greedy" names the greedy agent loop.

    Args:
        template: a name of prompts.TEMPLATES.
        train_size, test_size: numbers of problems, >= 1.
        seed: >= 0.
        cache_dir: the folder countdown-<12 characters of the digest> is in it or is made there.

    Raises:
        UserError: a size, the seed or the template is wrong, the space has not so many problems, or `cache_dir` cannot
            be written.
    """
    _check(template, train_size, test_size)

    def build(folder: Path) -> dict[str, Any]:
        test = generate(space, test_size, seed, held_out=True)
        train = generate(space, train_size, seed, held_out=False)
        _write(folder, {"train": train, "test": test}, template)
        return {}

    identity = {"space": asdict(space), "train_size": train_size, "test_size": test_size, "seed": seed}
    return _cached(identity, template, cache_dir, build)[0]


def import_parquet(
    source: Path, *, template: str, cache_dir: Path, train_size: int = 327_680, test_size: int = 1024
) -> tuple[CountdownData, hub.Counts]:
    """Take the article's split of Jiayi-Pan/Countdown-Tasks-3to4 from a parquet file (columns nums, target).

    The first `train_size` rows are the train problems and the next `test_size` the test problems, as in the article.
    Dropped are problems without a solution, and test problems that occur among the train problems or earlier among the
    test problems, up to the order of the numbers.

    Returns:
        the data, and how many rows were kept and dropped; `print` shows it in words.

    Raises:
        UserError: a size or the template is wrong, `source` is not such a file or too short, a row is malformed,
            nothing is left of a split, or `cache_dir` cannot be written.
    """
    _check(template, train_size, test_size)

    def build(folder: Path) -> dict[str, Any]:
        train, test, counts = hub.split(hub.read(source, train_size + test_size), train_size)
        _write(folder, {"train": train, "test": test}, template)
        return asdict(counts)

    identity = {"hub": hub.digest(source), "train_size": train_size, "test_size": test_size}
    data, notes = _cached(identity, template, cache_dir, build)
    return data, hub.Counts(**notes)


def _check(template: str, train_size: int, test_size: int) -> None:
    problems = []
    if template not in TEMPLATES:
        problems.append(f"template must be one of {', '.join(TEMPLATES)}, but is {template!r}; set it to one of them")
    for name, size in (("train_size", train_size), ("test_size", test_size)):
        if size < 1:
            problems.append(f"{name} must be at least 1, but is {size}; raise it")
    if problems:
        raise UserError(*problems)


def _cached(
    identity: dict[str, Any], template: str, cache_dir: Path, build: Callable[[Path], dict[str, Any]]
) -> tuple[CountdownData, dict[str, Any]]:
    # The template's text and not its name: an edited template is another data set.
    identity = {"format": FORMAT, "template": TEMPLATES[template], **identity}
    folder, digest, notes = cached(cache_dir, "countdown", identity, build)
    return CountdownData(folder / "train.parquet", folder / "test.parquet", digest), notes


def _write(folder: Path, splits: Mapping[str, list[Problem]], template: str) -> None:
    """Write <split>.parquet for each split, with rows as veRL's data set and reward manager read them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    ground_truth = pa.struct([("target", pa.int64()), ("numbers", pa.list_(pa.int64()))])
    schema = pa.schema(
        [
            ("data_source", pa.string()),
            ("agent_name", pa.string()),
            ("prompt", pa.list_(message)),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", ground_truth)])),
            ("extra_info", pa.struct([("split", pa.string()), ("index", pa.int64())])),
        ]
    )
    for split, problems in splits.items():
        with pq.ParquetWriter(folder / f"{split}.parquet", schema) as writer:
            for (source, agent), start in product(AGENTS[split].items(), range(0, len(problems), ROW_GROUP)):
                rows = [
                    {
                        "data_source": source,
                        "agent_name": agent,
                        "prompt": render(template, problem),
                        "ability": "math",
                        "reward_model": {
                            "style": "rule",
                            "ground_truth": {"target": problem.target, "numbers": list(problem.numbers)},
                        },
                        "extra_info": {"split": split, "index": index},
                    }
                    for index, problem in enumerate(problems[start : start + ROW_GROUP], start)
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
