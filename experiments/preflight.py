"""Every check of a config that needs no training: all problems at once, each with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UserError


def problems_of(config: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a resolved config; an empty list if it can be started."""
    knobs = knob_problems(config)
    # Arithmetic on values that are not even numbers would only repeat the same problem in other words.
    return knobs or [*batch_problems(config), *model_problems(config), *data_problems(config)]


def knob_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of single values: type and range."""
    found = []

    def check(key: str, kind: str, good: Any, do: str) -> None:
        value: Any = config
        for part in key.split("."):
            value = value[part]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not good(value):
            found.append(f"{key} must be {kind}, but is {value!r}; {do}")

    whole = "a whole number of at least 1"
    check("rollout.temperature", "a number above 0", lambda v: v > 0, "try 1.0")
    check("rollout.n", whole, lambda v: v == int(v) and v >= 1, "try 5")
    check("kl.coef", "a number of at least 0", lambda v: v >= 0, "try 0.001, or 0 for no KL term")
    check("seed", "a whole number of at least 0", lambda v: v == int(v) and v >= 0, "try 1")
    check("trainer.total_training_steps", whole, lambda v: v == int(v) and v >= 1, "try 50")
    for key in ("data.train_batch_size", "data.max_prompt_length", "data.max_response_length"):
        check(key, whole, lambda v: v == int(v) and v >= 1, "try a power of two")
    check("actor_rollout_ref.actor.ppo_mini_batch_size", whole, lambda v: v == int(v) and v >= 1, "try 16")
    check("hardware.gpus_per_node", whole, lambda v: v == int(v) and v >= 1, "try 1")
    check("hardware.nodes", whole, lambda v: v == int(v) and v >= 1, "try 1")
    for key in ("train_size", "test_size"):
        check(f"task.{key}", whole, lambda v: v == int(v) and v >= 1, "try 1000")
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
    if batch * n % ranks:
        found.append(
            f"data.train_batch_size x rollout.n must be a multiple of the {ranks} GPUs, but is {batch} x {n}; "
            f"set data.train_batch_size={-(-batch // ranks) * ranks}"
        )
    if mini > batch:
        found.append(
            f"actor_rollout_ref.actor.ppo_mini_batch_size must be at most data.train_batch_size={batch}, "
            f"but is {mini}; "
            f"set actor_rollout_ref.actor.ppo_mini_batch_size={batch}"
        )
    elif batch % mini:
        divisor = max(size for size in range(1, mini + 1) if batch % size == 0)
        found.append(
            f"data.train_batch_size must be a multiple of actor_rollout_ref.actor.ppo_mini_batch_size={mini}, "
            f"but is {batch}; set actor_rollout_ref.actor.ppo_mini_batch_size={divisor}"
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
        if micro is None or section[dynamic] or share % int(micro) == 0:
            continue
        divisor = max(size for size in range(1, min(share, int(micro)) + 1) if share % size == 0)
        found.append(f"{key} must divide the {share} samples of a GPU, but is {micro}; set {key}={divisor}")
    return found


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
            return [
                f"{key} must hold at least data.train_batch_size={config['data']['train_batch_size']} rows, "
                f"but {file} has {table.metadata.num_rows}; set data.train_batch_size={table.metadata.num_rows}"
            ]
        batch = next(table.iter_batches(batch_size=256, columns=["prompt"]))
        chats = batch.column("prompt").to_pylist()
    except FileNotFoundError:
        return [f"{key} must be a parquet file, but there is no {file}; check the path, or leave it null"]
    except (OSError, pyarrow.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        return [f"{key} must be a parquet file, but {file} can't be read ({reason}); build it again"]
    return prompt_problems(key, file, chats, config)


def prompt_problems(key: str, file: Path, chats: list[Any], config: Mapping[str, Any]) -> list[str]:
    """Return a problem if prompts of a sample are longer than data.max_prompt_length tokens."""
    tokenizer_file = Path(str(config["model"]["path"])).expanduser() / "tokenizer.json"
    if not tokenizer_file.is_file():
        return []  # on the hub: veRL checks when it has the tokenizer
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    texts = ["".join(message["content"] for message in chat) for chat in chats]
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


def model_parameters(folder: Path) -> int:
    """Return how many numbers a local model's safetensors files hold, 0 if there are none (or it is on the hub)."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with open(file, "rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for length in tensor["shape"]:
                    size *= length
                total += size
    return total
