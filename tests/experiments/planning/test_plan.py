"""planning/plan.py: the requested runs, compared with the runs that are already in the folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiments.config.sweep_compose import Composed, Composer
from experiments.errors import UserError
from experiments.planning import content
from experiments.planning.content import code_version, plugin_code
from experiments.planning.cost import costs
from experiments.planning.plan import LeftOut, attempt_arguments, distinct, freeze, not_fetched, plan_runs
from experiments.planning.show import skips, summary, words
from experiments.project import CONFIG_DIR, PACKAGE_DIR
from experiments.store.metrics import final_accuracy
from tests.experiments.conftest import SHIPPED, Ask
from tests.experiments.pretended import pretend

T06 = "rollout.temperature=0.6"


def test_a_run_is_named_by_its_arm_and_seed(ask: Ask) -> None:
    baseline, cooler = ask("", f"{T06} seed=2")
    assert baseline.name == f"experiment=smoke,seed=1-{baseline.folder.id}"
    assert cooler.name == f"experiment=smoke,temperature=0.6,seed=2-{cooler.folder.id}"
    config = cooler.config
    assert config["trainer"]["experiment_name"] == cooler.folder.path.name
    assert config["tracking"]["group"] == "experiment=smoke,temperature=0.6"
    assert config["tracking"]["tags"] == ["experiment=smoke", "temperature=0.6", "seed=2"]


def test_the_same_content_is_the_same_run_however_it_is_asked_for(ask: Ask) -> None:
    same = ask(
        T06,
        f"{T06}0",
        f"+{T06}0 seed=1".replace("+", "++"),
        f"{T06} data_dir=/nowhere/else/{'x'} data_dir={ask(T06)[0].config['data_dir']}",
        f"{T06} hardware.gpus_per_node=1 trainer.save_freq=7 tracking=none trainer.total_training_steps=9",
        f'{T06} actor_rollout_ref.actor.optim.lr="4e-4"',
    )
    assert len({run.folder.id for run in same}) == 1 and len(distinct(same)) == 1


def test_a_run_keeps_the_folder_that_it_was_first_given(ask: Ask, tmp_path: Path) -> None:
    (run,) = ask("algorithm=ppo")
    freeze(run)
    run.folder.path.rename(tmp_path / "runs" / f"an old name-{run.folder.id}")
    (again,) = ask("algorithm=ppo")
    assert again.folder.path.name == again.config["trainer"]["experiment_name"] == f"an old name-{run.folder.id}"


def test_asking_again(ask: Ask) -> None:
    """A run is new, then done, extended by more steps, resumed after a failure. Only a further level is new then."""
    (run,) = ask("")
    assert (run.action, words(run)) == ("start", "new")
    pretend(run, 2, "finished")
    one, other = ask("", T06)
    assert [words(one), words(other)] == ["done", "new"]
    (longer, _) = ask("", "trainer.total_training_steps=5")
    assert (words(longer), longer.steps) == ("extend from step 2", 5), "of two wishes the longer"
    pretend(other, 1, "failed")
    assert words(ask(T06)[0]) == "resume at step 1 (failed: out of memory)"


def test_data_and_models_are_known_by_content(ask: Ask, tmp_path: Path) -> None:
    (generated,) = ask("")
    files = {key: Path(generated.config["data"][f"{key}_files"]) for key in ("train", "val")}
    copies = {key: tmp_path / f"{key}.parquet" for key in files}
    for key, file in files.items():
        copies[key].write_bytes(file.read_bytes())
    own = f"data.train_files={copies['train']} data.val_files={copies['val']}"
    original = f"data.train_files={files['train']} data.val_files={files['val']}"
    first, second, changed = ask(own, original, f"data.train_files={files['val']} data.val_files={files['val']} ")
    assert first.folder.id == second.folder.id, "the same bytes elsewhere"
    assert changed.folder.id != first.folder.id
    assert len(plugin_code()) == 12 and first.config["plugin"]["code"] == plugin_code()
    assert first.config["task"]["code"] and first.config["model"]["digest"]


def test_paths_are_frozen_whole_since_an_attempt_works_elsewhere(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (generated,) = ask("")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(generated.config["model"]["path"], tmp_path / "home" / "model")
    for key in ("train", "val"):
        shutil.copyfile(generated.config["data"][f"{key}_files"], tmp_path / f"{key}.parquet")
    monkeypatch.chdir(tmp_path)
    (run,) = ask('model.path="~/model" data.train_files=[train.parquet,train.parquet] data.val_files=./val.parquet')
    assert run.config["model"]["path"] == str(tmp_path / "home" / "model")
    assert run.config["actor_rollout_ref"]["model"]["path"] == run.config["model"]["path"]
    assert run.config["data"]["train_files"] == [str(tmp_path / "train.parquet")] * 2
    assert run.config["data"]["val_files"] == str(tmp_path / "val.parquet")
    (own,) = ask("data.val_files=val.parquet")
    assert own.config["data"]["train_files"] == generated.config["data"]["train_files"], "made, beside a file of one's"


def test_two_models_on_the_hub_are_two_runs(ask: Ask) -> None:
    one, other = ask("model.path=me/one", "model.path=me/other")
    assert one.folder.id != other.folder.id and one.config["model"]["digest"] == "hub:me/one@main"


def test_a_model_in_the_hub_s_cache_is_known_by_its_revision_however_it_is_named(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (unknown,) = ask("model.path=me/tiny")
    assert not_fetched([unknown]) == ["me/tiny"]
    cached = tmp_path / "hub" / "models--me--tiny"
    (cached / "refs").mkdir(parents=True)
    runs = []
    for commit in ("a" * 40, "b" * 40):
        snapshot = cached / "snapshots" / commit
        shutil.copytree(CONFIG_DIR.parent / "experiments" / "tiny_model" / "weights", snapshot)
        (cached / "refs" / "main").write_text(commit)
        named, folder = ask("model.path=me/tiny", f"model.path={snapshot}")
        assert named is folder and named.config["model"]["digest"] == f"hub:me/tiny@{commit}"
        assert named.config["actor_rollout_ref"]["model"]["path"] == str(snapshot)
        assert not_fetched([named]) == []
        runs.append(named)
    assert len({run.folder.id for run in (unknown, *runs)}) == 3
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2-of-2.safetensors"}}')
    with pytest.raises(UserError, match=r"lacks model-2-of-2\.safetensors; run `hf download me/tiny`"):
        ask("model.path=me/tiny")


def test_runs_know_the_sweeps_that_they_serve(ask: Ask) -> None:
    runs = ask("sweeps=[temperature]", f"sweeps=[temperature] {T06}", "sweeps=[kl]", "sweeps=[kl] kl.coef=0")
    assert [run.config["sweeps"] for run in distinct(runs)] == [["temperature", "kl"], ["temperature"], ["kl"]]
    lines = summary(distinct(runs), costs(distinct(runs)), len(runs))
    assert lines[-1].startswith("4 runs were asked for, 3 of them are different: that saves 1 run, ")


def test_a_sweep_whose_levels_are_one_run_is_refused(ask: Ask) -> None:
    twice = "the arms of sweeps/temperature.yaml must be different runs, but experiment=smoke,seed=1 is asked for twice"
    for one, other, by in (
        (
            "rollout.temperature=1",
            "rollout.temperature=1.0",
            ", by rollout.temperature=1 and by rollout.temperature=1.0",
        ),
        ("seed=1", "seed=1", ""),
        ("kl.coef=0.001", "kl.coef=1e-3", ""),
        ("", "trainer.save_freq=9", ", by default and by trainer.save_freq=9"),
    ):
        with pytest.raises(UserError) as refused:
            ask(f"sweeps=[temperature] {one}", f"sweeps=[temperature] {other}")
        assert refused.value.problems == (f"{twice}{by}; drop one of the two",)


def test_arms_that_were_written_down_and_are_one_run_are_refused(composer: Composer, data_dir: Path) -> None:
    """Only written-down arms (`listed`) are refused: a sweeper that optimises may try the same thing twice."""
    jobs = [
        composer.compose([*SHIPPED, "experiment=smoke", f"data_dir={data_dir}", "seed=2", f"kl.coef={coef}"])
        for coef in ("0.5", "0.50")
    ]
    with pytest.raises(UserError, match=r"the arms of a sweep.*smoke,kl=0.5,seed=2 is asked for twice; drop one"):
        plan_runs(jobs, listed=True)
    assert len(distinct(plan_runs(jobs))) == 1


CELLS = [["algorithm=ppo", "rollout.n=1"], ["algorithm=ppo", "rollout.n=4"], ["algorithm=grpo", "rollout.n=1"]]


def test_the_cell_that_can_t_be_run_is_named_and_can_be_left_out(
    composer: Composer, data_dir: Path, tmp_path: Path
) -> None:
    common = [*SHIPPED, "experiment=smoke", f"runs_dir={tmp_path / 'runs'}", f"data_dir={data_dir}"]

    def jobs() -> list[Composed]:
        return [composer.compose([*common, *cell]) for cell in CELLS]

    with pytest.raises(UserError) as refused:
        plan_runs(jobs(), listed=True)
    (problem,) = refused.value.problems
    assert problem.startswith("rollout.n must be at least 2 with GRPO, but is 1")
    assert problem.endswith("(in algorithm=grpo rollout.n=1; skip_invalid=true leaves it out)")

    left_out: list[LeftOut] = []
    runs = plan_runs(jobs(), listed=True, left_out=left_out)
    assert [run.config["tracking"]["group"] for run in runs] == [
        "experiment=smoke,algorithm=ppo,n=1",
        "experiment=smoke,algorithm=ppo,n=4",
    ]
    ((place, cell),) = [(one.place, one.cell) for one in left_out]
    assert (place, cell) == (2, "algorithm=grpo rollout.n=1")
    (line,) = skips(left_out)
    assert line.startswith("left out: algorithm=grpo rollout.n=1: rollout.n must be at least 2")
    with pytest.raises(UserError, match="at least 2 with GRPO"):
        plan_runs(jobs()[2:], listed=True, left_out=[])


def test_two_models_of_one_name_are_two_arms(ask: Ask, tmp_path: Path) -> None:
    """Their folders end alike; each arm has a W&B group of its own, whatever else the command asks for."""
    folders = [tmp_path / parent / "models" / "mine" for parent in "ab"]
    for number, folder in enumerate(folders):
        shutil.copytree(PACKAGE_DIR / "tiny_model" / "weights", folder)
        (folder / "note.txt").write_text(str(number))
    runs = ask(*(f"model.path={folder}" for folder in folders))
    groups = [run.config["tracking"]["group"] for run in runs]
    assert len({run.folder.id for run in runs}) == len(set(groups)) == 2
    assert [ask(f"model.path={folder}")[0].config["tracking"]["group"] for folder in folders] == groups


def test_all_problems_of_all_arms_are_told_at_once(ask: Ask) -> None:
    with pytest.raises(UserError) as refused:
        ask("rollout.n=1", "kl.coef=-1", "kl.coef=-1 seed=2", "model.path=/no/model", T06)
    keys = [problem.split(" must")[0] for problem in refused.value.problems]
    assert keys == ["rollout.n", "kl.coef", "model.path"]


def test_a_model_beside_model_path_is_refused(ask: Ask) -> None:
    """The identity has only the content of model.path, so no other model may be read."""
    with pytest.raises(UserError) as refused:
        ask("actor_rollout_ref.model.path=/other", "algorithm=ppo critic.model.tokenizer_path=/other", "model.path=/no")
    assert [problem.split(", but")[0].split(", /")[0] for problem in refused.value.problems] == [
        "actor_rollout_ref.model.path must be model.path",
        "critic.model.tokenizer_path must be model.path",
        "model.path must be a folder or a name on the hub",
    ]
    assert ask("actor_rollout_ref.model.tokenizer_path=${model.path}")[0].folder.id == ask("")[0].folder.id


def test_an_extension_that_came_to_nothing_leaves_the_run_done(ask: Ask) -> None:
    for end in ("cancelled", "failed", "interrupted", "started"):
        (run,) = ask(f"seed={len(end)}")
        pretend(run, 2, "finished")
        run.folder.record("started", steps=5)
        run.folder.record(end)
        again, longer = ask(f"seed={len(end)}")[0], ask(f"seed={len(end)} trainer.total_training_steps=5")[0]
        assert (again.action, longer.action) == ("skip", "resume"), end


def test_more_steps_of_a_learning_rate_that_depends_on_them_are_another_run(ask: Ask) -> None:
    optim = "actor_rollout_ref.actor.optim"
    for schedule in (f"{optim}.lr_scheduler_type=cosine", f"{optim}.lr_warmup_steps_ratio=0.1"):
        short, long = ask(schedule, f"{schedule} trainer.total_training_steps=5")
        assert short.folder.id != long.folder.id
    fixed = f"{optim}.lr_warmup_steps=3"
    short, long = ask(fixed, f"{fixed} trainer.total_training_steps=5")
    assert short.folder.id == long.folder.id


# A later launch


def test_what_a_later_launch_changes_is_frozen_beside_the_first(ask: Ask) -> None:
    first = freeze(ask("")[0])
    assert first.frozen == freeze(ask("sweeps=[kl] trainer.total_training_steps=9")[0]).frozen == "config.yaml"
    smaller = "actor_rollout_ref.rollout.max_num_seqs=512 trainer.save_freq=7"
    second = freeze(ask(smaller)[0])
    assert second.folder.path == first.folder.path and second.frozen != first.frozen
    assert freeze(ask(smaller)[0]).frozen == second.frozen
    assert second.folder.load_config(second.frozen)["trainer"]["save_freq"] == 7
    assert first.folder.load_config() == first.config, "what waits with the first config keeps it"
    assert attempt_arguments(second)[1:] == ["--steps", "2", "--config", second.frozen]
    assert [event["event"] for event in first.folder.events()] == ["planned"]
    first.folder.record("started", config=second.frozen)
    assert first.folder.load_config()["trainer"]["save_freq"] == 7, "by default what the last attempt had"


def test_a_checkpoint_is_not_read_by_another_number_of_processes(ask: Ask) -> None:
    (run,) = ask("hardware.gpus_per_node=2")
    freeze(run)
    assert ask("hardware.gpus_per_node=1")[0].action == "start", "without a checkpoint nothing is lost"
    pretend(run, 1, "failed")
    shards = run.folder.checkpoints / "global_step_1" / "actor"
    shards.mkdir()
    for rank in (0, 1):
        (shards / f"model_world_size_2_rank_{rank}.pt").touch()
    assert ask("hardware.gpus_per_node=2")[0].action == "resume"
    with pytest.raises(UserError, match=r"must go on with 2 GPUs.*step 1 .* asked for with 1; set hardware.gpus_per"):
        ask("hardware.gpus_per_node=1")


# A folder that is in the way


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda path: (path / "config.yaml").write_text("day: 2025-13-45\n"), "config.yaml can't be read: month must"),
        (
            lambda path: (path / "config.yaml").write_text("seed: 1\n"),
            "must hold the config of .{8}, but holds another",
        ),
        (lambda path: (path / "attempts").write_text(""), "its attempts is a file"),
        (lambda path: (path / "code.json").write_text('{"a": 1, "format": 99}'), "must be at most 1, but is 99"),
        (lambda path: (shutil.rmtree(path), path.write_text("")), "must be a run's folder, but is a file"),
    ],
)
def test_a_folder_that_can_t_be_the_run_is_refused_and_others_go_on(ask: Ask, damage: Any, says: str) -> None:
    (run,) = ask("")
    freeze(run)
    damage(run.folder.path)
    with pytest.raises(UserError, match=says) as refused:
        ask("")
    assert len(refused.value.problems) == 1 and str(run.folder.path) in refused.value.problems[0]
    assert ask(T06)[0].action == "start"


def test_what_a_sweeper_maximises_is_the_last_sampled_accuracy(ask: Ask) -> None:
    (run,) = ask("")
    assert final_accuracy(run.folder) is None
    pretend(run, 2, "finished")
    assert final_accuracy(run.folder) == 0.25


def test_epochs_are_frozen_as_verl_counts_them(ask: Ask) -> None:
    runs = ask("actor_rollout_ref.actor.ppo_epochs=1.0", "", "actor_rollout_ref.actor.ppo_epochs=1")
    assert len({run.folder.id for run in runs}) == 1
    actor, critic = (runs[0].config["actor_rollout_ref"]["actor"], runs[0].config["critic"])
    assert [type(section["ppo_epochs"]) for section in (actor, critic)] == [int, int]


def test_a_working_tree_in_any_encoding_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=me", "-c", "user.email=me@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "latin").write_bytes(b"one\n")
    git("add", ".")
    git("commit", "-m", "one")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    monkeypatch.setattr(content, "PROJECT_DIR", tmp_path)
    code_version.cache_clear()
    try:
        version = code_version()
    finally:
        code_version.cache_clear()
    assert len(version["commit"]) == 40 and "+caf\ufffd" in version["diff"]
