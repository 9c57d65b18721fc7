"""sweeps/*.yaml, config/sweep_files.py and the sweeper: one factor at a time, the baseline once, mistakes reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from experiments.config.sweep_files import load_sweeps
from experiments.config.sweep_jobs import jobs
from experiments.errors import UserError
from experiments.project import SWEEPS_DIR

SHIPPED = sorted(file.stem for file in SWEEPS_DIR.glob("*.yaml"))


def problems(*names: str, folder: Path = SWEEPS_DIR) -> list[str]:
    with pytest.raises(UserError) as refused:
        load_sweeps(names, folder)
    return list(refused.value.problems)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_file_is_a_sweep_whose_first_line_runs_it(name: str) -> None:
    sweeps = load_sweeps([name])
    text = (SWEEPS_DIR / f"{name}.yaml").read_text()
    assert text.startswith(f"# python -m experiments.run -m sweeps={name}\n")
    for sweep in sweeps:
        assert sweep.seeds and sweep.title
        values = [level.value for level in sweep.levels]
        for claim in sweep.claims:
            assert set(claim.levels) <= set(values), claim.name
            assert claim.text.endswith(".") and claim.levels
        assert len({claim.name for claim in sweep.claims}) == len(sweep.claims)


def test_the_article_s_sweeps() -> None:
    levels = {sweep.name: (sweep.factor, [level.value for level in sweep.levels]) for sweep in load_sweeps(["all"])}
    assert levels == {
        "temperature": ("rollout.temperature", [0.6, 1.0, 1.2]),
        "algorithm": ("algorithm", ["grpo", "ppo"]),
        "rollout_n": ("rollout.n", [3, 5, 8]),
        "kl": ("kl.coef", [0, 0.001, 0.01]),
    }


def test_a_sweep_named_twice_is_one() -> None:
    assert [sweep.name for sweep in load_sweeps(["kl", "all", "kl"])] == ["kl", "temperature", "algorithm", "rollout_n"]


def test_a_sweep_is_its_levels_times_seeds_times_what_else_varies() -> None:
    assert jobs(["sweeps=algorithm", "kl.coef=0,0.1", "seed=7"]) == [
        ["kl.coef=0", "seed=7", "algorithm=grpo", "sweeps=[algorithm]"],
        ["kl.coef=0.1", "seed=7", "algorithm=grpo", "sweeps=[algorithm]"],
        ["kl.coef=0", "seed=7", "algorithm=ppo", "sweeps=[algorithm]"],
        ["kl.coef=0.1", "seed=7", "algorithm=ppo", "sweeps=[algorithm]"],
    ]
    assert len(jobs(["sweeps=all"])) == 33
    assert jobs(["sweeps=temperature,kl"]) == jobs(["sweeps=[temperature,kl]"])
    assert {job[-2] for job in jobs(["sweeps=kl"])} == {"seed=1", "seed=2", "seed=3"}


def test_without_a_sweep_it_is_hydra_s_own_syntax() -> None:
    assert jobs(["rollout.n=3,5", "seed=range(1,3)", "kl.coef=0"]) == [
        ["rollout.n=3", "seed=1", "kl.coef=0"],
        ["rollout.n=3", "seed=2", "kl.coef=0"],
        ["rollout.n=5", "seed=1", "kl.coef=0"],
        ["rollout.n=5", "seed=2", "kl.coef=0"],
    ]
    assert jobs([]) == [[]]


# Mistakes


def write(folder: Path, name: str, content: object) -> None:
    (folder / f"{name}.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))


GOOD = {"title": "t", "factor": "rollout.n", "levels": [{"value": 3}, {"value": 5}]}
CLAIM = {"name": "c", "text": "t.", "metric": "m", "order": [3, 5]}
BROKEN = {
    "an empty sweep": ({**GOOD, "levels": []}, "must have levels, but has none"),
    "no factor": (
        {"levels": [{"value": 1}]},
        "must look like the other files there, but reading it raised KeyError('factor')",
    ),
    "an empty include": ({"include": []}, "must include a list of files of sweeps/, but includes []; try ["),
    "an include of nothing": ({"include": None}, "must include a list of files of sweeps/, but includes None"),
    "a text to include": ({"include": "ends"}, "must include a list of files of sweeps/, but includes 'ends'"),
    "no YAML": ("a: [", "must be YAML, but can't be read"),
    "a list": ("- 1", "but has no mapping"),
    "a misspelt key": ({**GOOD, "level": []}, "but has level; drop it"),
    "a claim of no kind": ({**GOOD, "claims": [{"name": "c"}]}, "claim c must have one of order"),
    "a claim of two kinds": ({**GOOD, "claims": [{**CLAIM, "close": [3]}]}, "claim c must have one of order"),
    "a claim about no time": ({**GOOD, "claims": [{**CLAIM, "at": [0.5, 0.5]}]}, "must be two rising shares"),
    "levels without a value": ({**GOOD, "levels": [3, 5]}, "must look like the other files"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_in_a_file_is_told(tmp_path: Path, name: str) -> None:
    content, expected = BROKEN[name]
    write(tmp_path, "mine", content)
    (problem,) = problems("mine", folder=tmp_path)
    assert expected in problem and problem.startswith("sweeps/mine.yaml must")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "good", GOOD)
    write(tmp_path, "bad", {**GOOD, "levels": []})
    write(tmp_path, "both", {"include": ["bad", "god"]})
    assert problems("both", "zzz", folder=tmp_path) == [
        "sweeps/bad.yaml must have levels, but has none; list the factor's values under levels",
        "sweeps must name files of sweeps/, but there is no god.yaml; did you mean good?",
        "sweeps must name files of sweeps/, but there is no zzz.yaml; take some of bad, both, good",
    ]
    assert "names none" in problems(folder=tmp_path)[0]
