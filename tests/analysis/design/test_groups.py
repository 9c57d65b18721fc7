"""Which runs are compared: as they were launched, or alike in all that is not varied. The weak displaces nothing."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.design.ablations import find_ablations
from analysis.design.sweeps import read_sweeps
from analysis.plot_ablation import main
from analysis.records.record import RunRecord
from analysis.sources.filters import parse_filters
from analysis.sources.run_folders import RunFolders
from experiments.errors import UserError
from experiments.store.launch_log import Launch, note_launch, read_launches

MakeRun = Callable[..., Path]
TOP_P = "actor_rollout_ref.rollout.top_p"
SMOKE = {"task.train_size": 64, "data.train_batch_size": 16, "data.max_response_length": 32}


def read(runs: Path) -> list[RunRecord]:
    return RunFolders(runs).read()[0]


def tagged(seed: int, *changes: str) -> dict[str, Any]:
    """Return what the plan of a run writes into its config: the name of its arm and its tags."""
    return {
        "tracking": {"group": ",".join(changes) or "baseline", "tags": [*(changes or ["baseline"]), f"seed={seed}"]}
    }


def make_sweep(
    make: MakeRun, values: tuple[float, ...] = (0.8, 0.9, 1.0), seeds: tuple[int, ...] = (1, 2)
) -> list[Path]:
    return [
        make(seed=seed, overrides={TOP_P: value, "task.train_size": 1000, "data.max_response_length": 128})
        for value in (0.8, 0.9, 1.0)
        for seed in (1, 2)
    ]


def test_smoke_runs_and_failed_runs_never_displace_a_sweep(make: MakeRun, runs: Path) -> None:
    sweep = make_sweep(make)
    make(temperature=0.6, steps=2, overrides=SMOKE)
    make(temperature=1.0, steps=2, overrides=SMOKE)
    make(temperature=1.2, attempts=[[]], ending="failed", overrides=SMOKE)
    make(seed=1, attempts=[[]], ending="failed", overrides={**SMOKE, TOP_P: 0.9})
    first, *others = find_ablations(read(runs))
    assert [run.name for run in first.runs] == [path.name for path in sweep]
    assert [arm.label for arm in first.arms] == ["rollout.top_p=0.8", "rollout.top_p=0.9", "rollout.top_p=1.0"]
    assert not {run.name for ablation in others for run in ablation.runs} & {path.name for path in sweep}


@pytest.mark.parametrize("order", range(6))
def test_the_baseline_is_the_plans_and_not_the_order_of_arguments(order: int, make: MakeRun, runs: Path) -> None:
    """Three values of a key of one's own: the plan says that 0.9 changes nothing, as the defaults have it."""
    values = list(itertools.permutations((0.8, 0.9, 1.0)))[order]
    names = random.Random(order).sample(["a-1", "b-2", "c-3"], 3)
    for value, name in zip(values, names, strict=True):
        changes = [] if value == 0.9 else [f"top_p={value}"]
        make(seed=1, name=name, overrides={TOP_P: value, **tagged(1, *changes)})
    (ablation,) = find_ablations(read(runs))
    assert [arm.label for arm in ablation.arms if arm.is_baseline] == ["rollout.top_p=0.9"]
    (asked,) = find_ablations(read(runs), named=parse_filters(["rollout.top_p=1.0"], "--baseline"))
    assert [arm.label for arm in asked.arms if arm.is_baseline] == ["rollout.top_p=1.0"]
    with pytest.raises(
        UserError, match=r"--baseline must describe an arm, but no run has rollout.top_p=0.5; .*0.8, 0.9"
    ):
        find_ablations(read(runs), named=parse_filters(["rollout.top_p=0.5"], "--baseline"))


@pytest.mark.parametrize("key", ["task.digest", "model.digest", "data.max_response_length", "data.val_max_samples"])
def test_what_is_trained_on_what_never_just_comes_along(key: str, make: MakeRun, runs: Path) -> None:
    """Each temperature has another task, model or length by chance: nobody can tell what makes the difference."""
    for temperature, content in ((0.6, 1), (1.0, 2), (1.2, 2)):
        for seed in (1, 2):
            make(temperature=temperature, seed=seed, overrides={key: content})
    for ablation in find_ablations(read(runs)):
        assert len({run.config[key] for run in ablation.runs}) == 1
        assert [arm.label for arm in ablation.arms] == ["temperature=1.0", "temperature=1.2"]


def test_a_launched_sweep_is_drawn_as_it_was_launched_whatever_else_lies_around(make: MakeRun, runs: Path) -> None:
    """Pairs of settings: without the record of the launch, a run that has one of them alone would split the pairs."""
    pairs = [(0.6, 1e-4), (1.0, 2e-4), (1.2, 4e-4)]
    paths = [
        make(temperature=t, overrides={"actor_rollout_ref.actor.optim.lr": rate, "model.digest": f"m{rate}"})
        for t, rate in pairs
    ]
    make(temperature=0.6, overrides={"actor_rollout_ref.actor.optim.lr": 4e-4, "model.digest": "m1"})
    note_launch(runs, Launch(tuple(path.name.rpartition("-")[2] for path in paths), ("-m", "arms")))
    first = find_ablations(read(runs))[0]
    assert sorted(run.name for run in first.runs) == sorted(path.name for path in paths)
    assert len(first.arms) == 3


