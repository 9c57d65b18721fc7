"""Every check of a config that needs no training: all problems at once, each with what to do."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from experiments import model_folder
from experiments.cpu_run import cpu_problems
from experiments.cpu_vllm import cpu_vllm_problems
from experiments.data_files import data_problems
from experiments.digests import file_stamp
from experiments.errors import UserError
from experiments.memory import Shape, memory_problems
from experiments.parallelism import parallel_problems
from experiments.settings import rate_problems, record_problems
from experiments.tasks.reward_check import reward_problems

MINI_BATCH = "actor_rollout_ref.actor.ppo_mini_batch_size"
REWARD = "reward.custom_reward_function.path"


def problems_of(config: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a resolved config; an empty list if it can be started."""
    knobs = knob_problems(config)
    # Arithmetic on values that are not even numbers would only repeat the same problem in other words.
    if knobs:
        return knobs
    shape = shape_of(config)
    return [
        *rate_problems(config),
        *batch_problems(config),
        *parallel_problems(config, shape),
        *memory_problems(config, shape),
        *cpu_problems(config),
        *cpu_vllm_problems(config, shape),
        *model_problems(config),
        *data_problems(config),
        *reward_problems(config),
    ]


def knob_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of single values: type and range."""
    found = []

    def check(key: str, kind: str, good: Any, do: str) -> bool:
        value: Any = config
        for part in key.split("."):
            value = value.get(part)  # a task of one's own may lack a key
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
    check_whole("task.data_seed", 0, "try 0")
    name = config["task"].get("name")
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*(?<!greedy)", name, re.ASCII):
        found.append(
            f"task.name must be letters, digits, _, . and -, and not end in greedy, but is {name!r}; try my_task"
        )
    found += _schedule_problems(config["temperature"])
    if "end" in config["temperature"]:
        check("temperature.end", "a number above 0", lambda value: value > 0, "try 0.6")
        check_whole("temperature.steps", 2, "set it to the step in which the temperature is to reach temperature.end")
    found += record_problems(config)
    if config["show"] not in (None, "config", "verl", "plan", "json"):
        found.append(f"show must be config, verl, plan or json, but is {config['show']!r}; leave it out to run")
    return found


def _schedule_problems(temperature: Mapping[str, Any]) -> list[str]:
    """Return problems of the temperature's schedule: one that its group does not have, points that are none."""
    schedule, points = temperature["schedule"], temperature.get("points")
    kinds: tuple[str, ...] = ("linear", "cosine") if "end" in temperature else ("constant",)
    if "points" in temperature:
        kinds = ("piecewise",)
    if schedule not in kinds:
        return [
            f"temperature.schedule must be chosen by its group, but is {schedule!r}; "
            "set temperature=constant, temperature=linear, temperature=cosine or temperature=piecewise"
        ]
    if "points" not in temperature:
        return []
    pairs = [tuple(point) if isinstance(point, list) else () for point in points] if isinstance(points, list) else []
    steps = [1, *(pair[0] for pair in pairs if pair)]
    sound = all(len(pair) == 2 and type(pair[0]) is int and type(pair[1]) in (int, float) for pair in pairs)
    if not pairs or not sound or sorted(set(steps)) != steps or min(pair[1] for pair in pairs) <= 0:
        return [
            "temperature.points must be pairs of a step above 1 and a temperature above 0, steps ascending, but is "
            f"{points!r}; try [[10,1.0],[20,0.6]]"
        ]
    return []


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
        if section[dynamic]:
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
    """Return problems of a local model folder, or of what the hub's cache holds of a name; nothing is fetched."""
    path = str(config["model"]["path"])
    folder = Path(path).expanduser()
    looks_local = path.startswith(("/", ".", "~")) or folder.exists()
    model = config["actor_rollout_ref"]["model"]
    own = (config["model"]["template"], model["custom_chat_template"] is not None)
    if not looks_local:
        cached = model_folder.find(path)
        return model_folder.problems(cached, *own) if cached else model_folder.hub_problems(path)
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
    return [*found, *model_folder.problems(folder, *own)]


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """Return the model's shape: the config's, else its folder's; None where neither states one."""
    stated = Shape.of(config["model"]["shape"])
    folder = model_folder.find(str(config["model"]["path"]))
    if stated is not None or folder is None:
        return stated
    try:
        return model_folder.ModelFolder.read(folder).shape
    except ValueError:  # model_problems tells of it
        return None


def python_files(config: Mapping[str, Any]) -> dict[str, Path]:
    """Return, by key, the files of the task and of its reward, absolute; a relative one is so to where one types."""
    named = {"task.path": config["task"].get("path"), REWARD: config["reward"]["custom_reward_function"]["path"]}
    return {key: Path(str(path)).expanduser().absolute() for key, path in named.items() if path is not None}


def code_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a problem for each of `python_files` that can't be read as Python."""
    files, found = python_files(config), []
    if "task.path" not in files and config["data"]["train_files"] is None:
        found.append("task.path must be a Python file with a function build, but is None; write it (docs/own_task.md)")
    for key, file in files.items():
        if wrong := _not_python(file, file_stamp(file)):
            found.append(f"{key} must be a Python file, but {file}: {wrong}; check the path")
    return found


@cache  # the arms of a sweep have their code in common
def _not_python(file: Path, stamp: tuple[int, int] | None) -> str | None:
    try:
        compile(file.read_bytes(), file, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None


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
