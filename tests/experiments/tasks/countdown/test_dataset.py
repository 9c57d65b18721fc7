"""The parquet files veRL reads, the cache around them, and the hub's file."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.errors import UserError
from experiments.tasks.countdown import dataset
from experiments.tasks.countdown import hub as hub_files
from experiments.tasks.countdown.problems import Key, is_held_out
from experiments.tasks.countdown.reward import compute_score
from experiments.tasks.countdown.solver import solve
from experiments.tasks.dataset import DataSet, prepare

SMALL = {
    "source": "generated",
    "space": "miniature",
    "template": "compact",
    "train_size": 40,
    "test_size": 10,
    "data_seed": 0,
}


def small(cache_dir: Path, **changes: Any) -> DataSet:
    return prepare(Path(dataset.__file__), "countdown", {**SMALL, **changes}, cache_dir)


def rows(path: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return table


def keys(path: Path) -> list[Key]:
    truths = [row["reward_model"]["ground_truth"] for row in rows(path) if row["data_source"] == "countdown"]
    return [(tuple(sorted(truth["numbers"])), truth["target"]) for truth in truths]


def test_rows_are_as_verl_wants_them(tmp_path: Path) -> None:
    data = small(tmp_path)
    for path, split, size in ((data.train, "train", 40), (data.test, "test", 10)):
        table = [row for row in rows(path) if row["data_source"] == "countdown"]
        assert len(table) == size
        for index, row in enumerate(table):
            truth = row["reward_model"]["ground_truth"]
            numbers = ", ".join(map(str, truth["numbers"]))
            content = f"numbers {numbers} target {truth['target']} <think>"
            assert row == {
                "data_source": "countdown",
                "agent_name": "single_turn_agent",
                "prompt": [{"role": "user", "content": content}],
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": truth},
                "extra_info": {"split": split, "index": index},
            }
            answer = f"<answer>{solve(truth['numbers'], truth['target'])}</answer>"
            assert compute_score(row["data_source"], answer, truth, row["extra_info"])["score"] == 1.0


def test_every_test_problem_is_asked_a_second_time_greedily(tmp_path: Path) -> None:
    data = small(tmp_path)
    sampled, greedy = rows(data.test)[:10], rows(data.test)[10:]
    named = {"data_source": "countdown_greedy", "agent_name": "greedy_agent"}
    assert greedy == [{**row, **named} for row in sampled]


def test_held_out_problems_are_tested_and_the_others_trained_on(tmp_path: Path) -> None:
    data = small(tmp_path)
    assert all(map(is_held_out, keys(data.test)))
    assert not any(map(is_held_out, keys(data.train)))


def test_train_and_test_are_distinct_and_share_nothing(tmp_path: Path) -> None:
    data = small(tmp_path, train_size=11_411, test_size=500)
    train, test = keys(data.train), keys(data.test)
    assert len(set(train)) == 11_411 and len(set(test)) == 500
    assert not set(train) & set(test)


def test_the_test_problems_do_not_depend_on_the_train_size(tmp_path: Path) -> None:
    assert keys(small(tmp_path).test) == keys(small(tmp_path, train_size=50).test)


def test_the_folder_is_named_after_all_arguments(tmp_path: Path) -> None:
    datas = [
        small(tmp_path),
        small(tmp_path, template="base"),
        small(tmp_path, train_size=41),
        small(tmp_path, test_size=11),
        small(tmp_path, data_seed=1),
        small(tmp_path, space="article"),
    ]
    assert len({data.digest for data in datas}) == len(datas)
    for data in datas:
        assert data.train.parent == data.test.parent == tmp_path / f"countdown-{data.digest[:12]}"
        assert {path.name for path in data.train.parent.iterdir()} == {"train.parquet", "test.parquet", "meta.json"}


def test_a_second_call_takes_the_files_as_they_are(tmp_path: Path) -> None:
    first = small(tmp_path)
    before = [path.stat() for path in (first.train, first.test)]
    assert small(tmp_path) == first
    after = [path.stat() for path in (first.train, first.test)]
    assert [(s.st_ino, s.st_mtime_ns) for s in before] == [(s.st_ino, s.st_mtime_ns) for s in after]


def test_the_same_arguments_make_the_same_bytes(tmp_path: Path) -> None:
    one, two = small(tmp_path / "one"), small(tmp_path / "two")
    assert one.train.read_bytes() == two.train.read_bytes()
    assert one.digest == two.digest


@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "remove", "meta gone", "meta cut", "meta wrong", "notes", "empty"]
)
def test_a_damaged_folder_is_rebuilt(tmp_path: Path, damage: str) -> None:
    data = small(tmp_path)
    whole = data.train.read_bytes()
    meta = data.train.parent / "meta.json"
    if damage == "flip":
        data.train.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    elif damage == "truncate":
        data.train.write_bytes(whole[:-1])
    elif damage == "remove":
        data.test.unlink()
    elif damage == "meta gone":
        meta.unlink()
    elif damage == "meta cut":
        meta.write_text(meta.read_text()[:50])
    elif damage == "meta wrong":
        meta.write_text("[1]")
    elif damage == "notes":
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "notes": None}))
    else:
        for path in data.train.parent.iterdir():
            path.unlink()
    assert small(tmp_path) == data
    assert data.train.read_bytes() == whole
    assert len(rows(data.test)) == 20
    assert [path.name for path in tmp_path.iterdir()] == [data.train.parent.name]  # and nothing is left behind


BUILDER = """
import sys
from pathlib import Path
from experiments.tasks.countdown import dataset as countdown
from experiments.tasks.dataset import prepare
arguments = {"source": "generated", "space": "miniature", "template": "compact", "data_seed": 0}
arguments |= {"train_size": 2000, "test_size": 100}
print(prepare(Path(countdown.__file__), "countdown", arguments, Path(sys.argv[1])).digest)
"""


def test_several_builders_at_once_agree(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILDER, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    digests = {process.communicate(timeout=100)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0, 0]
    assert len(digests) == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"countdown-{digests.pop()[:12]}"]


KILLED = """
import os, signal, sys
from experiments.tasks import dataset
def write_half(folder, name, train, test):
    (folder / "train.parquet").write_bytes(b"PAR1")
    os.kill(os.getpid(), signal.SIGKILL)