def test_later_seeds_and_levels_join_a_launched_sweep_if_they_agree_in_all_else(make: MakeRun, runs: Path) -> None:
    paths = [make(temperature=t, seed=1) for t in (0.6, 1.0)]
    note_launch(runs, Launch(tuple(path.name.rpartition("-")[2] for path in paths)))
    make(temperature=1.0, seed=2)
    make(temperature=1.2, seed=1)
    make(temperature=0.8, seed=1, overrides={"data.train_batch_size": 64})
    first = find_ablations(read(runs))[0]
    assert [(arm.label, len(arm.runs)) for arm in first.arms] == [
        ("temperature=0.6", 1),
        ("temperature=1.0", 2),
        ("temperature=1.2", 1),
    ]


def test_a_launch_is_noted_once_and_damage_of_its_file_hurts_nobody(tmp_path: Path) -> None:
    launch = Launch(("a", "b"), ("seed=1,2",))
    for _ in range(3):
        note_launch(tmp_path, launch)
    assert read_launches(tmp_path) == [launch]
    with open(tmp_path / ".launches.jsonl", "a") as file:
        file.write('{"runs": 7}\n[]\n{"runs": ["c"], "argum')
    assert read_launches(tmp_path) == [launch]
    note_launch(tmp_path, Launch(("c",)))
    assert [known.runs for known in read_launches(tmp_path)] == [("a", "b"), ("c",)]
    assert read_launches(tmp_path / "nowhere") == []


def test_arms_are_told_apart_by_value_and_type(make: MakeRun, runs: Path) -> None:
    values = [None, "none", 0.2, "0.2", 0.1 + 0.2, 0.3, True, "true", 1, "1", 1e-6, "1e-6"]
    for value in values:
        make(overrides={"algorithm.kind": value})
    (ablation,) = find_ablations(read(runs))
    assert len(ablation.arms) == len({arm.label for arm in ablation.arms}) == len(values)
    for arm in ablation.arms:
        assert len(arm.runs) == 1
    made = {arm.label.partition("=")[2]: arm.runs[0].config["algorithm.kind"] for arm in ablation.arms}
    assert made['"none"'] == "none" and made["null"] is None and made['"true"'] == "true" and made["true"] is True
    assert made["0.30000000000000004"] == 0.1 + 0.2 and made["0.3"] == 0.3


def test_a_figure_of_other_runs_that_shows_more_is_not_overwritten(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.analysis.conftest import make_run

    out, less = tmp_path / "figures", tmp_path / "less"
    for temperature in (0.6, 1.0):
        make(temperature=temperature)
        make_run(less, temperature=temperature, steps=20, overrides=SMOKE)
    assert main(["--runs", str(runs), "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    for _ in range(2):
        assert main(["--runs", str(less), "--out", str(out)]) == 0
        assert {name: (out / name).read_bytes() for name in before} == before
        printed = capsys.readouterr().out
        assert "temperature.csv shows other runs" in printed and f"figure: {out}/temperature--2.png" in printed
    assert main(["--runs", str(runs), "--out", str(out), "--filter", "rollout.temperature=0.6,1.0"]) == 2
    assert main(["--runs", str(runs), "--out", str(out), "--last", "1"]) == 0
    assert (out / "temperature.md").read_bytes() != before["temperature.md"], "the same runs are drawn anew"


WITHOUT = ("algorithm.filter_groups.enable=False",)


@pytest.mark.parametrize("changes", [("algorithm=opo",), ("algorithm=opo", "kl=0")])
def test_what_an_algorithm_sets_makes_no_figure_of_its_own(changes: tuple[str, ...], make: MakeRun, runs: Path) -> None:
    """OPO has no KL term. If the plan says that somebody switched it off, that is a second setting."""
    make(seed=1, overrides=tagged(1))
    make(seed=1, algorithm="rloo", overrides=tagged(1, "algorithm=rloo"))
    make(seed=1, algorithm="opo", kl=0, overrides=tagged(1, *changes))
    first, *others = find_ablations(read(runs), read_sweeps())
    if len(changes) == 1:
        assert [arm.label for arm in first.arms] == ["algorithm=GRPO", "algorithm=RLOO", "algorithm=OPO"] and not others
        assert first.title == "Algorithms" and [arm.label for arm in first.arms if arm.is_baseline] == [
            "algorithm=GRPO"
        ]
    else:
        assert [arm.label for arm in first.arms] == ["algorithm=GRPO", "algorithm=RLOO"]
        assert "algorithm=OPO, kl=0" in " ".join(reason for _, reason in first.left_out)


def test_an_arm_has_the_same_name_in_the_figure_and_in_the_tables(make: MakeRun, runs: Path, tmp_path: Path) -> None:
    sampling = {"algorithm.filter_groups.enable": False}
    make(seed=1, overrides=tagged(1))
    make(seed=1, algorithm="dapo", kl=0, overrides={**tagged(1, "algorithm=dapo", *WITHOUT), **sampling})
    (ablation,) = find_ablations(read(runs), read_sweeps())
    assert [arm.name for arm in ablation.arms] == ["GRPO", "DAPO, no dynamic sampling"]
    assert main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "algorithm.md").read_text()
    assert "| DAPO, no dynamic sampling, 1 seed |" in page and "| DAPO, no dynamic sampling | 1 |" in page
    assert "algorithm=DAPO" not in page


def test_of_two_sweeps_over_a_factor_the_one_with_more_of_the_arms_counts(make: MakeRun, runs: Path) -> None:
    make(seed=1, algorithm="grpo")
    make(seed=1, algorithm="gae")
    (ablation,) = find_ablations(read(runs), read_sweeps())
    assert ablation.title == "GRPO against PPO"
