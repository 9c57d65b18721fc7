"""trainer.v1.trainer_mode=ablation: veRL's synchronous trainer with what an ablation study needs.

- per-step accuracy, format and hack share of the training rollouts (veRL reports them for validation only), and the
  same score parts beside every dumped rollout;
- a sampling temperature that moves with the steps (conf/temperature/);
- the same order of samples whatever the order in which they arrived, so that a seed fixes a run;
- a score part that a sample lacks counts as 0, in training and in validation;
- the number of samples that failed in a step, as a metric. If all fail, veRL raises and the run stops;
  store/failures.py finds the cause in the log.

Read in veRL 0.9.1: verl/trainer/ppo/v1/{trainer_base,trainer_sync,replay_buffer}.py. The methods overridden here that
begin with an underscore are private to veRL: another version may change them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
import transfer_queue
from tensordict import NonTensorStack, TensorDict
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.debug import marked_timer
from verl.utils.seqlen_balancing import log_seqlen_unbalance

from experiments.verl_plugin.rollout import replica  # noqa: F401  registers rollout.name=hf in the trainer's process
from experiments.verl_plugin.training.kept_forward import KEEP_FORWARD, worth_keeping
from experiments.verl_plugin.training.temperature import at_step, set_temperature
from experiments.verl_plugin.training.validation import ValidationRows, named_by_n, numbered, one_each, pass_metrics

# The fields of a batch that a worker reads, for a forward pass and for an update. veRL would fetch all fields,
# texts and scores included, and each field of each sample is a message: that takes a tenth of a small model's step.
READ_FORWARD = {"input_ids", "position_ids", "loss_mask"}
READ_ACTOR = READ_FORWARD | {
    "prompts", "responses", "response_mask", "old_log_probs", "advantages", "ref_log_prob", "rollout_is_weights",
}  # fmt: skip
# The critic is updated first, and fields can only be narrowed: this set must contain READ_ACTOR.
READ_CRITIC = READ_ACTOR | {
    "values",
    "returns",
}
NUMBERS = (int, float, np.number, np.bool_)  # a truth value counts as 0 or 1, as in a validation
TRAINING = "(training)"
GREEDY_SOURCE = "_greedy"  # tasks/dataset.py adds it to the data source of the rows that are answered greedily
POLL_SECONDS = 0.1  # between looks for finished samples; veRL's 2 s is longer than a small step and has no config key


class OrderedReplayBuffer(ReplayBuffer):
    """veRL's replay buffer, which takes the oldest groups; among those of one step, in the order of their prompts.

    With algorithm.filter_groups more groups are sampled than a step needs. veRL would choose among them in the order of
    a set of texts, which differs from process to process.
    """

    def _select_prompt_uids(
        self, partition_id: str, sampleable_keys: set[str], batch_size: int
    ) -> tuple[list[str], dict[str, dict], dict[str, int]]:
        ordered: Any = sorted(sampleable_keys)
        return super()._select_prompt_uids(partition_id, ordered, batch_size)


@register_trainer("ablation")
class AblationTrainer(PPOTrainerSync):
    """One GRPO or PPO run; chosen by trainer.v1.trainer_mode=ablation."""

    _score_parts: dict[str, dict[str, Any]]
    _fetched = (0, 0)
    """A step, and how many prompts were fetched for it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known_parts: dict[str, set[str]] = {}

    @property
    def trainer_mode(self) -> str:
        return "sync"  # veRL chooses replay buffer, data loader and checkpoint contents by this word

    @trainer_mode.setter
    def trainer_mode(self, value: str) -> None: ...

    def _init_resource_pool_mgr(self) -> None:
        from experiments.verl_plugin.training.worker import PluginActorRolloutRefWorker, PluginTrainingWorker

        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping:
            worker = PluginTrainingWorker if role == Role.Critic else PluginActorRolloutRefWorker
            self.role_worker_mapping[role] = ray.remote(worker)

    def on_step_begin(self) -> None:
        """Set the step's temperature, for the sampler and for every log-prob that the step computes.

        veRL reads one key for all of these. Validation has keys of its own (val_kwargs).
        """
        super().on_step_begin()
        schedule = (self.config.actor_rollout_ref.rollout.get("custom") or {}).get("temperature")
        if schedule:
            temperature = at_step(schedule, self.global_steps)
            set_temperature(self, temperature)
            set_temperature(self.agent_loop_manager, temperature)
            workers = getattr(self.agent_loop_manager, "agent_loop_workers", ())  # each has a copy of the config
            ray.get([worker.__ray_call__.remote(set_temperature, temperature) for worker in workers])

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        validation = self.config.actor_rollout_ref.rollout.val_kwargs
        self.val_dataloader = ValidationRows(self.val_dataloader, validation.n if validation.temperature > 0 else 1)

    def _build_replay_buffer(self) -> Any:
        buffer = super()._build_replay_buffer()
        buffer.poll_interval = POLL_SECONDS
        if type(buffer) is ReplayBuffer:  # the user may have chosen a class of their own
            buffer.__class__ = OrderedReplayBuffer
        return buffer

    def prepare_step(self) -> Any:
        """Submit the step's prompts. On our fast path they are sampled here, so this counts as `gen`, too."""
        with marked_timer("gen", self.timing_raw, color="red"):
            return super().prepare_step()

    def _fetch_one_gen_batch(self) -> TensorDict:
        """Return the next prompts with ids that depend on the step and the row alone; veRL draws them at random.

        A step fetches prompts several times if data.gen_batch_size is smaller than its batch, or if groups without a
        signal are replaced (algorithm.filter_groups).
        """
        batch = super()._fetch_one_gen_batch()
        step, fetched = self._fetched
        first = fetched if step == self.global_steps else 0
        self._fetched = self.global_steps, first + len(batch)
        rows = range(first, first + len(batch))
        batch["uid"] = NonTensorStack(*(f"{self.global_steps:08d}-{row:06d}" for row in rows))
        return batch

    def _balance_batch(
        self, batch: Any, metrics: Any, logging_prefix: str = "global_seqlen", keep_minibatch: bool = False
    ) -> Any:
        batch.reorder(sorted(range(len(batch.keys)), key=lambda index: _sample_key(batch.keys[index])))
        if self.actor_rollout_wg.world_size > 1:
            return super()._balance_batch(batch, metrics, logging_prefix, keep_minibatch)
        # One rank gets all samples, in this order. To find that out, veRL needs a twentieth of a small model's step.
        batch = upsample_batch_to_divisible_size(
            batch, self._get_required_batch_multiple(1), self.tokenizer.eos_token_id
        )
        lengths = [tag["seq_len"] for tag in batch.tags]
        metrics.update(log_seqlen_unbalance(lengths, [list(range(len(lengths)))], logging_prefix))
        return batch

    def _step_once(self, metrics: dict[str, Any], timing_raw: dict[str, Any], sample_batch_size: int) -> Any:
        batch = super()._step_once(metrics, timing_raw, sample_batch_size)
        expected = sample_batch_size * self.config.actor_rollout_ref.rollout.n
        metrics["rollout/failed_samples"] = expected - sum(not tag.get("is_padding", False) for tag in batch.tags)
        return batch

    def _narrow(self, batch: Any, read: set[str]) -> Any:
        """Return the batch, of whose fields a worker's next call fetches only those that are in `read`."""
        batch.fields = sorted(read if batch.fields is None else read.intersection(batch.fields))
        return batch

    def _compute_old_log_prob(self, batch: Any, metrics: Any) -> Any:
        ranks = self.actor_rollout_wg.world_size
        batch.extra_info[KEEP_FORWARD] = worth_keeping(self.config, len(batch.keys), ranks)
        batch = super()._compute_old_log_prob(self._narrow(batch, READ_FORWARD), metrics)
        batch.extra_info[KEEP_FORWARD] = False
        return batch

    def _compute_ref_log_prob(self, batch: Any, metrics: Any) -> Any:
        return super()._compute_ref_log_prob(self._narrow(batch, READ_FORWARD), metrics)

    def _compute_values(self, batch: Any, metrics: Any) -> Any:
        return super()._compute_values(self._narrow(batch, READ_FORWARD), metrics)

    def _update_critic(self, batch: Any, metrics: Any) -> Any:
        return super()._update_critic(self._narrow(batch, READ_CRITIC), metrics)

    def _update_actor(self, batch: Any, metrics: Any) -> Any:
        return super()._update_actor(self._narrow(batch, READ_ACTOR), metrics)

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, Any], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        real = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        self._score_parts = self._read_score_parts(real, batch.partition_id)
        said = list(self._score_parts.values())
        for part in sorted(self._numeric_parts(said, TRAINING)):
            metrics[f"reward/{part}/mean"] = float(np.mean([as_number(parts.get(part)) for parts in said]))
        metrics["rollout/temperature"] = float(self.config.actor_rollout_ref.rollout.temperature)

    def _numeric_parts(self, said: list[dict[str, Any]], source: str) -> set[str]:
        """Return the score parts that are numbers in any of these samples, or were in earlier ones of the source."""
        known = self._known_parts.setdefault(source, set())
        known |= {name for parts in said for name, value in parts.items() if isinstance(value, NUMBERS)}
        return known

    @staticmethod
    def _read_score_parts(keys: list[str], partition: str) -> dict[str, dict[str, Any]]:
        """Return what the reward function said of each sample, by the sample's key."""
        data = transfer_queue.kv_batch_get(keys=keys, partition_id=partition, select_fields=["extra_fields"])
        extras = list(data["extra_fields"])
        return {key: whole(extra.get("reward_extra_info", {})) for key, extra in zip(keys, extras, strict=True)}

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list],
        *rest: Any,
        **more: Any,
    ) -> dict[str, float]:
        """Return the metrics of a validation. A score part that a sample lacks counts as 0; veRL would leave it out.

        The samples of a data source are looked at together: another source may be scored by other parts. `pred` is
        veRL's name for an answer, over which it takes a majority vote; a task that returns it gets all of veRL's own
        metrics.
        """
        infos = {part: list(values) for part, values in reward_extra_infos_dict.items()}
        expected = more.get("expected_acc_counts") or {}
        if "score" in infos:  # a bare number has no part of that name; it is the reward
            pairs = zip(infos["score"], infos["reward"], strict=True)
            infos["score"] = [reward if score is None else score for score, reward in pairs]
        for source in set(data_sources):
            rows = [row for row, own in enumerate(data_sources) if own == source]
            said = [{part: values[row] for part, values in infos.items()} for row in rows]
            for part in self._numeric_parts(said, source.removesuffix(GREEDY_SOURCE)) - {"pred"}:
                values = infos.setdefault(part, [None] * len(data_sources))
                for row in rows:
                    values[row] = as_number(values[row])
        if "pred" in infos or max(expected.values(), default=1) == 1:
            return super()._val_metrics_update(data_sources, sample_uids, infos, *rest, **more)
        # Of several answers to a row veRL would also draw a thousand samples with replacement, row by row and score
        # by score. That takes 30 s for 256 rows with four answers, and is biased. So each answer is a row of its own.
        means = super()._val_metrics_update(
            data_sources, numbered(sample_uids), infos, *rest, **{**more, "expected_acc_counts": one_each(expected)}
        )
        most = {source: max(n for (own, _), n in expected.items() if own == source) for source, _ in expected}
        passes = pass_metrics(data_sources, sample_uids, infos.get("acc", [None] * len(sample_uids)), expected)
        return named_by_n(means, most) | passes

    def _dump_generations(
        self,
        inputs: list[str],
        outputs: list[str],
        gts: list[Any],
        scores: list[float],
        reward_extra_infos_dict: dict[str, list],
        dump_path: str,
    ) -> None:
        """Dump rollouts as JSON lines. veRL leaves out training's score parts and validation's data sources."""
        if dump_path == self.config.trainer.validation_data_dir and "data_source" not in reward_extra_infos_dict:
            sources = self.val_dataloader.sources()
            own = [sources.get(str(key).rsplit("_", 2)[0], "unknown") for key in reward_extra_infos_dict["uid"]]
            reward_extra_infos_dict = {**reward_extra_infos_dict, "data_source": own}
        if dump_path == self.config.trainer.rollout_data_dir:
            parts = [self._score_parts.get(key, {}) for key in reward_extra_infos_dict["uid"]]
            names = sorted({name for part in parts for name in part})
            reward_extra_infos_dict = {
                **reward_extra_infos_dict,
                **{name: [part.get(name) for part in parts] for name in names},
            }
        super()._dump_generations(inputs, outputs, gts, scores, reward_extra_infos_dict, dump_path)


def _sample_key(key: str) -> tuple[str, int, int]:
    """Return the key "{uid}_{session}_{index}" as a tuple that sorts by number."""
    uid, session, index = key.rsplit("_", 2)
    return uid, int(session), int(index)


def whole(parts: dict[str, Any]) -> dict[str, Any]:
    """Return a sample's score parts with its score: of a bare number, veRL's reward manager keeps it as `acc` alone."""
    return {"score": parts["acc"], **parts} if "acc" in parts else parts


def as_number(value: Any) -> float:
    """Return a score part as a number; 0 for a sample that lacks the part or has a text in its place.

    A score function may return its parts for some responses only (a bare 0.0 for those that it can't read).
    """
    return float(value) if isinstance(value, NUMBERS) else 0.0
