"""Real trainings with real veRL on the CPU. Each is as small as possible; together they take a few minutes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from analysis.figures.timings import PHASES
from experiments.config.verl import override
from experiments.store.files import read_jsonl
from experiments.store.memory_peak import peak_of
from experiments.store.rundir import find_runs
from tests.e2e.training import (
    SECRET,
    Command,
    arguments,
    clean_environment,
    cut_short,
    left_behind,
    numbers,
    rows,
    train,
)

WEIGHTS = Path(__file__).parents[2] / "experiments" / "tiny_model" / "weights"


def test_a_run_trains_and_leaves_its_records_and_nothing_else(straight: Command) -> None:
    assert straight.code == 0, straight.output
    run = straight.run
    assert run.state() == "finished"
    history = rows(run)
    assert sorted(history) == [0, 1, 2, 3, 4]
    for step in (1, 2, 3, 4):
        assert history[step]["training/global_step"] == step
        assert 0 <= history[step]["reward/acc/mean"] <= history[step]["reward/format/mean"] <= 1
        assert history[step]["critic/score/mean"] == pytest.approx(history[step]["reward/score/mean"], abs=1e-6)
        assert history[step]["rollout/failed_samples"] == 0
        assert history[step]["actor/grad_norm"] > 0
    assert {"val-core/countdown/acc/mean@4", "val-core/countdown_greedy/acc/mean@1"} <= set(history[0])
    assert left_behind(run) == []


def test_rollout_and_trainer_agree_on_probabilities(straight: Command) -> None:
    for step, row in rows(straight.run).items():
        if step:
            assert row["training/rollout_probs_diff_mean"] < 1e-6 and row["training/rollout_probs_diff_max"] < 1e-5


def test_the_phases_of_a_step_make_up_its_time(straight: Command) -> None:
    for step, row in rows(straight.run).items():
        if step:
            phases = [value for name, value in row.items() if name.startswith("timing_s/") and name[9:] in PHASES]
            assert sum(phases) == pytest.approx(row["timing_s/step"], rel=0.1), row
            assert row["timing_s/gen"] > 0.02, "sampling is a phase of its own"


def test_the_memory_of_all_its_processes_is_known(straight: Command) -> None:
    assert 1.0 < peak_of(straight.run) / 2**30 < 4.0, "half a dozen processes and a Ray cluster"


def test_every_rollout_is_dumped_with_its_score_parts(straight: Command) -> None:
    attempt = straight.run.attempts()[0]
    for step in (1, 2, 3, 4):
        dumped, damaged = read_jsonl(attempt.rollouts / f"{step}.jsonl")
        assert damaged == 0 and len(dumped) == 16 * 5
        assert all({"input", "output", "gts", "score", "acc", "format", "hack", "uid"} <= set(row) for row in dumped)
        mean = sum(row["score"] for row in dumped) / len(dumped)
        assert mean == pytest.approx(rows(straight.run)[step]["critic/score/mean"], abs=1e-6)
        assert len({row["uid"] for row in dumped}) == len(dumped)
    assert len(read_jsonl(attempt.validation / "4.jsonl")[0]) == (4 + 1) * 8


def test_a_checkpoint_answers_as_the_trainer_s_own_validation_did(
    straight: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts, merged weights, sampler and reward together: the greedy answers are those of the run's validation."""
    from experiments.trained import policy, problems
    from experiments.trained.sampling import Sampling
    from experiments.trained.scoring import Scorer

    monkeypatch.setenv("R1Z_CORES", "1")  # two threads would wait for each other where tests share cores
    config = straight.run.load_config()
    dumped = read_jsonl(straight.run.attempts()[0].validation / "4.jsonl")[0]
    expected = [row for row in dumped if row["data_source"] == "countdown_greedy"]
    asked, scorer = problems.validation_problems(config), Scorer(config)
    with policy.opened(straight.run, config, 4) as trained:
        wanted = [policy.Asked(trained.prompt(problem), problem.index, 0) for problem in asked]
        texts = [text for text, _ in trained.texts(wanted, Sampling.of(config).greedy())]
        found = {trained.seen(one.prompt): text for one, text in zip(wanted, texts, strict=True)}
    assert found == {row["input"]: row["output"] for row in expected}
    scores = [scorer.score(problem, text) for problem, text in zip(asked, texts, strict=True)]
    assert sorted(score["score"] for score in scores) == sorted(row["score"] for row in expected)


