"""The scripts of the article and of TinyZero, argument by argument, and what became of each argument in veRL 0.9.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROLLOUT, ACTOR, REF = "actor_rollout_ref.rollout", "actor_rollout_ref.actor", "actor_rollout_ref.ref"

_FILES = {"data.train_files": "$DATA_DIR/train.parquet", "data.val_files": "$DATA_DIR/test.parquet"}
_LENGTHS = {"data.max_prompt_length": 256, "data.max_response_length": 1024}
_TRAINER = {
    "trainer.logger": "['wandb']",
    "+trainer.val_before_train": False,
    "trainer.default_hdfs_dir": None,
    "trainer.n_gpus_per_node": 2,
    "trainer.nnodes": 1,
}
_NAMES = {
    "trainer.project_name": "TinyZero",
    "trainer.experiment_name": "$EXPERIMENT_NAME",
    "trainer.total_epochs": 15,
}
_KL = {"algorithm.kl_ctrl.kl_coef": 0.001}
SCRIPTS: dict[str, Mapping[str, Any]] = {
    "article_grpo": {
        "algorithm.adv_estimator": "grpo",
        **_FILES,
        "data.train_batch_size": 128,
        "data.val_batch_size": 640,
        **_LENGTHS,
        "actor_rollout_ref.model.path": "$BASE_MODEL",
        f"{ACTOR}.optim.lr": 1e-6,
        "actor_rollout_ref.model.use_remove_padding": True,
        f"{ACTOR}.ppo_mini_batch_size": 64,
        f"{ACTOR}.ppo_micro_batch_size": 4,
        f"{ACTOR}.use_kl_loss": True,
        f"{ACTOR}.kl_loss_coef": 0.001,
        f"{ACTOR}.kl_loss_type": "low_var_kl",
        "actor_rollout_ref.model.enable_gradient_checkpointing": True,
        f"{ACTOR}.fsdp_config.param_offload": False,
        f"{ACTOR}.fsdp_config.grad_offload": False,
        f"{ACTOR}.fsdp_config.optimizer_offload": False,
        f"{ROLLOUT}.log_prob_micro_batch_size": 4,
        f"{ROLLOUT}.tensor_model_parallel_size": 2,
        f"{ROLLOUT}.name": "vllm",
        f"{ROLLOUT}.gpu_memory_utilization": 0.4,
        f"{ROLLOUT}.n": 5,
        f"{ROLLOUT}.temperature": 1.0,
        f"{REF}.log_prob_micro_batch_size": 2,
        f"{REF}.fsdp_config.param_offload": True,
        **_KL,
        "trainer.critic_warmup": 0,
        **_TRAINER,
        "trainer.save_freq": 10,
        "trainer.test_freq": 10,
        **_NAMES,
    },
    "article_ppo": {
        **_FILES,
        "data.train_batch_size": 128,
        "data.val_batch_size": 640,
        **_LENGTHS,
        "actor_rollout_ref.model.path": "$BASE_MODEL",
        f"{ACTOR}.optim.lr": 1e-6,
        f"{ACTOR}.ppo_mini_batch_size": 64,
        f"{ACTOR}.ppo_micro_batch_size": 4,
        f"{ROLLOUT}.log_prob_micro_batch_size": 4,
        f"{ROLLOUT}.tensor_model_parallel_size": 2,
        f"{ROLLOUT}.gpu_memory_utilization": 0.4,
        f"{REF}.log_prob_micro_batch_size": 2,
        "critic.optim.lr": 1e-5,
        "critic.model.path": "$BASE_MODEL",
        "critic.ppo_micro_batch_size": 4,
        **_KL,
        **_TRAINER,
        "trainer.save_freq": 10,
        "trainer.test_freq": 10,
        **_NAMES,
    },
    "tinyzero_ppo": {
        **_FILES,
        "data.train_batch_size": 256,
        "data.val_batch_size": 1312,
        **_LENGTHS,
        "actor_rollout_ref.model.path": "$BASE_MODEL",
        f"{ACTOR}.optim.lr": 1e-6,
        f"{ACTOR}.ppo_mini_batch_size": 128,
        f"{ACTOR}.ppo_micro_batch_size": 8,
        f"{ROLLOUT}.log_prob_micro_batch_size": 8,
        f"{ROLLOUT}.tensor_model_parallel_size": 2,
        f"{ROLLOUT}.gpu_memory_utilization": 0.4,
        f"{REF}.log_prob_micro_batch_size": 4,
        "critic.optim.lr": 1e-5,
        "critic.model.path": "$BASE_MODEL",
        "critic.ppo_micro_batch_size": 8,
        **_KL,
        **_TRAINER,
        "trainer.save_freq": 100,
        "trainer.test_freq": 100,
        **_NAMES,
    },
}

_PER_GPU = "was in prompts over all GPUs, is now in responses of each: on two GPUs half of it times n"
# Old key -> (new key or None, why key or value differ).
CHANGES: dict[str, tuple[str | None, str]] = {
    "data.train_files": (
        "data.train_files",
        "null: built by the plan with the same prompts; task.source=hub takes the article's rows",
    ),
    "data.val_files": (
        "data.val_files",
        "null: likewise; 1,024 problems, sampled and greedy, none of them in training",
    ),
    "actor_rollout_ref.model.path": ("actor_rollout_ref.model.path", "Qwen2.5-3B, by its name on the hub"),
    "critic.model.path": ("critic.model.path", "likewise"),
    f"{ACTOR}.ppo_micro_batch_size": (f"{ACTOR}.ppo_micro_batch_size_per_gpu", _PER_GPU),
    f"{ROLLOUT}.log_prob_micro_batch_size": (f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu", _PER_GPU),
    f"{REF}.log_prob_micro_batch_size": (f"{REF}.log_prob_micro_batch_size_per_gpu", _PER_GPU),
    "critic.ppo_micro_batch_size": (
        "critic.ppo_micro_batch_size_per_gpu",
        f"{_PER_GPU}; veRL 0.9.1 cuts by `critic.ppo_infer_max_token_len_per_gpu` in its place, set to those samples'",
    ),
    f"{ACTOR}.fsdp_config.grad_offload": (None, "gone: veRL frees gradients after the update; nothing was offloaded"),
    "trainer.logger": ("trainer.logger", "tracking=offline: W&B's files, and a metrics.jsonl of the run"),
    "+trainer.val_before_train": ("trainer.val_before_train", "veRL has the key now"),
    "trainer.project_name": ("trainer.project_name", "tracking.project"),
    "trainer.experiment_name": ("trainer.experiment_name", "null: the run's name, filled in by the plan"),
    "trainer.total_epochs": (None, "gone: steps end a run, trainer.total_training_steps=550 as in the article's text"),
}
