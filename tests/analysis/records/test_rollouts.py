"""The texts of a run: which file holds a step, and what they say."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from analysis.design.ablations import find_ablations
from analysis.figures.responses import extras
from analysis.plot_ablation import main
from analysis.records.rollouts import PHRASES, find_rollouts, parse_phrases
from analysis.sources.run_folders import RunFolders

MakeRun = Callable[..., Path]


def dump(run: Path, attempt: int, step: int, *texts: str, kind: str = "rollouts") -> Path:
    file = run / "attempts" / str(attempt) / kind / f"{step}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps({"output": text, "score": 0.1}) + "\n" for text in texts))
    return file


def test_a_later_attempt_wins_from_its_first_step_and_damage_is_passed_over(make: MakeRun, runs: Path) -> None:
    run = make(legs=((1, 6), (4, 8)))
    for step in (1, 2, 3, 4, 5, 6):
        dump(run, 1, step, "Wait, no.", "this works")
    damaged = dump(run, 2, 4, "wait", "WAIT", "this works", "none")
    damaged.write_text(damaged.read_text() + '{"output": "wait')
    ((record,), _) = RunFolders(runs).read()
    rollouts = find_rollouts(record)
    assert [path.parts[-3] for path in rollouts.files.values()] == ["1", "1", "1", "2"]
    assert rollouts.shares(["wait", "this works", "how about"]) == {
        **{step: [0.5, 0.5, 0.0] for step in (1, 2, 3)},
        4: [0.5, 0.25, 0.0],
    }
    assert [row["output"] for row in rollouts.read(4, most=2)] == ["wait", "WAIT"]
    assert find_rollouts(record, "validation").files == {}


def test_the_other_figures_show_what_was_recorded(make: MakeRun, runs: Path, tmp_path: Path) -> None:
    for temperature in (0.6, 1.0):
        for seed in (1, 2):
            run = make(temperature=temperature, seed=seed, steps=20)
            for step in (1, 2):
                dump(run, 1, step, *(["let's try"] * seed), "no")
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    phrases = ["let's try", "how about"]
    said = {run.name: find_rollouts(run).shares(phrases) for run in ablation.runs}
    figures = {extra.name: extra for extra in extras(ablation, None, said, phrases)}
    assert list(figures) == ["composition", "phrases"], "no phases of a step were recorded"
    head, *rows = figures["composition"].numbers
    assert head == ["arm", "step", "x", "correct", "formatted but wrong", "wrong format", "length"]
    assert [row[1] for row in rows] == [*range(1, 21)] * 2
    assert all(sum(map(float, row[3:6])) == pytest.approx(1) for row in rows)
    assert figures["phrases"].numbers == [
        ["arm", "step", "x", "let's try"],
        *([f"temperature={t}", step, str(step), repr((1 / 2 + 2 / 3) / 2)] for t in ("0.6", "1.0") for step in (1, 2)),
    ]
    out = tmp_path / "figures"
    assert main(["--source", str(runs), "--out", str(out), "--phrases", "no, how about", "--x", "gpu_hours"]) == 0
    for name in ("phrases", "composition"):
        with open(out / f"temperature-{name}.csv", newline="") as file:
            _, first, second, *_ = csv.reader(file)
        assert [float(row[2]) for row in (first, second)] == pytest.approx([1.71 / 3600, (1.71 + 1.72) / 3600])
    assert (out / "temperature-phrases.csv").read_text().splitlines()[0] == "arm,step,x,no"
    assert (out / "temperature-composition.pdf").read_bytes().startswith(b"%PDF")


def test_the_time_of_a_step_is_divided_into_phases(make: MakeRun, runs: Path) -> None:
    timing = {"timing_s/gen": 2.0, "timing_s/update_actor": 3.0, "timing_s/step": 6.0, "perf/throughput": 100.0}
    for temperature in (0.6, 1.0):
        rows = [(step, {"training/global_step": step, **timing}) for step in (1, 2)]
        make(temperature=temperature, attempts=[rows], steps=2)
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    (figure,) = extras(ablation)
    assert figure.numbers[0][-1] == "tokens a second and device", "as veRL logs it"
    assert figure.numbers[1] == ["temperature=0.6", "2.0", "3.0", "1.0", "6.0", "100.0"]


def test_the_time_of_a_step_of_early_verl_is_read_too(make: MakeRun, runs: Path) -> None:
    timing = {"timing/gen": 2.0, "timing/update_actor": 3.0, "timing/step": 6.0}
    make(attempts=[[(step, {"actor/pg_loss": 1.0, **timing}) for step in (1, 2)]], steps=2)
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    (figure,) = extras(ablation)
    assert figure.numbers[0][1:4] == ["gen", "update_actor", "rest"]
    assert figure.numbers[1][1:5] == ["2.0", "3.0", "1.0", "6.0"]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a, b", ("a", "b")),
        (r"ok\, how about,wait", ("ok, how about", "wait")),
        ("", PHRASES),
        (" , ", PHRASES),
    ],
)
def test_phrases_are_parted_by_commas(text: str, phrases: Sequence[str]) -> None:
    assert tuple(parse_phrases(text)) == tuple(phrases)


def test_an_apostrophe_is_one_however_it_is_set(make: MakeRun, runs: Path) -> None:
    run = make(steps=3)
    for step in (1, 2, 3):
        dump(run, 1, step, "Let\u2019s try 2 + 2", "let's try", "nothing")
    ((record,), _) = RunFolders(runs).read()
    for phrase in ("let's try", "Let\u2019s try"):
        assert find_rollouts(record).shares([phrase]) == {step: [2 / 3] for step in (1, 2, 3)}
    assert list(find_rollouts(record).shares(["let"], every=3)) == [1, 3]


def test_a_process_that_is_killed_while_drawing_is_told(
    make: MakeRun, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(steps=3)
    monkeypatch.setattr("analysis.pages.rendering.extras", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert main(["--source", str(runs), "--out", str(tmp_path / "out")]) == 2
    assert "error: the processes that draw must live until they are done" in capsys.readouterr().err
