"""A run as it is after training: its frozen config, its data, and veRL's checkpoint in the shards of two ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM

import experiments.verl_plugin  # noqa: F401  here, where standard error is still the process's own: it writes stacks there
from experiments.config.compose import compose_config
from experiments.project import PROJECT_DIR
from experiments.store.rundir import RunDir
from experiments.tasks.dataset import arguments, prepare

WEIGHTS = PROJECT_DIR / "experiments/tiny_model/weights"
STEP, PROBLEMS = 20, 6


def trained_weights() -> dict[str, torch.Tensor]:
    """Return the base model's weights, each moved a little: no bfloat16 holds them exactly."""
    torch.manual_seed(0)
    state = AutoModelForCausalLM.from_pretrained(WEIGHTS).state_dict()
    return {
        name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in state.items() if name != "lm_head.weight"
    }


def save_shards(actor: Path, ranks: int = 2) -> None:
    """Write the weights as veRL 0.9.1 does with FSDP2, and the config that its trainer computed with."""
    actor.mkdir(parents=True)
    state = trained_weights()
    for rank in range(ranks):
        dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
        try:
            mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("fsdp",))
            shards = {
                name: DTensor.from_local(
                    tensor.chunk(ranks)[rank].clone(), mesh, [Shard(0)], shape=tensor.shape, stride=tensor.stride()
                )
                for name, tensor in state.items()
            }
            torch.save(shards, actor / f"model_world_size_{ranks}_rank_{rank}.pt")
        finally:
            dist.destroy_process_group()
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": ranks}))
    shutil.copytree(
        WEIGHTS, actor / "huggingface", ignore=shutil.ignore_patterns("*.safetensors", "*.md", "metrics.json")
    )
    config = json.loads((WEIGHTS / "config.json").read_text())
    (actor / "huggingface/config.json").write_text(json.dumps({**config, "attn_implementation": "packed_sdpa"}))
    torch.save({}, actor.parent / "data.pt")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder with the run, which is made once."""
    folder = tmp_path_factory.mktemp("trained")
    config = OmegaConf.to_container(
        compose_config([f"task.test_size={PROBLEMS}", "task.train_size=32", "hardware.threads=1"]), resolve=True
    )
    task = config["task"]
    data = prepare(Path(task["path"]), task["name"], arguments(task, config["model"]["template"]), folder / "data")
    config["data"] |= {"train_files": str(data.train), "val_files": str(data.test), "max_response_length": 64}
    run = RunDir(folder / "runs" / "kl=0.01,seed=1-0123abcd")
    run.create(
        OmegaConf.to_yaml(OmegaConf.create(config)), {"commit": "abc", "diff": "", "versions": {"verl": "0.9.1"}}
    )
    save_shards(run.checkpoints / f"global_step_{STEP}" / "actor")
    attempt = run.new_attempt()
    validated = {"val-core/countdown/acc/mean@4": 0.4375, "val-core/countdown_greedy/acc/mean@1": 0.5}
    attempt.metrics.write_text(json.dumps({"step": STEP, "data": validated}) + "\n")
    for event in ("started", "finished"):
        run.record(event, attempt=1, step=STEP, steps=STEP)
    return folder / "runs"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunDir:
    """A copy of the run that a test may change."""
    shutil.copytree(made, tmp_path / "runs")
    (path,) = (tmp_path / "runs").iterdir()
    return RunDir(path)
