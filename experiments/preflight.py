"""Every check of a config that needs no training: all problems at once, each with what to do."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UserError

MINI_BATCH = "actor_rollout_ref.actor.ppo_mini_batch_size"


def problems_of(config: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a resolved config; an empty list if it can be started."""
    knobs = knob_problems(config)
    # Arithmetic on values that are not even numbers would only repeat the same problem in other words.
    return knobs or [*batch_problems(config), *model_problems(config), *data_problems(config)]


def knob_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of single values: type and range."""
    found = []

    def check(key: str, kind: str, good: Any, do: str) -> bool:
        value: Any = config
        for part in key.split("."):
            value = value[part]
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
        if number and good(value):
            return True
        found.append(f"{key} must be {kind}, but is {value!r}; {do}")
        return False

    def check_whole(key: str, least: int, do: str) -> bool:
        kind = f"a whole number of at least {least}"
        return check(key, kind, lambda value: isinstance(value, int) and value >= least, do)

    check("rollout.temperature", "a number above 0", lambda value: value > 0, "try 1.0")
    check_whole("rollout.n", 1, "try 5")
    check("kl.coef", "a number of at least 0", lambda value: value >= 0, "try 0.001, or 0 for no KL term")
    check_whole("seed", 0, "try 1")
    check_whole("trainer.total_training_steps", 1, "try 50")
    for key in ("data.train_batch_size", "data.max_prompt_length", "data.max_response_length"):
        check_whole(key, 1, "try a power of two")
    check_whole(MINI_BATCH, 1, "try 16")
    for ours, verl in (("gpus_per_node", "n_gpus_per_node"), ("nodes", "nnodes")):
        if check_whole(f"hardware.{ours}", 1, "try 1"):
            check_whole(f"trainer.{verl}", 1, "try 1")
    for key in ("train_size", "test_size"):
        check_whole(f"task.{key}", 1, "try 1000")
    if config["show"] not in (None, "config", "verl", "plan"):
        found.append(f"show must be config, verl or plan, but is {config['show']!r}; leave it out to run")
    return found


def batch_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of sizes that veRL would find minutes later, inside Ray."""
    found = []
    n, batch = int(config["rollout"]["n"]), int(config["data"]["train_batch_size"])
    ranks = int(config["trainer"]["nnodes"]) * int(config["trainer"]["n_gpus_per_node"])
    actor = config["actor_rollout_ref"]["actor"]
    mini = int(actor["ppo_mini_batch_size"])
    if config["algorithm"]["adv_estimator"] == "grpo" and n < 2:
        found.append(
            f"rollout.n must be at least 2 with GRPO, but is {n}: a group of one has no mean to compare with "
            "(it would silently be REINFORCE); set rollout.n=5 or algorithm=ppo"
        )
    multiple = ranks // math.gcd(ranks, n)  # what the batch must be a multiple of, so that its samples divide
    fitting = [size for size in divisors(batch) if size % multiple == 0]
    best = max((size for size in fitting if size <= mini), default=min(fitting, default=batch))
    if batch % multiple:
        found.append(
            f"data.train_batch_size x rollout.n must be a multiple of the {ranks} GPUs, but is {batch} x {n}; "
            f"set data.train_batch_size={-(-batch // multiple) * multiple}"
        )
    elif mini > batch:
        found.append(
            f"{MINI_BATCH} must be at most data.train_batch_size={batch}, but is {mini}; set {MINI_BATCH}={batch}"
        )
    elif batch % mini:
        found.append(
            f"data.train_batch_size must be a multiple of {MINI_BATCH}={mini}, but is {batch}; set {MINI_BATCH}={best}"
        )
    elif mini % multiple:
        found.append(
            f"{MINI_BATCH} x rollout.n must be a multiple of the {ranks} GPUs, but is {mini} x {n}; "
            f"set {MINI_BATCH}={best}"
        )
    if not found:  # the sizes below follow from those above
        found += micro_batch_problems(config, mini * n // ranks, batch * n // ranks)
    return found


def micro_batch_problems(config: Mapping[str, Any], per_update: int, per_step: int) -> list[str]:
    """Return problems of the micro-batches: they must divide a rank's mini-batch, or its share of the whole batch."""
    actor_rollout_ref, critic = config["actor_rollout_ref"], config["critic"]
    actor, rollout, ref = (actor_rollout_ref[name] for name in ("actor", "rollout", "ref"))
    asked = [
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", actor, "use_dynamic_bsz", per_update),
        (
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu",
            rollout,
            "log_prob_use_dynamic_bsz",
            per_step,
        ),
    ]
    if actor["use_kl_loss"] or config["algorithm"]["use_kl_in_reward"]:
        asked.append(
            ("actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu", ref, "log_prob_use_dynamic_bsz", per_step)
        )
    if config["algorithm"]["adv_estimator"] == "gae":
        asked.append(("critic.ppo_micro_batch_size_per_gpu", critic, "use_dynamic_bsz", per_update))
    found = []
    for key, section, dynamic, share in asked:
        micro = section[key.rsplit(".", 1)[-1]]
        if micro is None or section[dynamic]:
            continue
        usable = isinstance(micro, int) and micro >= 1
        if usable and share % micro == 0:
            continue
        most = min(share, micro if usable else 16)
        best = max(size for size in divisors(share) if size <= most)
        found.append(f"{key} must divide the {share} samples of a GPU, but is {micro!r}; set {key}={best}")
    return found


def divisors(number: int) -> list[int]:
    """Return the divisors of a positive number, smallest first."""
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return sorted({*small, *(number // size for size in small)})


def model_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of a local model folder; a name on the hub is taken as it is."""
    path = str(config["model"]["path"])
    folder = Path(path).expanduser()
    looks_local = path.startswith(("/", ".", "~")) or folder.exists()
    if not looks_local:
        return []
    if not folder.is_dir():
        return [f"model.path must be a folder or a name on the hub, but there is no {path}; check the path"]
    found = []
    if not (folder / "config.json").is_file():
        found.append(f"model.path must hold a config.json, but {path} has none; save the model with save_pretrained")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        found.append(
            f"model.path must hold a tokenizer, but {path} has no tokenizer.json; "
            "save it there with tokenizer.save_pretrained"
        )
    if not [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        found.append(
            f"model.path must hold weights, but {path} has no *.safetensors; save the model with save_pretrained"
        )
    for file in sorted(folder.glob("*.safetensors")):
        try:
            tensors(file)
        except (OSError, ValueError) as error:
            problem = f"model.path must hold whole weights, but {file} can't be read ({error})"
            found.append(f"{problem}; save or fetch it again")
    return found


def data_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the parquet files: missing, empty, wrong columns, prompts beyond the limit."""
    found = []
    for key in ("train_files", "val_files"):
        files = config["data"][key]
        for file in files if isinstance(files, list) else [files]:
            if file is not None:
                found += parquet_problems(f"data.{key}", Path(file), config)
    return found


def parquet_problems(key: str, file: Path, config: Mapping[str, Any]) -> list[str]:
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
        if key == "data.train_files" and table.metadata.num_rows < config["data"]["train_batch_size"]:
            return [too_few_rows(key, file, table.metadata.num_rows, config)]
        batch = next(table.iter_batches(batch_size=256, columns=["prompt"]))
        chats = batch.column("prompt").to_pylist()
    except FileNotFoundError:
        return [f"{key} must be a parquet file, but there is no {file}; check the path, or leave it null"]
    except (OSError, pyarrow.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        return [f"{key} must be a parquet file, but {file} can't be read ({reason}); build it again"]
    return prompt_problems(key, file, chats, config)


def too_few_rows(key: str, file: Path, rows: int, config: Mapping[str, Any]) -> str:
    """Return the problem of a training file with less than a batch; what to do is the largest batch that it fills."""
    ranks = int(config["trainer"]["nnodes"]) * int(config["trainer"]["n_gpus_per_node"])
    multiple = ranks // math.gcd(ranks, int(config["rollout"]["n"]))
    largest = rows // multiple * multiple
    do = f"set data.train_batch_size={largest}" if largest else f"build one with at least {multiple} rows"
    return (
        f"{key} must hold at least data.train_batch_size={config['data']['train_batch_size']} rows, "
        f"but {file} has {rows}; {do}"
    )


def prompt_problems(key: str, file: Path, chats: list[Any], config: Mapping[str, Any]) -> list[str]:
    """Return a problem if prompts of a sample are no chats, or longer than data.max_prompt_length tokens."""
    try:
        texts = ["".join(message["content"] for message in chat) for chat in chats]
    except (TypeError, KeyError):
        return [
            f"{key} must hold prompts as lists of messages with a content, but {file} does not; "
            "build it with experiments.tasks"
        ]
    tokenizer_file = Path(str(config["model"]["path"])).expanduser() / "tokenizer.json"
    if not tokenizer_file.is_file():
        return []  # on the hub: veRL checks when it has the tokenizer
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    longest = max(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))
    limit = int(config["data"]["max_prompt_length"])
    if longest <= limit:
        return []
    return [
        f"data.max_prompt_length must be at least {longest} tokens for {file}, but is {limit}; "
        f"set data.max_prompt_length={longest}"
    ]


def check_disk(folder: Path, needed: int) -> None:
    """Raise UserError if fewer than `needed` bytes are free where `folder` is or will be made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{folder} must have {needed / 2**20:,.0f} MiB free, but has {free / 2**20:,.0f}; "
            "make room, or set runs_dir to another disk"
        )


def tensors(file: Path) -> dict[str, Any]:
    """Return what a safetensors file's header says of each tensor; ValueError if the file is torn or none at all."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= size - 8:
            raise ValueError("it is no safetensors file")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    if size != 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0):
        raise ValueError("it is cut off")
    return header


def model_parameters(folder: Path) -> int:
    """Return how many numbers a local model's safetensors files hold, 0 if there are none (or it is on the hub)."""
    return sum(math.prod(tensor["shape"]) for file in folder.glob("*.safetensors") for tensor in tensors(file).values())
