"""The runs that benchmarks/gpu.py measures: five items, each of a few cases, each case one `experiments.run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_machine import Machine

SEED = 1
TINY_STEPS, VLLM_STEPS, ARTICLE_STEPS, ARMS_STEPS, MEMORY_STEPS = 10, 3, 3, 3, 2
# The reward of benchmarks/setting.py: a random model's responses differ in it, so that there is something to learn.
REWARD = Path(__file__).with_name("setting.py")
MODEL = "{model}"  # in an override: the folder of the case's random model

# What an item is for.
ITEMS = {
    "tiny": "the tiny model on CPU and GPU: same seed, same curve",
    "article": "3B shape: the article's step, with its settings and with ours",
    "vllm": "0.5B shape: the rollout engine has the trainer's weights",
    "arms": "3B shape: n = 3, 5, 8 and PPO, relative to n = 5",
    "memory": "0.5B to 7B shapes: peak memory against what preflight predicts",
}
# The article's responses had about this many tokens. A random model's have as many as they may.
LENGTH = 512
# With transformers' rollout in vLLM's place, which takes several times as long for a token.
SHORT = 256
# Without a GPU every case is rehearsed: the same overrides, on a model and a batch that a CPU has room for. The model
# has heads that vLLM knows, and more ids than its trained tokenizer has tokens, as the real shapes have.
REHEARSED_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 2000,
}
REHEARSED = (
    *(f"model.shape.{name}={size}" for name, size in REHEARSED_SHAPE.items()),
    "data.train_batch_size=8",
    "data.max_response_length=16",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
)


@dataclass(frozen=True)
class Case:
    """One run."""

    item: str
    name: str
    overrides: tuple[str, ...]
    seconds: int
    """An estimate for an H200: a start and two steps. The first step is slower than the others, and does not count."""
    model: str | None = None
    """A choice of conf/model whose shape it trains with random weights; None: the tiny model."""


def cases(items: Sequence[str], machine: Machine) -> list[Case]:
    """Return the cases of some items, the most telling first."""
    tiny = _tiny(machine)
    every = [*tiny[:2], *_article(machine), *_vllm(machine), *tiny[2:], *_arms(machine), *_memory(machine)]
    return [case for case in every if case.item in items]


def _tiny(machine: Machine) -> list[Case]:
    always = (f"trainer.total_training_steps={TINY_STEPS}", *_bare())
    return [
        Case("tiny", f"{algorithm} on {device}", (f"algorithm={algorithm}", f"hardware={device}", *always), 60)
        for algorithm in ("grpo", "ppo")
        for device in (("cuda", "cpu") if machine.gpus else ("cpu",))
    ]


def _article(machine: Machine) -> list[Case]:
    # As in the article, one engine over two GPUs, if there are two.
    split = f"actor_rollout_ref.rollout.tensor_model_parallel_size={min(2, machine.gpus) or 1}"
    theirs = ("experiment=article_settings", split, *_length(machine))
    return [
        ours("article", machine),
        _shaped("article", "article's settings", "qwen2.5-3b", machine, ARTICLE_STEPS, 260, *theirs),
    ]


def ours(item: str, machine: Machine) -> Case:
    """Return the baseline with our settings, which two items share."""
    return _shaped(item, "ours, n=5", "qwen2.5-3b", machine, ARTICLE_STEPS, 210, *_length(machine))


def _vllm(machine: Machine) -> list[Case]:
    """Return one run. Its learning rate moves the weights, so that a missing sync shows in the second step."""
    lengths = ("data.train_batch_size=32", "actor_rollout_ref.actor.ppo_mini_batch_size=32")
    more = (*lengths, "data.max_response_length=256", "actor_rollout_ref.actor.optim.lr=3e-4")
    return [_shaped("vllm", "0.5B", "qwen2.5-0.5b", machine, VLLM_STEPS, 130, *more)]


def _arms(machine: Machine) -> list[Case]:
    def arm(name: str, seconds: int, override: str) -> Case:
        return _shaped("arms", name, "qwen2.5-3b", machine, ARMS_STEPS, seconds, override, *_length(machine))

    levels = [arm("n=3", 170, "rollout.n=3"), arm("n=8", 280, "rollout.n=8"), arm("PPO", 300, "algorithm=ppo")]
    return [ours("arms", machine), *levels]


def _memory(machine: Machine) -> list[Case]:
    """Return runs with a quarter of the batch: the peak comes from the largest micro-batch, which is full even so."""
    batch = ("data.train_batch_size=32", "actor_rollout_ref.actor.ppo_mini_batch_size=32")
    sizes = {"qwen2.5-0.5b": 120, "qwen2.5-1.5b": 140, "qwen2.5-3b": 160, "qwen2.5-7b": 240}
    return [
        _shaped("memory", name.removeprefix("qwen2.5-").upper(), name, machine, MEMORY_STEPS, seconds, *batch)
        for name, seconds in sizes.items()
    ]


def _length(machine: Machine) -> tuple[str, ...]:
    return (f"data.max_response_length={LENGTH if machine.vllm else SHORT}",)


def _bare() -> tuple[str, ...]:
    """Return overrides without validation, checkpoints and W&B: only steps are measured."""
    off = ("trainer.test_freq=-1", "trainer.val_before_train=false", "trainer.save_freq=-1", "tracking=none")
    return (f"seed={SEED}", "task.train_size=2000", "task.test_size=8", *off)


def _shaped(item: str, name: str, model: str, machine: Machine, steps: int, seconds: int, *more: str) -> Case:
    """Return a run of a random model, all responses of full length, on all GPUs of this machine."""
    overrides = (
        f"model={model}",
        f"model.path={MODEL}",
        "actor_rollout_ref.rollout.ignore_eos=true",
        f"reward.custom_reward_function.path={REWARD}",
        f"trainer.total_training_steps={steps}",
        *_bare(),
    )
    if not machine.gpus:
        place: tuple[str, ...] = ("hardware=cpu_vllm" if machine.vllm else "hardware=cpu",)
        return Case(item, name, (*overrides, *place, *more, *REHEARSED), 40, model)
    place = (
        "hardware=a100x1",  # all GPU presets are one file with other numbers: here with this machine's
        "hardware.name=here",
        f"hardware.gpus_per_node={machine.gpus}",
        f"hardware.memory_gib={machine.memory_gib}",
        *(() if machine.vllm else ("actor_rollout_ref.rollout.name=hf",)),
    )
    return Case(item, name, (*overrides, *place, *more), seconds, model)


def substitutes(machine: Machine) -> Sequence[str]:
    """Return what replaces what this machine lacks, to be printed beside the figures."""
    if not machine.gpus:
        return ["a rehearsal without a GPU, with narrow models: that it ends is what it says"]
    found = []
    if not machine.vllm:
        found.append(f"no vllm: the transformers rollout generated instead, at most {SHORT} tokens a response")
    if not machine.flash_attn:
        found.append("no flash-attn: packed sdpa attention instead")
    return found
