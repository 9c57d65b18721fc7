"""Check the checkpoint of another run that a run is to start from (trainer.resume_mode=resume_path).

Read in veRL 0.9.1: verl/trainer/ppo/v1/trainer_base.py (_load_checkpoint), verl/utils/checkpoint/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.values import at
from experiments.verl_keys import has_critic, ranks_of

MODE, PATH = "trainer.resume_mode", "trainer.resume_from_path"


def resume_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the checkpoint that a run is to start from; the run later goes on from its own checkpoints."""
    mode, path = at(config, MODE), at(config, PATH)
    if mode != "resume_path":
        unread = f"{PATH} must be null with {MODE}={mode}, which does not read it, but is {path!r}; "
        return [] if path is None else [f"{unread}set {MODE}=resume_path"]
    if not isinstance(path, str) or not path:
        return [
            f"{PATH} must be a checkpoint's folder with {MODE}=resume_path, but is {path!r}; set it, or leave out both"
        ]
    folder = Path(path).expanduser()
    found = re.fullmatch(r"global_step_(\d+)", folder.name)
    if found is None or not folder.is_dir():
        what = "there is no such folder" if found else "its name is another"
        return [
            f"{PATH} must be a folder global_step_<number> of a run's checkpoints/, but {path}: {what}; check the path"
        ]
    step, steps = int(found[1]), config["trainer"]["total_training_steps"]
    problems = []
    if step >= steps:
        problems.append(
            f"trainer.total_training_steps must be more than the {step} steps of {PATH}={path}, but is {steps}: "
            f"nothing would be trained; set trainer.total_training_steps={step + 50}"
        )
    ranks = ranks_of(config)
    for part in ("actor", *(["critic"] if has_critic(config) else [])):
        missing = [
            name
            for kind in ("model", "optim", "extra_state")
            for rank in range(ranks)
            if not (folder / part / (name := f"{kind}_world_size_{ranks}_rank_{rank}.pt")).is_file()
        ]
        if missing:
            problems.append(
                f"{PATH} must hold a whole checkpoint for {ranks} processes, but {folder / part} has no {missing[0]}; "
                "take a checkpoint of the same algorithm and number of devices"
            )
    return problems
