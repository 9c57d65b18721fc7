"""A home that can't be written, as on the compute nodes of many clusters: a run trains all the same."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.training import arguments, clean_environment

HOME_VARIABLES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_run_trains_under_a_read_only_home(tmp_path: Path, fast: str) -> None:
    """The home is an empty read-only file system in a mount namespace."""
    home, place = tmp_path / "home", tmp_path / "place"
    home.mkdir()
    place.mkdir()
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    inside = (
        'mount -t tmpfs none "$1" && mount -o remount,ro "$1" && export HOME="$1" && shift && '
        '! touch "$HOME/x" 2>&1 && exec "$@"'
    )
    overrides = [f"hardware.fast={fast}", "trainer.total_training_steps=1", "trainer.val_before_train=false"]
    done = subprocess.run(
        ["unshare", "--mount", *user, "sh", "-c", inside, "sh", str(home), *arguments(place, overrides)],
        cwd=place,
        env={key: value for key, value in clean_environment().items() if key not in HOME_VARIABLES},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Read-only file system" in done.stdout, "the home was read-only"
    assert (place / "runs" / ".cache" / "huggingface" / "datasets").is_dir()


def test_what_the_user_has_chosen_stays(tmp_path: Path) -> None:
    from experiments.attempt.caches import CACHES, cache_variables

    assert set(cache_variables(tmp_path, {})) == set(CACHES)
    own = cache_variables(tmp_path, {"HF_HOME": "/scratch/hf", "TRITON_CACHE_DIR": "/scratch/triton"})
    assert not {"HF_DATASETS_CACHE", "HF_MODULES_CACHE", "TRITON_CACHE_DIR"} & set(own)
    assert own["TORCH_HOME"] == str(tmp_path / ".cache" / "torch")
