"""Check the parquet files that veRL trains and validates on, before anything starts."""

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
    """The values of a config that its data must fit."""

    model: str
    max_prompt_length: int
    train_batch_size: int
    n: int
    ranks: int
    media: tuple[str, ...]
    """The columns in which veRL looks for what is no text."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Limits:
        return cls(
            model=str(config["model"]["path"]),
            max_prompt_length=int(config["data"]["max_prompt_length"]),
            train_batch_size=int(config["data"]["train_batch_size"]),
            n=int(config["actor_rollout_ref"]["rollout"]["n"]),
            ranks=int(config["trainer"]["nnodes"]) * int(config["trainer"]["n_gpus_per_node"]),
            media=tuple(str(config["data"].get(f"{kind}_key", f"{kind}s")) for kind in ("image", "video", "audio")),
        )


def paths(files: Any) -> list[str]:
    """Return the value of data.train_files or data.val_files (null, a path or several paths) as a list."""
    return [str(file) for file in (files if isinstance(files, list) else [files]) if file is not None]


def data_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the parquet files: missing or empty files, wrong columns or rows, prompts too long."""
    found = []
    given = {key: paths(config["data"][key]) for key in ("train_files", "val_files")}
    for key, files in given.items():
        # Planning makes both files if data.train_files is null. Beside the user's own training files it makes nothing.
        if not files and (config["data"][key] is not None or (key == "val_files" and given["train_files"])):
            found.append(
                f"data.{key} must be a parquet file, or several, but is {config['data'][key]}; set it, or leave both "
                "null for what task=... makes"
            )
        for file in files:
            found += parquet_problems(f"data.{key}", Path(file), file_stamp(Path(file)), Limits.of(config))
    most, batch = int(config["data"]["train_max_samples"]), int(config["data"]["train_batch_size"])
    if 0 < most < batch:
        found.append(
            f"data.train_max_samples must be at least data.train_batch_size={batch}, but is {most}: no "
            f"batch would be whole; set data.train_max_samples={batch}, or a smaller data.train_batch_size"
        )
    return found


@cache  # the arms of a sweep share their data
def parquet_problems(key: str, file: Path, stamp: tuple[int, int] | None, limits: Limits) -> list[str]:
    """Return problems of one parquet file of veRL rows. `stamp`: its file_stamp; a changed file is read again."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(file)
        missing = {"data_source", "prompt", "reward_model"} - set(table.schema_arrow.names)
        if missing:
            names = ", ".join(sorted(missing))
            return [f"{key} must have veRL's columns, but {file} lacks {names}; build it with experiments.tasks"]
        if media := sorted(set(limits.media) & set(table.schema_arrow.names)):
            return [
                f"{key} must hold texts only, but {file} has a column {media[0]}: the workers fetch a row's tokens and "
                "nothing else (verl_plugin/training/trainer.py), so they would train without it; leave it out"
            ]
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
    """Return a problem if some rows of an Arrow column reward_model have no ground_truth.

    A task may choose to have no ground_truth in any row.
    """
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
    """Return the problem of a training file with less than a batch; it proposes the largest batch that fits."""
    multiple = limits.ranks // math.gcd(limits.ranks, limits.n)
    largest = rows // multiple * multiple
    do = f"set data.train_batch_size={largest}" if largest else f"build one with at least {multiple} rows"
    return f"{key} must hold at least data.train_batch_size={limits.train_batch_size} rows, but {file} has {rows}; {do}"


def are_chats(kind: Any) -> bool:
    """Return whether an Arrow type is a type of chats: lists of messages, each with a text as its content."""
    import pyarrow as pa

    message = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None
    if message is None or not pa.types.is_struct(message) or message.get_field_index("content") < 0:
        return False
    content = message.field("content").type
    return pa.types.is_string(content) or pa.types.is_large_string(content)


def first_empty(prompts: Any) -> int | None:
    """Return the row of the first prompt, in an Arrow column of chats, that is null or has no text; None without one.

    A prompt with a null message counts as null: veRL can read neither.
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
    """Return the 256 prompts of an Arrow column with the longest messages: they have the most tokens, or nearly."""
    import pyarrow.compute as pc

    if not are_chats(prompts.type):
        return prompts.slice(0, 256).to_pylist()
    parents = pc.list_parent_indices(prompts)
    lengths = pc.utf8_length(pc.struct_field(pc.list_flatten(prompts), "content"))
    order = pc.sort_indices(lengths, sort_keys=[("", "descending")]).slice(0, 256)
    return prompts.take(pc.unique(parents.take(order))).to_pylist()


def prompt_problems(key: str, file: Path, prompts: Any, limits: Limits) -> list[str]:
    """Return a problem if prompts of an Arrow column are not chats, or are longer than data.max_prompt_length tokens.

    Only the longest prompts are tokenized; if one of them is too long, all are, to count the prompts that are too long.
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
        return []  # not fetched from the hub: veRL checks once it has the tokenizer, and the plan says so
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library has no exception class of its own
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
                f"of {file} is read as {read[:60]!r}; take another model (model=...), or problems in this model's "
                "words: for countdown, leave model.template and task.space to model=..."
            ]
    longest, limit = max(len(encoding.ids) for encoding in encodings), limits.max_prompt_length
    if longest <= limit:
        return []
    longer = 0
    for start in range(0, len(prompts), BATCH):
        batch = _texts(prompts.slice(start, BATCH).to_pylist())
        longer += sum(len(encoding.ids) > limit for encoding in tokenizer.encode_batch(batch, add_special_tokens=False))
    return [
        f"data.max_prompt_length must be at least {longest} tokens for {file}, but is {limit}: {longer:,} "
        f"of its {len(prompts):,} prompts are longer; set data.max_prompt_length={longest}"
    ]


def _texts(chats: list[Any]) -> list[str]:
    return ["".join(message["content"] for message in chat) for chat in chats]
