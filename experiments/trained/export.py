"""`export`: a checkpoint as a Hugging Face folder with a card, written whole or not at all. Imports torch and veRL."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from experiments.store import checkpoints
from experiments.store.files import write_atomically
from experiments.store.rundir import RunDir
from experiments.trained.card import card
from experiments.trained.merge import merge, saved_dtype
from experiments.trained.problems import validation_problems

CARD = "README.md"


def export(run: RunDir, step: int, folder: Path) -> None:
    """Write the model of a step's checkpoint to `folder`, which is not there or empty."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        merge(checkpoints.folder(run.checkpoints, step) / "actor", made)
        dtype = str(saved_dtype(made)).removeprefix("torch.")
        write_atomically(made / CARD, card(run, step, dtype, _prompt(run)))
        for file in made.iterdir():
            file.chmod(0o644)  # safetensors writes files that only their owner may read
        made.chmod(0o755)
        if folder.exists():
            folder.rmdir()  # it was empty when it was checked: if it no longer is, this fails, and nothing is lost
        os.replace(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _prompt(run: RunDir) -> str:
    """Return the first validation prompt, as an example; "" where the run's data is no longer there."""
    problems = validation_problems(run.load_config(), required=False)
    return problems[0].text if problems else ""
