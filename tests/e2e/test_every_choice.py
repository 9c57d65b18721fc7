"""Every estimator, loss, way to sample and filter of veRL's lists that a plan accepts trains one step with our trainer.

A run has one value of each list, so that a dozen runs have all values. tests/experiments/checks has those that a plan
refuses, and shows that the two together are veRL's lists. One more run here is one that a plan refuses: it fails as
predicted. A larger model would fail minutes later.
"""

from __future__ import annotations

import itertools
import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from experiments.checks.algorithms import REJECTIONS, UNSERVED, WEIGHTS
from experiments.checks.training_rules import AGGREGATIONS, LOSS_MODES, REWARD_MANAGERS, SCHEDULES, VALIDATION
from experiments.checks.value_rules import ESTIMATORS
from experiments.config.choices import options
from experiments.config.compose import register_resolvers
from experiments.config.sweep_compose import Composer
from experiments.config.verl import override
from experiments.launchers.local import run_all
from experiments.planning.plan import PlannedRun, plan_runs
from experiments.processes.standby import Standby
from experiments.project import CONFIG_DIR
from experiments.store.rundir import RunDir
from experiments.verl_keys import ACTOR, ROLLOUT
from tests.e2e.training import left_behind, rows
from tests.experiments.conftest import SHIPPED
from tests.experiments.right_config import problems_of, with_values

COMMON = (
    *("experiment=smoke", "tracking=none", "rollout.n=3", "trainer.total_training_steps=1", "trainer.save_freq=-1"),
    *("trainer.val_before_train=false", f"{VALIDATION}.n=2"),
)
TRAINED = [name for name in ESTIMATORS if name not in UNSERVED]
LOSSES = [
    [f"{ACTOR}.policy_loss.loss_mode={mode}", *([f"{ACTOR}.policy_loss.dro_beta=0.1"] if mode == "dro" else [])]
    for mode in LOSS_MODES
]
OWN_MEANS = ("sapo", "geo_mean")  # these losses average in their own way
SAMPLING = [
    [f"{ROLLOUT}.top_p=0.9", f"{VALIDATION}.top_k=5"],
    [f"{ROLLOUT}.top_k=10", f"{VALIDATION}.top_p=0.5"],
    [f"{ROLLOUT}.ignore_eos=true", f"{VALIDATION}.temperature=0"],
    ["data.gen_batch_size=4", "data.val_batch_size=3"],
    [f"{ACTOR}.ppo_epochs=2", f"{ACTOR}.entropy_coeff=0.01"],
]
CORRECTIONS = [
    *(["algorithm.rollout_correction.rollout_is=" + level] for level in WEIGHTS),
    *(
        [f"algorithm.rollout_correction.rollout_rs={level}", "algorithm.rollout_correction.rollout_rs_threshold=2.0"]
        for level in REJECTIONS
    ),
]
FILTERED = [
    *("algorithm.filter_groups.enable=true", "rollout.n=5", "data.train_batch_size=8"),
    f"{ACTOR}.ppo_mini_batch_size=8",
]


def of_estimator(name: str) -> str:
    """Return the override that chooses an estimator: by its file in conf/algorithm, if it has one."""
    name = {"gae": "ppo"}.get(name, name)
    return f"algorithm={name}" if name in options("algorithm") else f"algorithm.adv_estimator={name}"


def choices() -> list[list[str]]:
    """Return the overrides of each run."""
    found = []
    for number in range(max(len(TRAINED), len(LOSSES), len(CORRECTIONS))):
        estimator = TRAINED[number % len(TRAINED)]
        found.append(
            [
                of_estimator(estimator),
                *(loss := LOSSES[number % len(LOSSES)]),
                *([] if loss[0].endswith(OWN_MEANS) else [f"{ACTOR}.loss_agg_mode={AGGREGATIONS[number % 5]}"]),
                f"reward.reward_manager.name={REWARD_MANAGERS[number % len(REWARD_MANAGERS)]}",
                f"{ACTOR}.optim.lr_scheduler_type={SCHEDULES[number // 2 % len(SCHEDULES)]}",
                *SAMPLING[number % len(SAMPLING)],
                *CORRECTIONS[number % len(CORRECTIONS)],
            ]
        )
    found += [
        [*FILTERED, "algorithm.filter_groups.metric=reward"],
        # What DAPO filters, penalises and saves: veRL's metrics of such a step are not all numbers.
        [*FILTERED, "algorithm=dapo", "trainer.save_freq=1"],
    ]
    return found


