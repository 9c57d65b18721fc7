"""Test a model's name on the hub: found in the cache, fetched by the real client from a stand-in hub, or refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.models import hub as hub_model
from experiments.project import PROJECT_DIR
from tests.hub_server import Hub, serving

WEIGHTS = PROJECT_DIR / "experiments" / "tiny_model" / "weights"
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in hub_model.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


def test_a_name_is_found_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_model.find("Qwen/Qwen2.5-3B") is None
    assert hub_model.problems("Qwen/Qwen2.5-3B") == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (problem,) = hub_model.problems("Qwen/Qwen2.5-3B")
    assert problem.startswith("model.path must be in the hub cache while HF_HUB_OFFLINE is set, but ")
    assert "`hf download Qwen/Qwen2.5-3B`" in problem
    model = cache / "models--Qwen--Qwen2.5-3B"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0123abc")
    (model / "snapshots" / "0123abc").mkdir(parents=True)
    assert hub_model.find("Qwen/Qwen2.5-3B") == model / "snapshots" / "0123abc"
    assert hub_model.problems("Qwen/Qwen2.5-3B") == []


def test_a_name_that_is_none() -> None:
    (problem,) = hub_model.problems("qwen")
    assert problem == "model.path must be a folder or a name on the hub (owner/name), but is 'qwen'; check the path"


def test_only_a_snapshot_of_a_cache_says_which_revision_it_is(cache: Path) -> None:
    snapshot = cache / "models--me--my--model" / "snapshots" / COMMIT
    assert hub_model.name_and_revision(snapshot) == f"me/my--model@{COMMIT}"
    assert hub_model.name_and_revision(snapshot.with_name("main")) is None
    assert hub_model.name_and_revision(WEIGHTS) is None


def fetched(hub: Hub, name: str) -> tuple[str, str]:
    """Fetch in a process of its own, since the client reads its environment once; return its output and the problem.

    The problem is empty if there is none.
    """
    program = (
        "import sys\nfrom experiments.models import hub as hub_model\nfrom experiments.errors import UserError\n"
        "try:\n    hub_model.fetch(sys.argv[1])\nexcept UserError as error:\n    print(*error.problems)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, name],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret"},
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "hf_secret" not in done.stdout + done.stderr, done.stderr
    return done.stderr, done.stdout.strip()


def test_a_model_is_fetched_as_it_is(cache: Path) -> None:
    with serving(Hub(models={"me/tiny": (COMMIT, WEIGHTS)})) as hub:
        said, problem = fetched(hub, "me/tiny")
    folder = hub_model.find("me/tiny")
    assert problem == "" and f"me/tiny: fetching it from the hub into {cache}" in said
    assert folder is not None and hub_model.name_and_revision(folder) == f"me/tiny@{COMMIT}"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in WEIGHTS.iterdir()
    }


def test_what_can_t_be_fetched_is_one_message_with_its_remedy() -> None:
    hub = Hub(models={"me/tiny": (COMMIT, WEIGHTS)}, gated={"me/tiny"})
    start = "model.path must be fetched before a launch, but me/tiny: "
    with serving(hub):
        assert fetched(hub, "me/tiny")[1] == f"{start}it is gated; ask for access on its page, then run `hf auth login`"
        hub.models.clear()
        assert fetched(hub, "me/tiny")[1] == (
            f"{start}the hub has no such model, or it is private; check the name; if it is private, run `hf auth login`"
        )
    _, problem = fetched(hub, "me/tiny")  # the hub is gone
    assert problem.startswith(start) and "refused" in problem
    assert problem.endswith("; run `hf download me/tiny` where there is a network, or set model.path to a folder")
    assert hub_model.find("me/tiny") is None
