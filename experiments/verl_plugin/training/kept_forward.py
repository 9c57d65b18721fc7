"""Keep the forward pass that gives the old log-probs for the update that follows: it saves a tenth of a step on a CPU.

If a step has one update of the whole batch, the update's forward pass is the one of the old log-probs: the same
weights, the same tokens. veRL computes it twice, the first time without a graph. Here the first keeps its graph, and
the update goes back through it.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils

KEEP_FORWARD = "keep_forward"  # a flag of a batch: keep the graph of its log-probs


def worth_keeping(config: Any, samples: int, ranks: int) -> bool:
    """Return whether the actor's update comes next after its old log-probs, both with one pass over all samples.

    Args: config, the whole run's; samples, how many the step has; ranks, how many workers share them.
    """
    model = config.actor_rollout_ref
    actor, rollout = model.actor, model.rollout
    at_once = (
        actor.ppo_mini_batch_size * rollout.n,
        (actor.ppo_micro_batch_size_per_gpu or 0) * ranks,
        (rollout.log_prob_micro_batch_size_per_gpu or 0) * ranks,
    )
    split = min(at_once) < samples or actor.use_dynamic_bsz or rollout.log_prob_use_dynamic_bsz
    other = actor.shuffle or actor.calculate_entropy or actor.entropy_coeff or model.model.enable_gradient_checkpointing
    return config.trainer.device == "cpu" and not split and not other


def flag(batch: TensorDict, name: str, default: bool = False) -> bool:
    """Return a flag of a batch that a worker got; the default if the batch does not have it."""
    return bool(tensordict_utils.get_non_tensor_data(data=batch, key=name, default=default))


class KeptForward:
    """A base class of an engine, before veRL's own. The engine's `prepare_model_outputs` calls `keep`."""

    module: torch.nn.Module
    _kept: tuple[TensorDict, torch.Tensor] | None = None

    def keep(self, micro_batch: TensorDict, log_probs: torch.Tensor) -> None:
        """Remember nested log_probs with their graph, if the micro-batch is flagged, until the next forward pass."""
        if flag(micro_batch, KEEP_FORWARD) and torch.is_grad_enabled():
            self._kept = (micro_batch, log_probs)

    def forward_step(self, micro_batch: TensorDict, loss_function: Any, forward_only: bool) -> tuple[Any, dict]:
        """Return (loss, outputs) as veRL does. An update of a kept micro-batch uses the kept log-probs."""
        kept, self._kept = self._kept, None
        if forward_only or kept is None or flag(micro_batch, "calculate_entropy") or not _same(kept[0], micro_batch):
            keep = flag(micro_batch, KEEP_FORWARD) and not self._drops_out()
            with torch.set_grad_enabled(keep or not forward_only):
                return super().forward_step(micro_batch, loss_function, forward_only)  # type: ignore[misc]
        output, group = {"log_probs": kept[1]}, self.get_data_parallel_group()  # type: ignore[attr-defined]
        loss, metrics = loss_function(model_output=output, data=micro_batch, dp_group=group)
        return loss, {"model_output": {}, "loss": loss.detach().item(), "metrics": metrics}

    def _drops_out(self) -> bool:
        """Return whether the model has dropout: then an update needs another forward pass than the old log-probs."""
        layers = (layer for layer in self.module.modules() if isinstance(layer, torch.nn.Dropout))
        return bool(getattr(self.module.config, "attention_dropout", 0)) or any(layer.p for layer in layers)


def _same(one: TensorDict, other: TensorDict) -> bool:
    """Return whether two micro-batches have the same tokens and the same temperatures."""
    ids, others = one["input_ids"], other["input_ids"]
    temperatures = (torch.as_tensor(batch["temperature"]) for batch in (one, other))
    same = torch.equal(ids.offsets(), others.offsets()) and torch.equal(ids.values(), others.values())
    return same and torch.equal(*temperatures)
