"""veRL's FSDP2 engines on the CPU with the shortcuts that a small model needs, and a critic without flash-attn.

Read in veRL 0.9.1: verl/workers/engine/fsdp/transformer_impl.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from tensordict import TensorDict
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from experiments.verl_plugin import attention
from experiments.verl_plugin.training import kept_forward
from experiments.verl_plugin.training.kept_forward import KeptForward


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


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")
class CPUEngineWithLMHead(CPUEngine, KeptForward, FSDPEngineWithLMHead):
    """Actor and reference policy."""

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        """Return nested log_probs (and entropy) from one log-softmax over a packed micro-batch.

        Without flash-attn veRL takes the log-softmax row by row in Python; that takes an eighth of a step.
        """

        def asked(name: str) -> bool:
            return kept_forward.flag(micro_batch, name)

        packed = self.model_config.override_config.get("attn_implementation") == attention.NAME
        if not packed or asked("calculate_sum_pi_squared") or asked("distillation_use_topk"):
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        offsets = micro_batch["input_ids"].offsets()
        logits = output.logits.squeeze(0)
        if not output_args["temperature_is_one"]:
            logits = logits / output_args["temperature_rmpad"].unsqueeze(-1)
        log_softmax = logits.log_softmax(-1)
        label = output_args["input_ids_rmpad_rolled"].unsqueeze(1)
        values = {"log_probs": log_softmax.gather(1, label).squeeze(1)}
        if asked("calculate_entropy"):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not asked(kept_forward.KEEP_FORWARD)):
                values["entropy"] = -(log_softmax.exp() * log_softmax).sum(-1)
        nested = {name: torch.nested.nested_tensor_from_jagged(value, offsets) for name, value in values.items()}
        self.keep(micro_batch, nested["log_probs"])
        return nested


# On an NVIDIA GPU veRL takes this class rather than its own, which it registers for any vendor.
@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device="cuda", vendor="nvidia")
class EngineWithValueHead(FSDPEngineWithValueHead):
    """The critic, with the attention that its config names."""

    def _build_module(self) -> torch.nn.Module:
        # veRL's load_valuehead_model asks for flash_attention_2, whatever the config says.
        from transformers import AutoModelForTokenClassification

        attention = self.model_config.override_config.get("attn_implementation", "flash_attention_2")
        if attention == "flash_attention_2":
            return super()._build_module()
        config = self.model_config.hf_config
        config.num_labels = 1
        config.classifier_dropout = 0.0
        torch.manual_seed(self.engine_config.seed)  # the value head's weights are drawn: equal seeds, equal weights
        module = AutoModelForTokenClassification.from_pretrained(
            str(self.model_config.local_path), dtype=torch.float32, config=config, attn_implementation=attention
        )
        if self.model_config.enable_gradient_checkpointing:
            module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return module


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], device="cpu")
class CPUEngineWithValueHead(CPUEngine, EngineWithValueHead):
    """The critic on a CPU."""
