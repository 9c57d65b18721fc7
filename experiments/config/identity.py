"""The identity of a run, from its resolved config: two configs with the same scientific content are the same run.

The same run has the same folder, the same checkpoints and the same W&B id. Light, since the analysis imports this
module to learn which keys are scientific.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from experiments.config.unread import unread
from experiments.values import flatten

# Keys that cannot change the result and so stay outside the identity. Every other key is scientific. A key that a newer
# veRL adds is scientific too, until it is listed here.
NOT_SCIENTIFIC = (
    r"runs_dir|data_dir|notify|show|skip_invalid|sweeps",
    r"tracking\..*",
    # when an attempt is ended early
    r"watch\..*",
    # where it runs: kinds and numbers of devices, processes, ports, queues
    r"hardware\..*",
    r"ray_kwargs\..*|transfer_queue\..*",
    r"trainer\.(nnodes|n_gpus_per_node|device|ray_wait_register_center_timeout)",
    r"actor_rollout_ref\.rollout\.(nnodes|n_gpus_per_node|gpu_memory_utilization|free_cache_engine|max_num_seqs)",
    r"actor_rollout_ref\.rollout\.(max_num_batched_tokens|enforce_eager|tensor_model_parallel_size)",
    r"actor_rollout_ref\.rollout\.agent\.(num_workers|agent_loop_manager_class|agent_loop_config_path)",
    r"reward\.(num_workers|reward_model\.(nnodes|n_gpus_per_node))",
    r"data\.(dataloader_num_workers|filter_overlong_prompts_workers)",
    # how a batch is cut up to fit a device
    r".*\.(ppo_|log_prob_|forward_)?micro_batch_size(_per_gpu)?",
    r".*\.(use_dynamic_bsz|log_prob_use_dynamic_bsz|.*max_token_len_per_gpu)",
    r".*\.(param_offload|optimizer_offload|offload_policy|reshard_after_forward|forward_prefetch|use_torch_compile)",
    r".*\.(enable_gradient_checkpointing|use_remove_padding|override_config\.attn_implementation)",
    r".*\.entropy_from_logits_(with_chunking|chunk_size)",
    # names, paths, what is written where and how often
    r"trainer\.(project_name|experiment_name|logger|default_local_dir|default_hdfs_dir|log_val_generations)",
    r"trainer\.(rollout_data_dir|validation_data_dir|checkpoint_callback_class|save_freq|max_(actor|critic)_ckpt_to_keep)",
    r"trainer\.(del_local_ckpt_after_load|esi_redundant_time)",
    r"(.*\.)?(global_profiler|profiler|trace|prometheus)\..*",
    # how long: more steps extend the same run, unless the learning rate depends on them (see `scientific`)
    r"trainer\.(total_training_steps|total_epochs)",
    # paths: the content that they point at counts in their place (model.digest, task.digest, task.code, plugin.code)
    r"model\.(path|parameters|shape(\..*)?|countdown(\..*)?)|(actor_rollout_ref|critic)\.model\.(path|tokenizer_path|hf_config_path)",
    r"task\.(path|source)|data\.(train_files|val_files)|reward\.custom_reward_function\.path",
    r"reward\.custom_reward_function\.reward_kwargs\.log_every",
)
STEPS = "trainer.total_training_steps"
OPTIMIZERS = ("actor_rollout_ref.actor.optim", "critic.optim")
LEARNING_RATE = ("lr_scheduler_type", "warmup_style", "lr_warmup_steps", "lr_warmup_steps_ratio")
_NOT_SCIENTIFIC = re.compile("|".join(f"(?:{pattern})" for pattern in NOT_SCIENTIFIC))


@cache
def is_scientific(key: str) -> bool:
    """Return whether a dotted config key can change the result of a run."""
    return _NOT_SCIENTIFIC.fullmatch(key) is None


def scientific(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a resolved config that can change the result, in canonical form, by dotted key, sorted.

    A key that the run does not read is left out, e.g. the critic's learning rate in a run without a critic.
    """
    unread_keys = unread(config)
    leaves = dict(sorted(flatten(config)))
    steps = STEPS if any(_rate_depends_on_steps(leaves, optimizer) for optimizer in OPTIMIZERS) else None
    return {
        key: canonical(value)
        for key, value in leaves.items()
        if (is_scientific(key) or key == steps) and not unread_keys.fullmatch(key)
    }


def _rate_depends_on_steps(leaves: Mapping[str, Any], optimizer: str) -> bool:
    """Return whether an optimiser's learning rate depends on the number of steps: then more steps are another run."""
    kind, former_name, warm_up, share = (leaves.get(f"{optimizer}.{key}") for key in LEARNING_RATE)
    falls = any(name not in (None, "constant") for name in (kind, former_name))
    return falls or bool(share and not (isinstance(warm_up, int) and warm_up > 0))


def run_id(config: Mapping[str, Any]) -> str:
    """Return 8 hexadecimal digits that name the scientific content of a resolved config."""
    text = json.dumps(scientific(config), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def canonical(value: Any) -> Any:
    """Return the one spelling that equal values share: of 1 and 1.0, of 0.0 and -0.0, of a tuple and a list.

    True, 1 and "1" stay three values. config.verl.numbers_as_verl_has_them has already turned a text that veRL reads
    as a number into that number.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    return str(value)
