"""The parquet files that veRL trains and validates on, checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from experiments.digests import file_stamp
from experiments.models import hub as hub_model

BATCH = 10_000  # prompts that are tokenized at once


@dataclass(frozen=True)
class Limits:
    """What of a config its data must fit."""

    model: str
    max_prompt_length: int
    train_batch_size: int
    n: int
    ranks: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Limits:
        return cls(
            model=str(config["model"]["path"]),
            max_prompt_length=int(config["data"]["max_prompt_length"]),
            train_batch_size=int(config["data"]["train_batch_size"]),
            n=int(config["actor_rollout_ref"]["rollout"]["n"]),
            ranks=int(config["trainer"]["nnodes"]) * int(config["trainer"]["n_gpus_per_node"]),
        )


def paths(files: Any) -> list[str]:
    """Return data.train_files or data.val_files, which may be null, a path or several, as a list."""
    return [str(file) for file in (files if isinstance(files, list) else [files]) if file is not None]


def data_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the parquet files: missing, empty, wrong columns or rows, prompts beyond the limit."""
    found = []
    given = {key: paths(config["data"][key]) for key in ("train_files", "val_files")}
    for key, files in given.items():
        # Training files that are null are made when a run is planned; nothing is, to validate on, beside one's own.
        if not files and (config["data"][key] is not None or (key == "val_files" and given["train_files"])):
            found.append(
                f"data.{key} must be a parquet file, or several, but is {config['data'][key]}; set it, or leave both "
                "null for what task=... makes"
            )
        for file in files:
            found += parquet_problems(f"data.{key}", Path(file), file_stamp(Path(file)), Limits.of(config))
    return found


@cache  # the arms of a sweep have their data in common
def parquet_problems(key: str, file: Path, stamp: tuple[int, int] | None, limits: Limits) -> list[str]:
    """Return problems of one parquet file of veRL rows."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(file)
        missing = {"data_source", "prompt", "reward_model"} - set(table.schema_arrow.names)
        if missing:
            names = ", ".join(sorted(missing))
            return [f"{key} must have veRL's columns, but {file} lacks {names}; build it with experiments.tasks"]
        if table.metadata.num_rows == 0:
            return [f"{key} must have rows, but {file} is empty; build it again"]
        if key == "data.train_files" and table.metadata.num_rows < limits.train_batch_size:
            return [too_few_rows(key, file, table.metadata.num_rows, limits)]
        columns = table.read(columns=["prompt", "reward_model"])
    except FileNotFoundError:
        return [f"{key} must be a parquet file, but there is no {file}; check the path, or leave it null"]
    except (OSError, pyarrow.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        return [f"{key} must be a parquet file, but {file} can't be read ({reason}); build it again"]
    prompts = columns.column("prompt")
    return [*truth_problems(key, file, columns.column("reward_model")), *prompt_problems(key, file, prompts, limits)]


def truth_problems(key: str, file: Path, column: Any) -> list[str]:
    """Return a problem if rows of an Arrow column reward_model hold no ground_truth; none at all is a task's choice."""
    import pyarrow as pa
    import pyarrow.compute as pc

    must = f"{key} must have mappings with a ground_truth as its reward_model"
    if not pa.types.is_struct(column.type) or column.type.get_field_index("ground_truth") < 0:
        return [f"{must}, but {file} has {column.type}; build it with experiments.tasks"]
    truths = pc.struct_field(column, "ground_truth")
    if column.null_count or 0 < truths.null_count < len(column):
        row = truths.is_null().index(True).as_py()
        return [f"{must}, but row {row} of {file} has none; build it again without such rows"]
    return []


def too_few_rows(key: str, file: Path, rows: int, limits: Limits) -> str:
    """Return the problem of a training file with less than a batch; what to do is the largest batch that it fills."""
    multiple = limits.ranks // math.gcd(limits.ranks, limits.n)
    largest = rows // multiple * multiple
    do = f"set data.train_batch_size={largest}" if largest else f"build one with at least {multiple} rows"
    return f"{key} must hold at least data.train_batch_size={limits.train_batch_size} rows, but {file} has {rows}; {do}"


