"""A base model by its name on the hub: fetched before a launch and known by its revision, from which its runs train."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.project import PROJECT_DIR
from experiments.store.files import read_jsonl
from experiments.store.rundir import find_runs
from tests.e2e.training import train
from tests.hub_server import Hub, serving

WEIGHTS = PROJECT_DIR / "experiments" / "tiny_model" / "weights"
COMMIT, LATER = "0123456789abcdef" * 2 + "01234567", "f" * 40
SMALL = ("model.path=me/tiny", "tracking=none", "trainer.val_before_train=false", "trainer.test_freq=-1")


def test_a_model_of_the_hub_is_fetched_and_its_revision_is_what_the_run_is_known_by(folder: Path) -> None:
    here = folder / "hub_model"
    with serving(Hub(models={"me/tiny": (COMMIT, WEIGHTS)})) as hub:
        place = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(here / "hub")}

        looked = train(here, *SMALL, "hydra/launcher=plan", **place)
        assert looked.code == 0 and hub.asked == [], "planning asks no server"
        assert "me/tiny: not in the hub's cache" in looked.output and "hf download me/tiny" in " ".join(
            looked.output.split()
        )

        done = train(here, *SMALL, **place)
        assert done.code == 0, done.output
        config = done.run.load_config()
        assert config["model"]["digest"] == f"hub:me/tiny@{COMMIT}"
        snapshot = here / "hub" / "models--me--tiny" / "snapshots" / COMMIT
        assert config["actor_rollout_ref"]["model"]["path"] == str(snapshot) == config["model"]["path"]
        assert done.run.state() == "finished"

        # The branch gets a new commit. The fetched one counts until somebody fetches again; then it is another run.
        hub.models["me/tiny"], asked = (LATER, WEIGHTS), list(hub.asked)
        again = train(here, *SMALL, **place)
        assert again.code == 0 and "1 done" in again.output and hub.asked == asked, again.output
    assert [run.state() for run in find_runs(done.runs_dir)] == ["finished"]
    (attempt,) = done.run.attempts()
    assert len(read_jsonl(attempt.metrics)[0]) == 2
    job = json.loads((attempt.path / "job.json").read_text())
    assert job["environment"]["HF_HUB_OFFLINE"] == "1", "the attempt loads what was there, and asks nobody"
