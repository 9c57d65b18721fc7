"""planning/cost.py and planning/show.py: the estimated cost of a plan, and how the plan is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from experiments.planning.cost import costs, disk_needed
from experiments.planning.show import plan_json, remarks, summary
from experiments.store.memory_peak import note_peak
from tests.experiments.conftest import Ask
from tests.experiments.pretended import pretend

T06 = "rollout.temperature=0.6"


def test_an_estimate_is_the_preset_s_until_like_runs_were_measured(ask: Ask) -> None:
    (run,) = ask("")
    (cost,) = costs([run])
    stated = run.config["hardware"]["seconds_per_step"]
    assert (cost.measured, cost.seconds_per_step, cost.steps) == (0, stated, 2)
    assert "as hardware=cpu states" in summary([run], [cost], 1)[1]

    pretend(run, 2, "finished", seconds=30.0)
    note_peak(run.folder.attempts()[-1], 123)
    seven = f"{T06} trainer.total_training_steps=7"
    runs = ask("seed=2", seven, "rollout.n=8", "algorithm=ppo", "", "seed=3 hardware.fast=false")
    like, cooler, wider, ppo, done, plain = costs(runs)
    assert (like.measured, like.seconds_per_step, like.hours) == (1, 30.0, pytest.approx(60 / 3600))
    assert cooler.hours == pytest.approx(7 * 30 / 3600)
    assert [each.memory for each in (like, cooler, wider, ppo)] == [123, 123, 0, 0]
    assert wider.measured == ppo.measured == plain.measured == 0 and done.hours == done.disk == 0
    assert ppo.disk == 2 * like.disk > 0
    text = " ".join(summary(runs, costs(runs), 5))
    assert "measured in 1 run of the same kind" in text and f"{stated:.3g} s a step, as hardware=cpu states" in text


@pytest.mark.parametrize(
    ("estimator", "trainer", "checkpoints"),
    [
        ("grpo", {}, 3),
        ("grpo", {"max_actor_ckpt_to_keep": 20}, 21),
        ("grpo", {"max_actor_ckpt_to_keep": None}, 55),
        ("grpo", {"max_actor_ckpt_to_keep": None, "save_freq": 100}, 6),
        ("grpo", {"total_training_steps": 15}, 2),
        ("grpo", {"save_freq": -1}, 0),
        ("grpo", {"save_freq": 0, "max_actor_ckpt_to_keep": None}, 0),
        ("gae", {}, 6),
        ("gae", {"max_critic_ckpt_to_keep": 1}, 5),
        ("gae", {"max_critic_ckpt_to_keep": None}, 58),
    ],
)
def test_the_disk_is_that_of_the_checkpoints_that_are_kept(
    ask: Ask, estimator: str, trainer: dict[str, Any], checkpoints: int
) -> None:
    """A checkpoint of this model on the hub has 36 GB. Two are kept beside the one that is being written."""
    config = ask("")[0].config
    config["model"] |= {"parameters": 3_000_000_000, "path": "me/large"}
    config["algorithm"]["adv_estimator"] = estimator
    config["trainer"] |= {"total_training_steps": 550, "save_freq": 10, **trainer}
    assert disk_needed(config) == checkpoints * 36_000_000_000
    config["actor_rollout_ref"]["actor"]["checkpoint"]["save_contents"] = ["model"]
    config["critic"]["checkpoint"]["save_contents"] = ["model"]
    assert disk_needed(config) == checkpoints * 12_000_000_000


def test_a_foreign_folder_s_metrics_are_no_measurement_and_no_traceback(ask: Ask) -> None:
    (run,) = ask("")
    pretend(run, 1, "finished")
    lines = [{"data": None}, {"data": [1]}, {"data": {"perf/time_per_step": "soon"}}, {"step": 1}]
    run.folder.attempts()[0].metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (other,) = ask("seed=2")
    assert costs([other])[0].measured == 0
    run.folder.attempts()[0].metrics.write_text('{"data": {"perf/time_per_step": 3}}\n')
    run.folder.config_file.write_text("actor_rollout_ref: {rollout: {n: [1, 2]}}\nmodel: 3\n")
    assert costs([other])[0].measured == 0


def test_the_plan_says_what_a_gpu_s_memory_is_needed_for(ask: Ask) -> None:
    large = "model=qwen2.5-3b hardware=a100x2 task.train_size=256 data.train_batch_size=128"
    assert remarks(ask("")) == [], "on a CPU nothing is estimated, and the tiny model's folder has no oddity"
    both, attention, hub = remarks(ask(large, f"{large} {T06}"))
    assert attention.startswith("attention of the trainer: packed_sdpa, since flash-attn is not installed; slower")
    assert hub.startswith("Qwen/Qwen2.5-3B: not in the hub's cache (") and "prompts' lengths in tokens were not" in hub
    assert both.startswith("memory of a GPU, of 79 GiB") and both.count("fits") == 4
    grpo, ppo, *_ = remarks(ask(large, f"{large} algorithm=ppo"))
    assert "algorithm=ppo" not in grpo and "algorithm=ppo" in ppo and grpo.split(":")[1:] != ppo.split(":")[1:]
    tight, *_ = remarks(ask(f"{large} actor_rollout_ref.rollout.gpu_memory_utilization=0.62 hardware.memory_gib=60"))
    assert "rollout 58 tight" in tight


def test_the_plan_for_programs_says_the_same(ask: Ask) -> None:
    runs = ask("", T06)
    pretend(runs[0], 2, "finished")
    plan = json.loads(plan_json(ask("", T06), 3))
    assert [(run["plan"], run["state"], run["step"], run["steps"]) for run in plan["runs"]] == [
        ("done", "finished", 2, 2),
        ("new", "planned", 0, 2),
    ]
    assert plan["asked"] == 3 and plan["hours"] == pytest.approx(2 * 2.0 / 3600)


def test_hours_that_are_unknown_are_not_zero(ask: Ask) -> None:
    known, unknown = ask("seed=1", "seed=2 hardware.seconds_per_step=null")
    told = summary([unknown], costs([unknown]), 1)
    assert told[0].startswith("1 to start; CPU-hours unknown, checkpoints up to ") and "hours unknown: " in told[1]
    both = summary([known, unknown], costs([known, unknown]), 2)
    assert "; about 0.0025+? CPU-hours" in both[0]