def test_wandb_files_carry_the_runs_id_group_and_tags_and_no_secret(straight: Command) -> None:
    run = straight.run
    files = list(run.attempts()[0].path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 1
    assert files[0].name == f"run-{run.path.name.rsplit('-', 1)[1]}.wandb"
    content = files[0].read_bytes()
    assert b"experiment=smoke" in content
    written = [path for path in run.path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(written) > 20
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in straight.output


def test_checkpoints_are_kept_to_the_last_two(straight: Command) -> None:
    kept = sorted(path.name for path in straight.run.checkpoints.glob("global_step_*"))
    assert kept == ["global_step_3", "global_step_4"]
    steps = [event["step"] for event in straight.run.events() if event["event"] == "checkpoint"]
    assert steps == [1, 2, 3, 4]


def test_asked_again_it_starts_nothing(straight: Command, folder: Path) -> None:
    before = straight.run.events()
    again = train(folder / "straight", "trainer.total_training_steps=4")
    assert again.code == 0 and "done" in again.output
    assert straight.run.events() == before


def test_a_resumed_run_equals_a_straight_one(straight: Command, folder: Path) -> None:
    """Two steps, then two more in a second process. Steps 1 and 2 also show that the seed decides a run's numbers."""
    first = train(folder / "resumed", "trainer.total_training_steps=2", "tracking=none")
    assert first.code == 0, first.output
    smaller = ("trainer.save_freq=4", "actor_rollout_ref.rollout.max_num_seqs=600")
    second = train(folder / "resumed", "trainer.total_training_steps=4", "tracking=none", *smaller)
    assert second.code == 0 and "extend from step 2" in second.output, second.output
    assert [event["step"] for event in second.run.events() if event["event"] == "resumed"] == [2]
    # Settings that cannot change the result are those of the second command.
    assert [event["step"] for event in second.run.events() if event["event"] == "checkpoint"] == [1, 2, 4]
    assert "'max_num_seqs': 600" in second.run.attempts()[1].log.read_text()
    resumed, expected = rows(second.run), rows(straight.run)
    assert sorted(resumed) == sorted(expected)
    for step in (1, 2, 3, 4):
        assert numbers(resumed[step]) == pytest.approx(numbers(expected[step]), rel=1e-4, abs=1e-5), step


def test_the_plain_path_gives_the_same_numbers_and_goes_down_as_cleanly(straight: Command, folder: Path) -> None:
    """The plain path has veRL's own agent loop, transformers' own decoding and padded attention, as a GPU run has."""
    plain = interrupted(folder / "plain", 2, "hardware.fast=false")
    assert plain.run.path.name == straight.run.path.name  # both have the same identity
    for step in (0, 1, 2):
        got, expected = numbers(rows(plain.run)[step]), numbers(rows(straight.run)[step])
        assert got == pytest.approx(expected, rel=2e-3, abs=1e-5), step


TWO_RANKS = ("algorithm=ppo", "hardware.gpus_per_node=2", "tracking=none", "model.path=./weights")


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> Command:
    """PPO on two ranks. The weights are in a folder beside the runs, given by a relative path."""
    shutil.copytree(WEIGHTS, folder / "ppo" / "weights")
    return train(folder / "ppo", *TWO_RANKS)


def test_ppo_with_a_critic_on_two_ranks_resumes(two_ranks: Command, folder: Path) -> None:
    assert two_ranks.code == 0, two_ranks.output
    run, history = two_ranks.run, rows(two_ranks.run)
    assert sorted(history) == [0, 1, 2]
    for step in (1, 2):
        assert history[step]["critic/vf_loss"] > 0
        assert "actor/reward_kl_penalty" in history[step] and "actor/kl_loss" not in history[step]
        assert history[step]["training/rollout_probs_diff_mean"] < 1e-6
        assert history[step]["training/rollout_probs_diff_max"] < 1e-5
    assert len(list(run.checkpoints.glob("global_step_2/*/model_world_size_2_rank_*.pt"))) == 4
    cut_short(run, 1)
    again = train(folder / "ppo", *TWO_RANKS)
    assert again.code == 0, again.output
    assert [event["step"] for event in run.events() if event["event"] == "resumed"] == [1]
    second = [row["data"] for row in read_jsonl(run.attempts()[1].metrics)[0] if row["step"] == 2]
    resumed = {key: value for data in second for key, value in data.items()}
    assert numbers(resumed) == pytest.approx(numbers(history[2]), rel=1e-4, abs=1e-5)


def test_ppo_on_one_rank_gives_the_numbers_of_two(two_ranks: Command, straight: Command, folder: Path) -> None:
    """The data are the user's own files with the same rows, given by relative paths."""
    place = folder / "ppo-one"
    place.mkdir()
    for key in ("train_files", "val_files"):
        shutil.copyfile(straight.run.load_config()["data"][key], place / f"{key}.parquet")
    own = ("data.train_files=train_files.parquet", "data.val_files=val_files.parquet")
    one = train(place, "algorithm=ppo", "tracking=none", "trainer.total_training_steps=1", *own)
    assert one.code == 0, one.output
    for step in (0, 1):
        got, expected = (
            {key: value for key, value in numbers(rows(run)[step]).items() if "seqlen" not in key}  # seqlen is per rank
            for run in (one.run, two_ranks.run)
        )
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-5), step


def interrupted(place: Path, step: int, *overrides: str) -> Command:
    """Train until a step is recorded and saved, then press Ctrl-C twice; assert that only a resumable run is left."""
    place.mkdir()
    command = subprocess.Popen(
        arguments(place, ["trainer.total_training_steps=50", "tracking=none", *overrides]),
        cwd=place,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not any(run.checkpoint_step() >= step and step in rows(run) for run in find_runs(place / "runs")):
        assert command.poll() is None and time.monotonic() < deadline, command.communicate()[0]
        time.sleep(0.1)
    command.send_signal(signal.SIGINT)
    time.sleep(1)
    command.send_signal(signal.SIGINT)  # an impatient user presses again while everything is ending
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 130, output
    assert "Traceback" not in output
    done = Command(command.returncode, output, place / "runs")
    assert done.run.state() == "interrupted"
    assert left_behind(done.run) == []
    return done


def test_ctrl_c_in_the_middle_of_a_step_leaves_a_resumable_run_and_nothing_else(folder: Path) -> None:
    run = interrupted(folder / "interrupted", 2).run
    reached = run.checkpoint_step()
    resumed = train(folder / "interrupted", f"trainer.total_training_steps={reached + 1}", "tracking=none")
    assert resumed.code == 0, resumed.output
    assert resumed.run.state() == "finished" and reached + 1 in rows(resumed.run)


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_step_without_one_usable_sample_stops_the_run_with_the_cause(folder: Path, fast: str) -> None:
    place = folder / f"broken-{fast}"
    place.mkdir()
    reward = place / "reward.py"
    # It raises only in a training: preflight calls it too, but without this variable.
    reward.write_text(
        "import os\n\ndef compute_score(*args, **kwargs):\n    if 'VERL_FILE_LOGGER_PATH' in os.environ:\n"
        "        raise RuntimeError('the scorer has no ink')\n    return 0.0\n"
    )
    done = train(
        place,
        override("reward.custom_reward_function.path", str(reward)),
        "trainer.val_before_train=false",
        f"hardware.fast={fast}",
        "tracking=none",
    )
    assert done.code == 1, done.output
    assert done.run.state() == "failed"
    assert "failed: reward error: RuntimeError: the scorer has no ink" in done.output
    assert not any("training/global_step" in row for row in rows(done.run).values())
