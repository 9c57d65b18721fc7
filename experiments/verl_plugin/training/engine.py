"""veRL's FSDP engines: with log-probs of our own, on the CPU with what it needs, and a critic without flash-attn.

Read in veRL 0.9.1: verl/workers/engine/fsdp/transformer_impl.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from tensordict import TensorDict
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

import experiments.verl_plugin.attention  # noqa: F401  registers packed_sdpa in the worker's process
from experiments.verl_plugin.training import kept_forward
from experiments.verl_plugin.training.kept_forward import KeptForward
from experiments.verl_plugin.training.log_probs import log_probs_of


class CPUEngine:
    """What both engines need on a CPU."""

    engine_config: Any
    model_config: Any

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        # veRL gives a forward-only engine (the reference policy) a pinned CPU offload; pinning raises without a GPU.
        config = self.engine_config
        self.engine_config = dataclasses.replace(config, forward_only=False, offload_policy=False)
        try:
            return super()._build_fsdp_module(module)  # type: ignore[misc]
        finally:
            self.engine_config = config


# On an NVIDIA GPU veRL takes the classes for that vendor rather than its own, which it registers for any vendor.
@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cuda", vendor="nvidia")
class EngineWithLMHead(FSDPEngineWithLMHead):
    """Actor and reference policy, whose log-probs and entropies are those of the sampler's distribution."""

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        """Return nested log_probs (and entropy).

        veRL rounds the temperature to the logits' type. Without flash-attn it also takes the log-softmax token by token
        in Python, and with chunks its entropy is compiled again for each new length of a micro-batch.
        """

        def asked(name: str, default: bool = False) -> bool:
            return kept_forward.flag(micro_batch, name, default)

        if asked("use_fused_kernels"):  # veRL computes the log-probs inside the model
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        offsets, packed = micro_batch["input_ids"].offsets(), asked("use_remove_padding", True)
        lengths = offsets.diff()
        if asked("calculate_sum_pi_squared") or asked("distillation_use_topk") or asked("distillation_only"):
            # veRL's own code, with the division done already
            divisor = output_args["temperature_rmpad"][:, None] if packed else output_args["temperature"][:, None, None]
            output.logits = output.logits / divisor
            done = {**output_args, "temperature_is_one": True}
            return super().prepare_model_outputs(output, done, micro_batch, logits_processor_func)
        if packed:
            logits, temperature = output.logits.squeeze(0), output_args["temperature_rmpad"]
        else:
            places = torch.arange(output.logits.size(1), device=lengths.device)
            logits = output.logits[places < lengths.unsqueeze(1)]
            temperature = output_args["temperature"].repeat_interleave(lengths)
        label = output_args["input_ids_rmpad_rolled"]
        log_probs, entropy = log_probs_of(logits, label, temperature, asked("calculate_entropy"))
        values = {"log_probs": log_probs} if entropy is None else {"log_probs": log_probs, "entropy": entropy}
        if packed:
            pad = output_args["pad_size"]
            values = {name: self._gather_and_unpad_packed(value, pad) for name, value in values.items()}
        return {name: torch.nested.nested_tensor_from_jagged(value, offsets) for name, value in values.items()}


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
class CPUEngineWithLMHead(CPUEngine, KeptForward, EngineWithLMHead):
    """Actor and reference policy on a CPU."""

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        """Return the same; the log-probs of packed sequences are kept where the micro-batch asks for it."""
        nested = super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        if kept_forward.flag(micro_batch, "use_remove_padding", True):
            self.keep(micro_batch, nested["log_probs"])
        return nested


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device="cuda", vendor="nvidia")
class EngineWithValueHead(FSDPEngineWithValueHead):
    """The critic, with the attention that its config names."""

    def _build_module(self) -> torch.nn.Module:
        # veRL's load_valuehead_model asks for flash_attention_2, whatever the config says.
        from transformers import AutoModelForTokenClassification

        torch.manual_seed(self.engine_config.seed)  # the value head's weights are drawn: equal seeds, equal weights
        attention = self.model_config.override_config.get("attn_implementation", "flash_attention_2")
        if attention == "flash_attention_2":
            return super()._build_module()
        config = self.model_config.hf_config
        config.num_labels = 1
        config.classifier_dropout = 0.0
        module = AutoModelForTokenClassification.from_pretrained(
            str(self.model_config.local_path), dtype=torch.float32, config=config, attn_implementation=attention
        )
        if self.model_config.enable_gradient_checkpointing:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return module


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device="cpu")
class CPUEngineWithValueHead(CPUEngine, EngineWithValueHead):
    """The critic on a CPU."""
