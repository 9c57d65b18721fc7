"""Test experiments/verl_plugin/training/log_probs.py, alone and in the engine: exact temperatures, few large calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import verl.utils.torch_functional as verl_functional
from omegaconf import OmegaConf
from tensordict import TensorDict
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM
from verl.utils.experimental.torch_functional import FusedLinearForPPO
from verl.utils.tensordict_utils import assign_non_tensor
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from experiments.tiny_model import WEIGHTS
from experiments.verl_plugin import attention
from experiments.verl_plugin.rollout.draw import draw_tokens
from experiments.verl_plugin.training import log_probs
from experiments.verl_plugin.training.engine import EngineWithLMHead
from tests.experiments.verl_plugin.pretend_cuda import PretendCUDA
from tests.experiments.verl_plugin.random_models import make_draw

ROWS = ([5, 9, 12, 7], [3, 8], [11, 4, 6, 10, 13])
LOSS = {"log_probs": 0.7, "entropy": -0.2}  # what the mean of each counts in the loss of the tests


class Distribution:
    """What an exact computation gives for some logits, in float64."""

    def __init__(self, logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> None:
        self.logits = logits.detach().double().requires_grad_()
        log_softmax = (self.logits / temperature).log_softmax(-1)
        self.log_probs = log_softmax.gather(1, labels.unsqueeze(1)).squeeze(1)
        self.entropy = -(log_softmax.exp() * log_softmax).sum(-1)
        (LOSS["log_probs"] * self.log_probs.mean() + LOSS["entropy"] * self.entropy.mean()).backward()


def prepared(kind: type[FSDPEngineWithLMHead], dtype: torch.dtype, packed: bool) -> Any:
    """Return an engine of this class without processes, on the shipped model in this type."""

    class Engine(kind):  # type: ignore[valid-type, misc]
        def __init__(self) -> None:
            name = attention.NAME if packed else "sdpa"
            self.module = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=dtype, attn_implementation=name).eval()
            self.module.register_forward_hook(self.remember)
            self.pad_to_length, self.use_ulysses_sp, self._autocast_dtype = None, False, dtype
            self.engine_config = OmegaConf.create(
                {"entropy_checkpointing": False, "entropy_from_logits_with_chunking": packed, **CHUNKS}
            )
            self.compute_entropy_from_logits = getattr(
                verl_functional, "entropy_from_logits" + packed * "_with_chunking"
            )

        def remember(self, module: Any, inputs: Any, output: Any) -> None:
            self.logits = output.logits.detach().clone()
            if output.logits.requires_grad:
                output.logits.register_hook(lambda gradient: setattr(self, "gradient", gradient.clone()))

        def get_data_parallel_group(self) -> None:
            return None

    return Engine()


CHUNKS = {"entropy_from_logits_chunk_size": 2048}


def batch(rows: Any, temperature: float, packed: bool, **flags: Any) -> TensorDict:
    ids = torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)
    positions = torch.nested.as_nested_tensor([torch.arange(len(row)) for row in rows], layout=torch.jagged)
    made = TensorDict({"input_ids": ids, "position_ids": positions}, batch_size=[len(rows)])
    assign_non_tensor(made, temperature=temperature, use_remove_padding=packed, calculate_entropy=True, **flags)
    return made


def mean(model_output: dict[str, torch.Tensor], data: TensorDict, dp_group: None) -> tuple[torch.Tensor, dict]:
    loss = sum(LOSS[name] * value.values().mean() for name, value in model_output.items() if name in LOSS)
    return loss, {name: value.values().detach() for name, value in model_output.items()}


def real_rows(engine: Any, padded: torch.Tensor) -> torch.Tensor:
    """Return the rows of a (1, N, V) or (B, S, V) tensor that belong to a token."""
    if len(padded) == 1:
        return padded[0]
    return torch.cat([padded[index, : len(row)] for index, row in enumerate(ROWS)])


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.2])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_temperature_is_exact_whatever_the_logits_type(
    dtype: torch.dtype, packed: bool, temperature: float
) -> None:
    """Through veRL's own forward_step, with the logits that the model gave in it."""
    engine = prepared(EngineWithLMHead, dtype, packed)
    loss, output = engine.forward_step(batch(ROWS, temperature, packed), mean, forward_only=False)
    loss.backward()
    labels = torch.tensor([token for row in ROWS for token in row]).roll(-1)
    exact = Distribution(real_rows(engine, engine.logits), labels, temperature)
    assert engine.logits.dtype == dtype
    for name in ("log_probs", "entropy"):
        assert output["metrics"][name].dtype == torch.float32
        torch.testing.assert_close(output["metrics"][name].double(), getattr(exact, name), rtol=0, atol=1e-5)
    gradient, wanted = real_rows(engine, engine.gradient).double(), exact.logits.grad
    assert wanted is not None and wanted.abs().max() > 0.01
    torch.testing.assert_close(gradient, wanted, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_verl_rounds_the_temperature_where_we_divide_for_it(packed: bool) -> None:
    """A request that only veRL's own code answers is answered at the exact temperature, too."""
    rows, asked = batch(ROWS, 0.6, packed), batch(ROWS, 0.6, packed, calculate_sum_pi_squared=True)
    engine, theirs = (prepared(kind, torch.bfloat16, packed) for kind in (EngineWithLMHead, FSDPEngineWithLMHead))
    with torch.no_grad():
        ours, answered, rounded = (
            who.forward_step(what, mean, forward_only=True)[1]["metrics"]
            for who, what in ((engine, rows), (engine, asked), (theirs, rows))
        )
    probability = (real_rows(engine, engine.logits).double() / 0.6).softmax(-1)
    torch.testing.assert_close(answered["sum_pi_squared"].double(), probability.square().sum(-1), rtol=1e-5, atol=0)
    torch.testing.assert_close(answered["log_probs"], ours["log_probs"], rtol=0, atol=1e-5)
    assert (rounded["log_probs"].float() - ours["log_probs"]).abs().max() > 0.01


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.2])
def test_sampler_and_trainer_divide_by_the_same(temperature: float) -> None:
    """veRL's fused kernels divide by the exact temperature, and round the quotient."""
    torch.manual_seed(1)
    hidden, head = torch.randn(64, 32).bfloat16(), torch.randn(300, 32).bfloat16()
    logits = hidden @ head.t()
    ids, sampled = draw_tokens(logits, make_draw(64, 1, temperature=temperature), 0)
    fused, _ = FusedLinearForPPO()(hidden, head, ids, temperature)
    assert ((fused - sampled).abs().max() > 0.01) == (temperature != 1.0)
    trained, _ = log_probs.log_probs_of(logits, ids, torch.full((64,), temperature), False)
    torch.testing.assert_close(trained, sampled, rtol=0, atol=1e-5)