CHOICES = choices()
MICRO = f"{ACTOR}.ppo_micro_batch_size_per_gpu"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[PlannedRun]:
    """Train all runs of CHOICES, one after the other in one launch, and one more that no plan has checked."""
    folder: Path = tmp_path_factory.mktemp("choices")
    register_resolvers()
    places = (override("runs_dir", str(folder / "runs")), override("data_dir", str(folder / "data")))
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        composer = Composer.of_running_hydra()
        runs = plan_runs([composer.compose([*SHIPPED, *COMMON, *places, *choice]) for choice in CHOICES])
    unchecked = RunDir(folder / "runs" / "unchecked-00000001")
    changed = with_values(runs[0].config, {MICRO: 32, "trainer.default_local_dir": str(unchecked.checkpoints)})
    runs.append(replace(runs[0], name=unchecked.path.name, folder=unchecked, config=changed))
    handler = signal.getsignal(signal.SIGINT)
    try:
        run_all(runs, Standby())
    finally:
        signal.signal(signal.SIGINT, handler)
    return runs


def test_every_value_of_every_list_is_in_a_run() -> None:
    asked = set(itertools.chain(*CHOICES))
    assert {of_estimator(name) for name in TRAINED} <= asked
    assert {f"{ACTOR}.policy_loss.loss_mode={mode}" for mode in LOSS_MODES} <= asked
    assert {f"{ACTOR}.loss_agg_mode={mode}" for mode in AGGREGATIONS} <= asked
    assert {f"reward.reward_manager.name={name}" for name in REWARD_MANAGERS} <= asked
    assert {f"{ACTOR}.optim.lr_scheduler_type={name}" for name in SCHEDULES} <= asked
    assert all(set(values) <= asked for values in (*SAMPLING, *CORRECTIONS))


@pytest.mark.parametrize("number", range(len(CHOICES)), ids=[" ".join(choice[:2]) for choice in CHOICES])
def test_a_step_is_trained(trained: list[PlannedRun], number: int) -> None:
    run = trained[number].folder
    assert run.state() == "finished", run.events()[-1]
    row = rows(run)[1]
    assert row["actor/grad_norm"] > 0 and math.isfinite(row["actor/grad_norm"])
    answers = 1 if f"{VALIDATION}.temperature=0" in CHOICES[number] else 2  # greedy answers to a problem are all equal
    assert math.isfinite(row["actor/pg_loss"]) and math.isfinite(row[f"val-core/countdown/acc/mean@{answers}"])
    if "gen_batch_size" in " ".join(CHOICES[number]):
        assert row["rollout/failed_samples"] == 0
    if CHOICES[number][: len(FILTERED)] == FILTERED:
        assert row["training/filter_groups/evicted_samples"] > 0
        scores: dict[str, set[float]] = {}
        for sample in _samples(trained[number]):
            scores.setdefault(sample["uid"].rsplit("_", 2)[0], set()).add(sample["score"])
        assert len(scores) == 8 and all(len(group) > 1 for group in scores.values()), "only groups with a signal"
    if "algorithm=dapo" in CHOICES[number]:
        samples = _samples(trained[number])
        least = min(sample["score"] for sample in samples)
        assert row["critic/score/min"] == least - 1, "a response of full length is penalised"
        right = [{sample["acc"] for sample in samples if sample["uid"].startswith(f"{uid}_")} for uid in scores]
        assert all(group == {0, 1} for group in right), "the penalty alone is no signal"
        assert run.checkpoint_step() == 1


def test_what_a_plan_refuses_fails_as_predicted(trained: list[PlannedRun]) -> None:
    run, config = trained[-1].folder, trained[-1].config
    assert problems_of(trained[0].config) == []
    assert problems_of(config) == [f"{MICRO} must divide the 48 samples of a GPU, but is 32; set {MICRO}=24"]
    failed = run.events()[-1]
    assert (failed["event"], failed["kind"]) == ("failed", "configuration")
    assert failed["cause"].startswith("AssertionError: data size must be divisible by ")
    assert 1 not in rows(run), "it sampled, and could not train"
    assert left_behind(run) == []


def _samples(run: PlannedRun) -> list[dict]:
    from experiments.store.files import read_jsonl

    return read_jsonl(run.folder.attempts()[0].rollouts / "1.jsonl")[0]
