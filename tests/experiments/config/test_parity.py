"""config/parity.py: every argument of the article's scripts has a row, and the page shows the composed presets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.config import parity
from experiments.project import CONFIG_DIR, PROJECT_DIR

Resolve = Callable[..., dict[str, Any]]


def test_the_page_is_current() -> None:
    page = (PROJECT_DIR / "docs" / "parity.md").read_text(encoding="utf-8")
    assert page == parity.page(), "python -m experiments.config.parity > docs/parity.md"


@pytest.mark.parametrize("script", parity.SCRIPTS)
def test_an_argument_is_kept_or_has_a_reason(resolved: Resolve, script: str) -> None:
    rows = parity.rows(script, resolved(f"experiment={script}"))
    assert [row.old_key for row in rows if not row.reason and not row.same_value] == []
    assert [row.old_key for row in rows if not row.reason and row.old_key != row.new_key] == []
    micro = [row for row in rows if row.old_key.endswith("micro_batch_size")]
    n = resolved(f"experiment={script}")["rollout"]["n"]
    assert len(micro) >= 3 and all(row.new_value * 2 == row.old_value * n for row in micro), "of one GPU in two"
    deviating = {row.old_key for row in rows if not row.same_value and row not in micro}
    assert deviating <= {
        *("data.train_files", "data.val_files", "actor_rollout_ref.model.path", "critic.model.path"),
        *("trainer.logger", "trainer.project_name", "trainer.experiment_name"),
        *("actor_rollout_ref.actor.fsdp_config.grad_offload", "trainer.total_epochs"),
    }


def test_every_change_is_of_an_argument() -> None:
    assert set(parity.CHANGES) <= {key for script in parity.SCRIPTS.values() for key in script}


def test_what_the_presets_are_beyond_the_arguments(resolved: Resolve) -> None:
    grpo, ppo, tinyzero = (resolved(f"experiment={name}") for name in parity.SCRIPTS)
    assert [config["hardware"]["name"] for config in (grpo, ppo, tinyzero)] == ["a100x2", "a100x2", "h200x2"]
    assert [config["algorithm"]["adv_estimator"] for config in (grpo, ppo, tinyzero)] == ["grpo", "gae", "gae"]
    assert [config["actor_rollout_ref"]["rollout"]["n"] for config in (grpo, ppo, tinyzero)] == [5, 1, 1]
    for config in (grpo, ppo, tinyzero):
        assert config["model"]["path"] == "Qwen/Qwen2.5-3B" and config["model"]["template"] == "base"
        assert config["actor_rollout_ref"]["rollout"]["temperature"] == 1.0
        assert not config["actor_rollout_ref"]["rollout"]["log_prob_use_dynamic_bsz"]
        assert (
            not config["critic"]["use_dynamic_bsz"]
            and not config["actor_rollout_ref"]["ref"]["log_prob_use_dynamic_bsz"]
        )
        assert config["actor_rollout_ref"]["actor"]["entropy_coeff"] == 0.001
        assert config["trainer"]["total_training_steps"] == 550
    for config in (ppo, tinyzero):
        assert config["algorithm"]["use_kl_in_reward"] and not config["actor_rollout_ref"]["actor"]["use_kl_loss"]


def test_what_is_typed_wins_over_a_preset(resolved: Resolve) -> None:
    config = resolved("experiment=article_grpo", "algorithm=ppo", "rollout.n=5")
    assert config["algorithm"]["adv_estimator"] == "gae" and config["actor_rollout_ref"]["rollout"]["n"] == 5


def test_the_article_s_settings_are_the_same_run_as_ours(resolved: Resolve) -> None:
    """They differ in cost only, so both are the same run."""
    from experiments.config.identity import run_id

    common = ("model=qwen2.5-3b", "hardware=a100x2")
    ours, theirs = resolved(*common), resolved(*common, "experiment=article_settings")
    assert ours["actor_rollout_ref"] != theirs["actor_rollout_ref"]
    assert run_id(ours) == run_id(theirs)


def test_the_preset_is_the_run_that_its_comment_names(resolved: Resolve) -> None:
    """The settings in the file's comment are typed as they stand there: the article's run with our memory and speed."""
    from experiments.config.identity import run_id

    text = (CONFIG_DIR / "experiment" / "article_grpo.yaml").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("# settings: "))
    fast = resolved(*line.removeprefix("# settings: ").split())
    assert fast["actor_rollout_ref"]["actor"]["use_dynamic_bsz"] is True
    assert run_id(fast) == run_id(resolved("experiment=article_grpo"))


def test_the_developer_s_own_defaults_are_not_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.config import compose

    shutil.copytree(CONFIG_DIR, tmp_path / "conf")
    (tmp_path / "conf" / "local").mkdir(exist_ok=True)
    (tmp_path / "conf" / "local" / "default.yaml").write_text("# @package _global_\nrollout: {n: 3}\n")
    for module in (compose, parity):
        monkeypatch.setattr(module, "CONFIG_DIR", tmp_path / "conf")
    assert parity.preset("article_grpo")["rollout"]["n"] == 5