class Calls(TorchDispatchMode):
    """Counts torch's calls, and knows the size of the largest tensor in float32 that one of them made."""

    def __init__(self) -> None:
        super().__init__()
        self.number = self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.number += 1
        made = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        self.largest = max([self.largest, *(value.numel() for value in made if value.dtype == torch.float32)])
        return result


def calls(tokens: int, compute: Any) -> Calls:
    logits, labels = torch.randn(tokens, 64).bfloat16(), torch.arange(tokens) % 64
    with Calls() as counted:
        compute(logits, labels)
    return counted


def test_calls_and_copies_do_not_grow_with_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 512 tokens; veRL's way without flash-attn is a call or more for each token."""
    monkeypatch.setattr(log_probs, "CHUNK", 512 * 64)

    def ours(logits: torch.Tensor, labels: torch.Tensor) -> Any:
        return log_probs.log_probs_of(logits, labels, torch.ones(len(labels)), True)

    one, two = calls(512, ours), calls(1024, ours)
    assert one.number == calls(50, ours).number < 25 and two.number < 2 * one.number
    assert one.largest == two.largest == 512 * 64
    assert calls(512, verl_functional.logprobs_from_logits_v2).number > 3 * 512


def test_the_gradient_takes_the_logits_place_so_there_is_one_backward_pass() -> None:
    logits = torch.randn(6, 9).requires_grad_() * 1
    values, _ = log_probs.log_probs_of(logits, torch.arange(6), torch.ones(6), False)
    (gradient,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
    assert gradient.data_ptr() == logits.data_ptr()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        values.sum().backward()


def test_no_length_of_a_micro_batch_compiles_anything() -> None:
    """With chunks and torch.compile, as in our presets: veRL's own engine compiles for most new lengths."""

    def compiled(kind: type[FSDPEngineWithLMHead]) -> int:
        torch._dynamo.reset()
        counters.clear()
        engine = prepared(kind, torch.float32, True)
        engine.engine_config.entropy_from_logits_chunk_size = 4
        engine.compute_entropy_from_logits = torch.compile(
            verl_functional.entropy_from_logits_with_chunking, dynamic=True, backend="eager"
        )
        with torch.no_grad():
            for length in range(5, 19):
                engine.forward_step(batch([[7] * length], 1.0, True), mean, forward_only=True)
                if counters["stats"]["unique_graphs"] > 1:
                    break
        return int(counters["stats"]["unique_graphs"])

    assert compiled(EngineWithLMHead) == 0
    assert compiled(FSDPEngineWithLMHead) > 1
    torch._dynamo.reset()


def test_it_is_the_same_on_a_device() -> None:
    torch.manual_seed(2)
    logits, labels, temperature = torch.randn(5, 11), torch.arange(5), torch.full((5,), 0.7)
    expected = log_probs.log_probs_of(logits, labels, temperature, True)
    with PretendCUDA():
        there = log_probs.log_probs_of(logits.to("cuda"), labels.to("cuda"), temperature.to("cuda"), True)
        for value, wanted in zip(there, expected, strict=True):
            assert value is not None and value.device.type == "cuda"
            torch.testing.assert_close(value.cpu(), wanted)