dataset.write_rows = write_half
"""


def test_a_killed_builder_does_no_harm(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED + BUILDER, str(tmp_path)], capture_output=True, timeout=100)
    assert process.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".countdown-")
    assert len(rows(small(tmp_path).train)) == 40
    assert left.exists()  # its builder could still be at work
    yesterday = time.time() - 25 * 3600
    os.utime(left, (yesterday, yesterday))
    small(tmp_path, data_seed=1)
    assert not left.exists()


def test_a_failed_builder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be at most"):
        small(tmp_path, train_size=20_000)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        small(tmp_path / "cache", template="chat", space="narrow", train_size=0, test_size=-1)
    assert [problem.split(" must")[0] for problem in caught.value.problems] == [
        "model.template",
        "task.space",
        "task.train_size",
        "task.test_size",
    ]
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file must be a writable folder with free space"):
        small(tmp_path / "file")


def test_a_full_disk_is_one_clear_message(tmp_path: Path) -> None:
    """The disk is really full for the process: it may write files of a few bytes only."""
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n" + BUILDER
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert "UserError: the data cache" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_importing_needs_nothing_heavy() -> None:
    code = "import sys, experiments.tasks.countdown.dataset; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "ray", "verl", "transformers", "pandas", "pyarrow", "wandb", "datasets", "hydra"}
    assert not heavy & set(done.stdout.split())


# The hub's file.

ROWS = [
    ([44, 19, 35], 98),
    ([63, 95, 96], 64),
    ([3, 3, 8, 8], 24),  # needs fractions
    ([1, 1, 1], 99),  # no solution
    ([19, 35, 44], 98),  # row 0 again: kept, as in the article
    # test
    ([35, 44, 19], 98),  # in train
    ([2, 5, 7], 70),
    ([7, 2, 5], 70),  # repeated
    ([1, 1, 2], 90),  # no solution
    ([2, 5, 7], 14),
    # not read
    ([4, 5, 6], 15),
]


def hub_file(path: Path, nums: list[Any], target: list[Any], types: dict[str, pa.DataType] | None = None) -> Path:
    types = {"target": pa.int64(), "nums": pa.list_(pa.int64()), **(types or {})}
    table = {"target": pa.array(target, types["target"]), "nums": pa.array(nums, types["nums"])}
    pq.write_table(pa.table(table), path)
    return path


def hub(tmp_path: Path) -> Path:
    return hub_file(tmp_path / "hub.parquet", [nums for nums, _ in ROWS], [target for _, target in ROWS])


def imported(source: Path, cache_dir: Path, **changes: Any) -> DataSet:
    sizes = {"train_size": 5, "test_size": 5}
    return small(cache_dir, **{"source": str(source), "template": "base", **sizes, **changes})


def counted(source: Path, train_size: int, test_size: int) -> hub_files.Counts:
    return hub_files.split(hub_files.read(source, train_size + test_size), train_size)[2]


def test_the_article_s_split_without_leaks(tmp_path: Path) -> None:
    data, counts = imported(hub(tmp_path), tmp_path / "cache"), counted(hub(tmp_path), 5, 5)
    assert [row["reward_model"]["ground_truth"] for row in rows(data.train)] == [
        {"target": target, "numbers": nums} for nums, target in (ROWS[0], ROWS[1], ROWS[2], ROWS[4])
    ]
    assert [row["reward_model"]["ground_truth"] for row in rows(data.test)[:2]] == [
        {"target": target, "numbers": nums} for nums, target in (ROWS[6], ROWS[9])
    ]
    assert vars(counts) == {
        "train": 4, "test": 2, "unsolvable": 2, "test_in_train": 1, "test_repeated": 1, "train_repeated": 1
    }  # fmt: skip
    assert "dropped: 2 without a solution, 1 test problems that are train problems" in str(counts)
    first = rows(data.test)[0]
    assert "[2, 5, 7], create an equation that equals 70." in first["prompt"][0]["content"]
    assert first["extra_info"] == {"split": "test", "index": 0}


def test_an_import_is_cached_by_the_file_s_content(tmp_path: Path) -> None:
    source = hub(tmp_path)
    data = imported(source, tmp_path / "cache")
    stat = data.train.stat()
    source.rename(tmp_path / "moved.parquet")
    assert imported(tmp_path / "moved.parquet", tmp_path / "cache") == data
    assert data.train.stat().st_mtime_ns == stat.st_mtime_ns
    other = hub_file(tmp_path / "other.parquet", [nums for nums, _ in ROWS[::-1]], [target for _, target in ROWS[::-1]])
    assert imported(other, tmp_path / "cache").digest != data.digest


@pytest.mark.parametrize(
    ("nums", "target", "types", "message"),
    [
        ([], [], {}, "must have at least 10 rows for train and test together, but has 0"),
        ([[1, 2]] * 9, [3] * 9, {}, "must have at least 10 rows for train and test together, but has 9"),
        (["[1, 2]"] * 10, [3] * 10, {"nums": pa.string()}, r"but has target \(int64\), nums \(string\)"),
        ([[1.0, 2.0]] * 10, [3] * 10, {"nums": pa.list_(pa.float64())}, "must have the columns nums"),
        ([[1, 2]] * 10, [3.0] * 10, {"target": pa.float64()}, "must have the columns nums"),
        ([[1, 2]] * 8 + [None, [1, None]], [3] * 10, {}, "but 2 do not, the first is row 8 with nums None and"),
        ([[1, 2]] * 10, [3] * 9 + [None], {}, "but 1 do not, the first is row 9"),
        ([[1]] + [[1, 2]] * 9, [3] * 10, {}, r"but 1 do not, the first is row 0 with nums \[1\]"),
        ([[1] * 6] + [[1, 2]] * 9, [3] * 10, {}, "must have 2 to 5 numbers"),
        ([[1, -2]] * 10, [3] * 10, {}, "but 10 do not"),
        ([[1, 2]] * 10, [0] * 10, {}, "a target >= 1, but 10 do not"),
        ([[1, 2]] * 10, [50] * 10, {}, "train and test must both keep problems, but there are 0 train problems"),
        ([[1, 2]] * 10, [3] * 10, {}, "train and test must both keep problems, .* 0 test problems"),
    ],
)  # fmt: skip
def test_a_wrong_hub_file_is_refused(
    tmp_path: Path, nums: list[Any], target: list[Any], types: dict[str, Any], message: str
) -> None:
    source = hub_file(tmp_path / "hub.parquet", nums, target, types)
    with pytest.raises(UserError, match=message):
        imported(source, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing.parquet gives 'No such file or directory'; download"):
        imported(tmp_path / "missing.parquet", tmp_path)
    with pytest.raises(UserError, match="gives 'Is a directory'"):
        imported(tmp_path, tmp_path)
    for content in (b"", b"nums,target\n", b"PAR1" * 10):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(
            UserError, match=r"file must be a parquet or JSON file, but reading it gives '.*'; download it again"
        ):
            imported(tmp_path / "file", tmp_path / "cache")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other")
    with pytest.raises(UserError, match=r"must have the columns nums .* but has a \(int64\)"):
        imported(tmp_path / "other", tmp_path / "cache")


def test_numbers_too_large_for_floats_are_still_exact(tmp_path: Path) -> None:
    big = 3_037_000_493
    nums = [[big, big], [big, 1], [big, big], [1, 2], [1, 3]]
    source = hub_file(tmp_path / "hub.parquet", nums, [big * big, big + 1, big * big + 1, 3, 4])
    counts = counted(source, 3, 2)
    assert (counts.train, counts.unsolvable, counts.test) == (2, 1, 2)
    # The product of the first two is 1024 more than the third in floats, but not in exact arithmetic.
    third = int(float(big * big)) - 1024
    assert big * big - third != 1024
    source = hub_file(source, [[big, big, third], [1, 2], [1, 3]], [1024, 3, 4])
    assert counted(source, 2, 1).unsolvable == 1
