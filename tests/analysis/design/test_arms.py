"""Which settings vary, which runs make an arm, and what each figure compares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.design.ablations import Ablation, find_ablations
from analysis.design.arms import seeds_text
from analysis.design.factors import find_factors, is_scientific
from analysis.figures.captions import caption
from analysis.figures.series import View, arm_series
from analysis.records.curves import comparable_curves
from analysis.records.record import RunRecord
from analysis.sources.run_folders import RunFolders

MakeRun = Callable[..., Path]


def read(runs: Path) -> list[RunRecord]:
    return RunFolders(runs).read()[0]


def labels(ablation: Ablation) -> list[tuple[str, list[Any]]]:
    return [(arm.label, [run.seed for run in arm.runs]) for arm in ablation.arms]


def test_runs_group_by_the_varied_knob_and_seeds_stay_together(make: MakeRun, runs: Path) -> None:
    for temperature in (1.2, 0.6, 1):
        for seed in (2, 10, 1):
            make(temperature=temperature, seed=seed)
    (ablation,) = find_ablations(read(runs))
    assert (ablation.name, ablation.title) == ("temperature", "Rollout temperature")
    assert labels(ablation) == [(f"temperature={t}", [1, 2, 10]) for t in ("0.6", "1.0", "1.2")]
    assert ablation.settings() == "GRPO, n=5, kl=0.001, model=tiny, task=countdown"
    assert ablation.companions == ()
    assert ablation.left_out == ()


def test_arms_come_from_the_config_not_from_names(make: MakeRun, runs: Path) -> None:
    make(temperature=0.6, name="temperature=1.2-aaaa")
    make(temperature=1.2, name="temperature=0.6-bbbb")
    (ablation,) = find_ablations(read(runs))
    assert [(arm.label, arm.runs[0].name) for arm in ablation.arms] == [
        ("temperature=0.6", "temperature=1.2-aaaa"),
        ("temperature=1.2", "temperature=0.6-bbbb"),
    ]


def test_the_articles_star_gives_one_figure_a_factor_around_the_shared_baseline(make: MakeRun, runs: Path) -> None:
    for settings in ({}, {"temperature": 0.6}, {"temperature": 1.2}, {"algorithm": "gae"}, {"n": 3}, {"n": 8}):
        make(**settings)
    make(kl=0.01)
    make(kl=0.0)
    corner = make(temperature=1.2, n=8)
    ablations = find_ablations(read(runs))
    assert [(ablation.name, [arm.label for arm in ablation.arms]) for ablation in ablations] == [
        ("temperature", ["temperature=0.6", "temperature=1.0", "temperature=1.2"]),
        ("algorithm", ["algorithm=GRPO", "algorithm=PPO"]),
        ("rollout_n", ["n=3", "n=5", "n=8"]),
        ("kl_coef", ["kl=0.0", "kl=0.001", "kl=0.01"]),
    ]
    assert "kl.type" in ablations[1].companions
    assert ablations[0].companions == ()
    reasons = {run.name: reason for run, reason in ablations[0].left_out}
    assert len(reasons) == 6
    assert reasons[corner.name].startswith("temperature=1.2, n=8 differs from the baseline (temperature=1.0, n=5)")


def test_runs_that_differ_in_two_knobs_at_once_are_shown_side_by_side(make: MakeRun, runs: Path) -> None:
    make(temperature=0.6, n=3)
    make(temperature=1.0, n=8)
    (ablation,) = find_ablations(read(runs))
    assert [arm.label for arm in ablation.arms] == ["temperature=0.6, n=3", "temperature=1.0, n=8"]
    assert ablation.name == "temperature-rollout_n"


def test_a_verl_key_that_varies_on_its_own_is_a_factor(make: MakeRun, runs: Path) -> None:
    for rate in (1e-4, 2e-4):
        make(overrides={"actor_rollout_ref.actor.optim.lr": rate, "data.train_batch_size": 32 if rate == 2e-4 else 64})
    (ablation,) = find_ablations(read(runs))
    assert [arm.label for arm in ablation.arms] == ["data.train_batch_size=32", "data.train_batch_size=64"]
    assert ablation.companions == ("actor_rollout_ref.actor.optim.lr",)


def test_a_key_that_varies_within_an_arm_of_a_knob_is_a_factor_too(make: MakeRun, runs: Path) -> None:
    make(temperature=0.6)
    make(temperature=1.0)
    make(temperature=1.0, seed=1, overrides={"actor_rollout_ref.actor.optim.lr": 1e-4})
    records = read(runs)
    assert [factor.key for factor in find_factors(records)] == [
        "rollout.temperature",
        "actor_rollout_ref.actor.optim.lr",
    ]
    assert [labels(ablation) for ablation in find_ablations(records)] == [
        [("temperature=0.6", [0]), ("temperature=1.0", [0])],
        [("actor.optim.lr=0.0001", [1]), ("actor.optim.lr=0.0002", [0])],
    ]


def test_places_names_seeds_and_steps_are_no_factors(make: MakeRun, runs: Path) -> None:
    make(seed=1, steps=60)
    make(
        seed=2, steps=40, overrides={"trainer.n_gpus_per_node": 2, "trainer.logger": ["file"], "model.path": "/b/tiny"}
    )
    (ablation,) = find_ablations(read(runs))
    assert labels(ablation) == [("all runs", [1, 2])]
    assert ablation.name == "runs"


@pytest.mark.parametrize(
    ("key", "scientific"),
    [
        ("actor_rollout_ref.actor.optim.lr", True),
        ("actor_rollout_ref.rollout.n", True),
        ("task.data_seed", True),
        ("model.path", True),
        ("actor_rollout_ref.model.path", False),
        ("data.train_files", False),
        ("trainer.total_training_steps", False),
        ("actor_rollout_ref.actor.optim.total_training_steps", False),
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", False),
        ("ray_kwargs.ray_init.num_cpus", False),
        ("actor_rollout_ref.rollout.trace.experiment_name", False),
        ("actor_rollout_ref.actor.fsdp_config.param_offload", False),
        ("a.key.of.a.newer.verl", True),
        ("actor_rollout_ref.rollout.support", True),
    ],
)
def test_what_can_change_the_result(key: str, scientific: bool) -> None:
    assert is_scientific(key) is scientific


def test_another_model_of_the_same_name_is_another_arm(make: MakeRun, runs: Path) -> None:
    make(temperature=1.0, overrides={"model.path": "/a/weights-1"})
    make(temperature=1.0, overrides={"model.path": "/a/weights-2"})
    (ablation,) = find_ablations(read(runs))
    assert [arm.label for arm in ablation.arms] == ["model.path=weights-1", "model.path=weights-2"]


def test_a_models_digest_outweighs_its_path(make: MakeRun, runs: Path) -> None:
    make(seed=0, overrides={"model.path": "/a/weights-1", "model.digest": "d1"})
    make(seed=1, overrides={"model.path": "/a/weights-2", "model.digest": "d1"})
    make(seed=0, overrides={"model.path": "/a/weights-1", "model.digest": "d2"})
    (ablation,) = find_ablations(read(runs))
    assert labels(ablation) == [("model.digest=d1", [0, 1]), ("model.digest=d2", [0])]


def test_another_version_of_the_tasks_code_is_told_but_splits_no_arm(make: MakeRun, runs: Path) -> None:
    make(temperature=0.6, overrides={"task.code": "a"})
    make(temperature=1.0, overrides={"task.code": "a"})
    make(temperature=1.0, seed=1, overrides={"task.code": "b"})
    (ablation,) = find_ablations(read(runs))
    assert labels(ablation) == [("temperature=0.6", [0]), ("temperature=1.0", [0, 1])]
    assert "The runs also differ in task.code." in caption(ablation)


def test_hardware_is_no_factor_and_explains_what_it_decides(make: MakeRun, runs: Path) -> None:
    make(seed=0)
    make(seed=1, overrides={"hardware.name": "a100x2", "actor_rollout_ref.rollout.name": "vllm"})
    (ablation,) = find_ablations(read(runs))
    assert labels(ablation) == [("all runs", [0, 1])]
    assert ablation.companions == ("actor_rollout_ref.rollout.name",)


def test_of_two_runs_of_one_arm_and_seed_the_one_that_got_further_is_shown(make: MakeRun, runs: Path) -> None:
    make(temperature=0.6)
    make(temperature=1.0, name="short-1", legs=((1, 20),), ending="failed")
    make(temperature=1.0, name="whole-2")
    (ablation,) = find_ablations(read(runs))
    assert [run.name for run in ablation.arms[1].runs] == ["whole-2"]
    assert [(run.name, reason) for run, reason in ablation.left_out] == [
        ("short-1", "same settings and seed as whole-2, which got as far or further")
    ]


def test_runs_without_a_seed_are_repeats_of_their_own(make: MakeRun, runs: Path) -> None:
    seedless = {"seed": None, "data.seed": None}
    for number in (1, 2, 3):
        make(temperature=0.6, name=f"repeat-{number}", overrides=seedless)
    make(temperature=1.0, overrides=seedless)
    (ablation,) = find_ablations(read(runs))
    assert [run.name for run in ablation.arms[0].runs] == ["repeat-1", "repeat-2", "repeat-3"]
    assert ablation.left_out == ()
    assert "4 runs have no seed in their config: each counts as a repeat of its own." in caption(ablation)


def test_a_run_that_got_nowhere_is_drawn_but_does_not_end_its_arms_mean(make: MakeRun, runs: Path) -> None:
    make(temperature=0.6)
    make(temperature=1.0, seed=1)
    make(temperature=1.0, seed=2)
    short = make(temperature=1.0, seed=3, legs=((1, 2),), ending="failed")
    half = make(temperature=1.0, seed=4, legs=((1, 44),), ending=None)
    (ablation,) = find_ablations(read(runs))
    arm = ablation.arms[1]
    assert [run.seed for run in arm.averaged] == [1, 2, 4]
    series = arm_series(arm, "reward", comparable_curves(ablation.runs)[0], View())
    assert [run.seed for run, _, _ in series.seeds] == [1, 2, 3, 4] and series.mean.steps[-1] == 60
    assert [series.count[series.mean.steps.index(step)] for step in (2, 44, 45, 60)] == [3, 3, 2, 2]
    assert {run.name: reason for run, reason in ablation.why_left_out()} == {
        short.name: "failed at step 2 of 60: drawn up to a cross; left out of the numbers and the claims; "
        "too short for the arm's mean",
        half.name: "killed at step 44 of 60: drawn up to a cross; left out of the numbers and the claims",
    }
    assert "✕ temperature=1.0 seed 3: failed at step 2 of 60, too short for the mean" in caption(ablation)
    assert seeds_text(arm) == "3 of 4 seeds"


def test_a_schedule_of_the_temperature_is_warned_of_as_a_temperature_is(make: MakeRun, runs: Path) -> None:
    make()
    make(overrides={"temperature.schedule": "linear"})
    (ablation,) = find_ablations(read(runs))
    assert "Training panels are sampled at each arm's own temperature" in caption(ablation)[0]
    assert any("entropy and KL at different temperatures" in n for n in caption(ablation, None, ["actor/entropy"]))


def test_a_run_that_died_before_its_first_step_makes_no_factor_of_a_mistyped_key(make: MakeRun, runs: Path) -> None:
    make(temperature=0.6)
    make(temperature=1.0)
    make(temperature=1.2, seed=3, attempts=[[]], ending="failed", overrides={"actor_rollout_ref.actor.optim.lr": 7.0})
    (ablation,) = find_ablations(read(runs))
    assert [arm.label for arm in ablation.arms] == ["temperature=0.6", "temperature=1.0", "temperature=1.2"]
    assert ablation.arms[2].runs[0].progress() == "failed before its first step"


def test_the_baseline_is_an_arm_that_has_begun(make: MakeRun, runs: Path) -> None:
    make(temperature=0.6, n=3, name="begun-1")
    for settings in ({"temperature": 0.8}, {"temperature": 1.0}, {"temperature": 1.2}):
        make(n=8, ending="planned", **settings)
    assert any(run.name == "begun-1" for ablation in find_ablations(read(runs)) for run in ablation.runs)
