"""From a resolved config to the run's identity and name.

Two configs with the same scientific content are the same run: same folder, same checkpoint, same W&B id.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from experiments.compose import flatten

# What cannot change the result, and so stays outside the identity. Everything else is scientific, a key that a newer
# veRL adds included, until it is listed here.
NOT_SCIENTIFIC = (
    r"runs_dir|data_dir|show",
    r"tracking\..*",
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
    # names, paths, what is written where and how often
    r"trainer\.(project_name|experiment_name|logger|default_local_dir|default_hdfs_dir|log_val_generations)",
    r"trainer\.(rollout_data_dir|validation_data_dir|checkpoint_callback_class|save_freq|max_(actor|critic)_ckpt_to_keep)",
    r"trainer\.(resume_mode|resume_from_path|del_local_ckpt_after_load|esi_redundant_time)",
    r"(.*\.)?(global_profiler|profiler|trace|prometheus|skip)\..*",
    # how long: more steps extend the same run
    r"trainer\.(total_training_steps|total_epochs)",
    # replaced by the content they point at: model.digest, task.digest, task.code
    r"model\.path|(actor_rollout_ref|critic)\.model\.(path|tokenizer_path|hf_config_path)",
    r"data\.(train_files|val_files)|reward\.custom_reward_function\.path",
    r"reward\.custom_reward_function\.reward_kwargs\.log_every",
)
_NOT_SCIENTIFIC = re.compile("|".join(f"(?:{pattern})" for pattern in NOT_SCIENTIFIC))

# The knobs of the article's ablations, in the order in which a run's name lists them.
KNOBS = (
    ("algorithm", "algorithm.adv_estimator"),
    ("temperature", "rollout.temperature"),
    ("n", "rollout.n"),
    ("kl", "kl.coef"),
    ("model", "model.name"),
    ("task", "task.name"),
    ("seed", "seed"),
)
ESTIMATOR_NAMES = {"gae": "ppo"}


def scientific(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of a resolved config that can change the result, by dotted key, sorted."""
    leaves = {key: _canonical(value) for key, value in flatten(config) if not _NOT_SCIENTIFIC.fullmatch(key)}
    return dict(sorted(leaves.items()))


def run_id(config: Mapping[str, Any]) -> str:
    """Return 8 hexadecimal digits that name the scientific content of a resolved config."""
    text = json.dumps(scientific(config), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_name(config: Mapping[str, Any]) -> str:
    """Return the run's knobs as text, e.g. "grpo,temperature=0.6,n=5,kl=0.001,seed=1"."""
    leaves = dict(flatten(config))
    parts = []
    for label, key in KNOBS:
        value = leaves.get(key)
        if label == "algorithm":
            parts.append(str(ESTIMATOR_NAMES.get(str(value), value)))
        elif label in ("model", "task"):
            continue
        else:
            parts.append(f"{label}={_canonical(value):.12g}" if isinstance(value, (int, float)) else f"{label}={value}")
    return ",".join(re.sub(r"[^\w.=+-]", "_", part) for part in parts)


def _canonical(value: Any) -> Any:
    """Return the value so that 1, 1.0 and True-as-bool have one spelling each; containers likewise."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return str(value)


NOT_READ = ("README.md", "metrics.json")  # a model's card and its measurements: nobody trains on them


@cache
def folder_digest(folder: Path, pattern: str = "*") -> str:
    """Return 12 hexadecimal digits that name the contents of a folder's files (not their times)."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob(pattern) if path.is_file()):
        if "__pycache__" in file.parts or file.name in NOT_READ:
            continue
        total.update(f"{file.relative_to(folder).as_posix()}\n".encode())
        with open(file, "rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:12]
