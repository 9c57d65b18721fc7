"""The new names of modules that have moved: a user's own file or an old run's frozen config may have the old ones."""

from __future__ import annotations

from experiments.project import PACKAGE_DIR

PACKAGE = "experiments"
# Old name: new name, both inside the package.
MOVED = {
    "attempt": "attempt.execution",
    "batches": "checks.batch_sizes",
    "choices": "config.choices",
    "command": "planning.command",
    "compose": "config.compose",
    "composer": "config.sweep_compose",
    "config_yaml": "store.config_yaml",
    "cost": "planning.cost",
    "cpu_run": "checks.cpu",
    "cpu_vllm": "checks.cpu",
    "data_files": "checks.data_files",
    "failures": "store.failures",
    "files": "store.files",
    "fitting": "checks.gpu_memory",
    "fork_client": "processes.fork_client",
    "fork_server": "processes.fork_server",
    "frozen": "store.frozen",
    "hub_model": "models.hub",
    "identity": "config.identity",
    "knobs": "checks.value_rules",
    "launchers.helper": "processes.helper",
    "launchers.slurm": "launchers.slurm.launch",
    "launchers.standby": "processes.standby",
    "local_config": "config.local_file",
    "memory": "models.memory",
    "model_folder": "models.folder",
    "names": "config.names",
    "objective": "checks.unread_keys",
    "overrides": "config.overrides",
    "parallelism": "checks.parallelism",
    "parity": "config.parity",
    "placement": "models.placement",
    "plan": "planning.plan",
    "plan_table": "planning.show",
    "preflight": "checks.preflight",
    "processes": "processes.reaping",
    "python": "project",
    "ray_head": "processes.ray_head",
    "ray_python": "processes.ray_python",
    "report": "launchers.progress",
    "rule": "checks.rule",
    "rundir": "store.rundir",
    "slurm.commands": "launchers.slurm.commands",
    "slurm.holds": "launchers.slurm.holds",
    "slurm.job": "launchers.slurm.in_job",
    "slurm.jobs": "launchers.slurm.queue",
    "slurm.ray_cluster": "launchers.slurm.ray_cluster",
    "slurm.resources": "launchers.slurm.resources",
    "slurm.script": "launchers.slurm.script",
    "slurm.state": "launchers.slurm.settle",
    "slurm.submission": "launchers.slurm.submission",
    "slurm.unfinished": "launchers.slurm.half_submitted",
    "snapshot": "store.code_copy",
    "sweep": "config.sweep_files",
    "sweepers.ablation": "config.sweep_jobs",
    "task_runner": "attempt.task_runner",
    "tasks.countdown.audit": "planning.data_audit",
    "verl_plugin.agent_loop": "verl_plugin.rollout.agent_loop",
    "verl_plugin.checkpoint": "verl_plugin.lifecycle.checkpoint",
    "verl_plugin.decoding": "verl_plugin.rollout.generate_any",
    "verl_plugin.engine": "verl_plugin.training.engine",
    "verl_plugin.kept_forward": "verl_plugin.training.kept_forward",
    "verl_plugin.kv_cache": "verl_plugin.rollout.kv_cache",
    "verl_plugin.platform": "verl_plugin.lifecycle.platform",
    "verl_plugin.rollout": "verl_plugin.rollout.server",
    "verl_plugin.sampler": "verl_plugin.rollout.generate_qwen2",
    "verl_plugin.sampling": "verl_plugin.rollout.draw",
    "verl_plugin.stopping": "verl_plugin.lifecycle.stopping",
    "verl_plugin.temperature": "verl_plugin.training.temperature",
    "verl_plugin.trainer": "verl_plugin.training.trainer",
    "verl_plugin.vllm_distribution": "verl_plugin.lifecycle.vllm_distribution",
    "verl_plugin.vllm_worker": "verl_plugin.rollout.vllm_worker",
    "verl_plugin.worker": "verl_plugin.training.worker",
    "warning": "store.warning",
}
AGENT_LOOPS = "experiments/verl_plugin/agent_loops.yaml"  # where it was


def new_name(name: str) -> str | None:
    """Return the new dotted name of a module that has moved, or of something in it; None if it has not moved."""
    top, *parts = name.split(".")
    if top != PACKAGE:
        return None
    for end in range(len(parts), 0, -1):
        if PACKAGE_DIR.joinpath(*parts[:end]).with_suffix(".py").is_file():
            return None  # e.g. verl_plugin.rollout.draw, though verl_plugin.rollout itself, once a module, has moved
        if (old := ".".join(parts[:end])) in MOVED:
            return ".".join([PACKAGE, MOVED[old], *parts[end:]])
    return None


def renamed(text: str) -> str:
    """Return a text of a frozen config; if it is an old dotted name or path of this package, the one of today."""
    if text.startswith(f"{PACKAGE}."):
        return new_name(text) or text
    if text.endswith(f"/{AGENT_LOOPS}"):
        return str(PACKAGE_DIR / "verl_plugin" / "rollout" / "agent_loops.yaml")
    return text
