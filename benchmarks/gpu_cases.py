"""The runs that benchmarks/gpu.py measures: five items, each of a few cases, each case one `experiments.run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SEED = 1
TINY_STEPS, VLLM_STEPS, ARTICLE_STEPS, ARMS_STEPS, MEMORY_STEPS = 10, 3, 3, 3, 2
# The reward of benchmarks/setting.py: a random model's responses differ in it, so that there is something to learn.
REWARD = Path(__file__).with_name("setting.py")
MODEL = "{model}"  # in an override: the folder of the case's random model

# What an item is for, and the seconds that it may take unless --limit says otherwise.
ITEMS = {
    "tiny": ("the tiny model on CPU and GPU: same seed, same curve", 1200),
    "vllm": ("0.5B shape: the rollout engine has the trainer's weights", 900),
    "article": ("3B shape: the article's step, with its settings and with ours", 2400),
    "arms": ("3B shape: n = 3, 5, 8 and PPO, relative to n = 5", 3600),
    "memory": ("0.5B to 7B shapes: peak memory against what preflight predicts", 3600),
}


@dataclass(frozen=True)
class Machine:
    """What decides how the cases are run."""

    device: str
    """cuda or cpu."""
    name: str = "CPU"
    gpus: int = 0
    memory_gib: int = 0
    """Of one GPU."""
    driver: str = ""
    indices: tuple[str, ...] = ()
    """Of the GPUs, by nvidia-smi's count."""
    vllm: bool = False
    flash_attn: bool = False


@dataclass(frozen=True)
class Case:
    """One run."""

    item: str
    name: str
    overrides: tuple[str, ...]
    model: str | None = None
    """A choice of conf/model whose shape it trains with random weights; None: the tiny model."""


def cases(item: str, machine: Machine) -> list[Case]:
    """Return the cases of an item. Without a GPU, "tiny" has its CPU cases only, and the other items have none."""
    if item == "tiny":
        return _tiny(machine)
    return {"vllm": _vllm, "article": _article, "arms": _arms, "memory": _memory}[item](machine) if machine.gpus else []


def _tiny(machine: Machine) -> list[Case]:
    always = (f"trainer.total_training_steps={TINY_STEPS}", *_bare())
    return [
        Case("tiny", f"{algorithm} on {device}", (f"algorithm={algorithm}", f"hardware={device}", *always))
        for algorithm in ("grpo", "ppo")
        for device in (("cpu", "cuda") if machine.gpus else ("cpu",))
    ]


def _vllm(machine: Machine) -> list[Case]:
    """Return one run. Its learning rate moves the weights, so that a missing sync shows in the second step."""
    lengths = ("data.train_batch_size=32", "actor_rollout_ref.actor.ppo_mini_batch_size=32")
    more = (*lengths, "data.max_response_length=256", "actor_rollout_ref.actor.optim.lr=1e-4")
    return [_shaped("vllm", "0.5B", "qwen2.5-0.5b", machine, VLLM_STEPS, *more)]


def _article(machine: Machine) -> list[Case]:
    # As in the article, one engine over two GPUs, if there are two.
    split = f"actor_rollout_ref.rollout.tensor_model_parallel_size={min(2, machine.gpus)}"
    return [
        _shaped(
            "article", "article's settings", "qwen2.5-3b", machine, ARTICLE_STEPS, "experiment=article_settings", split
        ),
        ours("article", machine),
    ]


def ours(item: str, machine: Machine) -> Case:
    """Return the baseline with our settings, which two items share."""
    return _shaped(item, "ours, n=5", "qwen2.5-3b", machine, ARTICLE_STEPS)


def _arms(machine: Machine) -> list[Case]:
    return [
        ours("arms", machine),
        *(_shaped("arms", f"n={n}", "qwen2.5-3b", machine, ARMS_STEPS, f"rollout.n={n}") for n in (3, 8)),
        _shaped("arms", "PPO", "qwen2.5-3b", machine, ARMS_STEPS, "algorithm=ppo"),
    ]


def _memory(machine: Machine) -> list[Case]:
    """Return runs with a quarter of the batch: the peak comes from the largest micro-batch, which is full even so."""
    batch = ("data.train_batch_size=32", "actor_rollout_ref.actor.ppo_mini_batch_size=32")
    return [
        _shaped("memory", name.removeprefix("qwen2.5-").upper(), name, machine, MEMORY_STEPS, *batch)
        for name in ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b")
    ]


def _bare() -> tuple[str, ...]:
    """Return overrides without validation, checkpoints and W&B: only steps are measured."""
    off = ("trainer.test_freq=-1", "trainer.val_before_train=false", "trainer.save_freq=-1", "tracking=none")
    return (f"seed={SEED}", "task.train_size=2000", "task.test_size=8", *off)


def _shaped(item: str, name: str, model: str, machine: Machine, steps: int, *more: str) -> Case:
    """Return a run of a random model, all responses of full length, on all GPUs of this machine."""
    attention = "override_config.attn_implementation=packed_sdpa"
    overrides = (
        f"model={model}",
        f"model.path={MODEL}",
        "hardware=a100x1",  # all GPU presets are one file with other numbers: here with this machine's
        "hardware.name=here",
        f"hardware.gpus_per_node={machine.gpus}",
        f"hardware.memory_gib={machine.memory_gib}",
        "actor_rollout_ref.rollout.ignore_eos=true",
        f"reward.custom_reward_function.path={REWARD}",
        f"trainer.total_training_steps={steps}",
        *_bare(),
        *(() if machine.vllm else ("actor_rollout_ref.rollout.name=hf",)),
        *(() if machine.flash_attn else (f"+actor_rollout_ref.model.{attention}",)),
        *((f"+critic.model.{attention}",) if "algorithm=ppo" in more and not machine.flash_attn else ()),
    )
    return Case(item, name, (*overrides, *more), model)


def substitutes(machine: Machine) -> Sequence[str]:
    """Return what replaces the packages that this machine lacks, to be printed beside the figures."""
    found = []
    if machine.gpus and not machine.vllm:
        found.append("no vllm: the transformers rollout generated instead")
    if machine.gpus and not machine.flash_attn:
        found.append("no flash-attn: packed sdpa attention instead")
    return found