def are_chats(kind: Any) -> bool:
    """Return whether an Arrow type is that of chats: lists of messages that have a text as their content."""
    import pyarrow as pa

    message = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None
    if message is None or not pa.types.is_struct(message) or message.get_field_index("content") < 0:
        return False
    content = message.field("content").type
    return pa.types.is_string(content) or pa.types.is_large_string(content)


def first_empty(prompts: Any) -> int | None:
    """Return the number of the first prompt of an Arrow column of chats that is null or says nothing, None if all do.

    A message that is null makes its prompt null as well: veRL can read neither.
    """
    import pyarrow.compute as pc

    contents = pc.struct_field(pc.list_flatten(prompts), "content")
    parents = pc.list_parent_indices(prompts)
    said = pc.unique(parents.filter(pc.greater(pc.utf8_length(contents), 0)))
    if contents.null_count == 0 and len(said) == len(prompts):
        return None
    unsaid = parents.filter(contents.is_null()).to_pylist()
    return min({*unsaid, *(set(range(len(prompts))) - set(said.to_pylist()))})


def longest_chats(prompts: Any) -> list[Any]:
    """Return the 256 prompts of an Arrow column with the longest message, which take the most tokens or nearly so."""
    import pyarrow.compute as pc

    if not are_chats(prompts.type):
        return prompts.slice(0, 256).to_pylist()
    parents = pc.list_parent_indices(prompts)
    lengths = pc.utf8_length(pc.struct_field(pc.list_flatten(prompts), "content"))
    order = pc.sort_indices(lengths, sort_keys=[("", "descending")]).slice(0, 256)
    return prompts.take(pc.unique(parents.take(order))).to_pylist()


def prompt_problems(key: str, file: Path, prompts: Any, limits: Limits) -> list[str]:
    """Return a problem if prompts of an Arrow column are no chats, or longer than data.max_prompt_length tokens.

    Only the longest are tokenized; if one is too long, all are counted.
    """
    empty = first_empty(prompts) if are_chats(prompts.type) else None
    if empty is not None:
        return [f"{key} must have a prompt in every row, but row {empty} of {file} has none; build it again without it"]
    try:
        texts = _texts(longest_chats(prompts))
    except (TypeError, KeyError):
        return [
            f"{key} must hold prompts as lists of messages with a content, but {file} does not; "
            "build it with experiments.tasks"
        ]
    folder = hub_model.find(limits.model)
    if folder is None or not (folder / "tokenizer.json").is_file():
        return []  # on the hub: veRL checks when it has the tokenizer, and the plan says so
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library has no kind of its own
        reason = (str(error).splitlines() or ["no reason given"])[0]
        return [
            f"model.path must hold a tokenizer, but {folder / 'tokenizer.json'} can't be read ({reason}); "
            "save it there with tokenizer.save_pretrained"
        ]
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    kept = tokenizer.decode_batch([encoding.ids for encoding in encodings], skip_special_tokens=False)
    for text, read in zip(texts, kept, strict=True):
        if len("".join(read.split())) < len("".join(text.split())):
            return [
                f"model.path must have a tokenizer that keeps every character of the prompts, but {text[:60]!r} "
                f"of {file} is read as {read[:60]!r}; take this model's own model.template and task.space, or "
                "write prompts in its words"
            ]
    longest, limit = max(len(encoding.ids) for encoding in encodings), limits.max_prompt_length
    if longest <= limit:
        return []
    longer = 0
    for start in range(0, len(prompts), BATCH):
        batch = _texts(prompts.slice(start, BATCH).to_pylist())
        longer += sum(len(encoding.ids) > limit for encoding in tokenizer.encode_batch(batch, add_special_tokens=False))
    return [
        f"data.max_prompt_length must be at least {longest} tokens for {file}, but is {limit}: of its {len(prompts):,} "
        f"prompts {longer:,} are longer; set data.max_prompt_length={longest}"
    ]


def _texts(chats: list[Any]) -> list[str]:
    return ["".join(message["content"] for message in chat) for chat in chats]
