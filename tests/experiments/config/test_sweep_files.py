"""sweeps/*.yaml, config/sweep_files.py and the sweeper: one factor at a time, the baseline once, mistakes reported."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiments.config.sweep_files import KEYS, load_sweeps
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
    (folder / f"{name}.yaml").write_text(
        content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    )


GOOD = {"title": "t", "factor": "rollout.n", "levels": [{"value": 3}, {"value": 5}]}
CLAIM = {"name": "c", "text": "t.", "metric": "m", "order": [3, 5]}


def claiming(*claims: object) -> dict[str, object]:
    return {**GOOD, "claims": list(claims)}


BROKEN = {
    "an empty file": ({}, "have a factor and levels, but is empty"),
    "an empty sweep": ({**GOOD, "levels": []}, "have levels, but has none"),
    "no levels": ({"factor": "rollout.n"}, "have levels, but has none; list the factor's values under levels"),
    "a number of levels": ({**GOOD, "levels": 3}, "have levels, but they are 3; list the factor's values under levels"),
    "no factor": ({"levels": [{"value": 1}]}, "have a factor, but has none; name the key"),
    "a factor that is none": (
        {**GOOD, "factor": ["rollout.n"]},
        "have a factor that is a key of the config or a group",
    ),
    "seeds as a factor": ({**GOOD, "factor": "seed"}, "have a factor other than seed"),
    "levels and arms": ({**GOOD, "arms": [{"rollout.n": 3}]}, "have either arms, or a factor and levels, but has both"),
    "arms that set nothing": ({"arms": [{"label": "x"}]}, "have arms that set something, but one is {'label': 'x'}"),
    "arms that are values": ({"arms": [3]}, "have arms that set something, but one is 3"),
    "a level without a value": ({**GOOD, "levels": [3, {"label": "x"}]}, "have levels with a value, but one is"),
    "two equal levels": ({**GOOD, "levels": [3, 3.0]}, "have levels that differ, but two have the value 3"),
    "two equal labels": (
        {**GOOD, "levels": [3, {"value": 4, "label": "3"}]},
        "have levels that differ, but two have the label '3'",
    ),
    "a value that no config has": (
        "factor: rollout.n\nlevels: [!!binary aGk=]\n",
        "have values that a config can have",
    ),
    "no seeds": ({**GOOD, "seeds": []}, "have seeds that are different whole numbers, but they are []"),
    "text for seeds": ({**GOOD, "seeds": "few"}, "but they are 'few'; try [1, 2, 3], or 3"),
    "half a seed": ({**GOOD, "seeds": [1.5]}, "but they are [1.5]"),
    "a seed twice": ({**GOOD, "seeds": [1, 1]}, "but they are [1, 1]"),
    "an empty include": ({"include": []}, "include a list of files of sweeps/, but includes []; try ["),
    "an include of nothing": ({"include": None}, "include a list of files of sweeps/, but includes None"),
    "a text to include": ({"include": "ends"}, "include a list of files of sweeps/, but includes 'ends'"),
    "an include of itself": ({"include": ["mine"]}, "include files that have arms, but mine includes others"),
    "an include and levels": (
        {**GOOD, "include": ["mine"]},
        "have nothing beside include, but has title, factor, levels",
    ),
    "no YAML": ("a: [", "be YAML, but can't be read"),
    "a tag that does not fit": ("factor: !!bool x", "be YAML, but can't be read"),
    "a key twice": ("factor: rollout.n\nlevels: [3]\nlevels: [5]\n", "be YAML, but can't be read: levels stands twice"),
    "a list": ("- 1", "have the keys arms, claims, factor, include, levels, seeds, title, but has no mapping"),
    "a misspelt key": ({**GOOD, "level": []}, "but has level; drop it"),
    "claims that are no list": ({**GOOD, "claims": CLAIM}, "have a list of claims, but they are {"),
    "a claim that is a text": (
        {**GOOD, "claims": ["n=5 wins"]},
        "have claims that are mappings, but one is 'n=5 wins'",
    ),
    "a claim without a metric": (
        {**GOOD, "claims": [{"name": "c", "text": "t."}]},
        "have claims with a metric, but one is",
    ),
    "a claim of no kind": (
        claiming({key: CLAIM[key] for key in ("name", "text", "metric")}),
        "say one thing in claim c, one of order, rises_faster, ",
    ),
    "a claim of two kinds": (claiming({**CLAIM, "close": [3]}), "but says order and close; drop one"),
    "a claim with more": (
        {**GOOD, "claims": [{**CLAIM, "when": 1}]},
        "have nothing else in claim c, but has when; drop it",
    ),
    "a claim about no time": (
        {**GOOD, "claims": [{**CLAIM, "at": [0.5, 0.5]}]},
        "two rising shares of the steps, 0 to 1",
    ),
    "a claim about a word": (claiming({**CLAIM, "at": "late"}), "two rising shares of the steps, 0 to 1"),
    "a claim about a number": (
        {**GOOD, "claims": [{**CLAIM, "order": 3}]},
        "list levels in claim c under order, but has 3",
    ),
    "a claim about no level": (claiming({**CLAIM, "order": [3, 4]}), "but 4 is none; take some of 3, 5"),
    "a claim about one level": (claiming({**CLAIM, "order": [3]}), "claim c at least two different levels"),
    "a level against itself": (
        {**GOOD, "claims": [{**CLAIM, "close": [3, 3], "order": []}]},
        "say one thing in claim c",
    ),
    "two claims of a name": (claiming(CLAIM, CLAIM), "give each claim a name of its own, but two are c"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_in_a_file_is_told(tmp_path: Path, name: str) -> None:
    content, expected = BROKEN[name]
    write(tmp_path, "mine", content)
    (problem,) = problems("mine", folder=tmp_path)
    assert expected in problem and problem.startswith("sweeps/mine.yaml must ") and "\n" not in problem


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


SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.sampled_from(["", "3", "a b", "1e-4", "r.n"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "label", "a"]), inner),
    max_leaves=6,
)
CLAIMS = st.fixed_dictionaries(
    {}, optional={key: VALUES for key in ("name", "text", "metric", "at", "order", "close", "rises", "x")}
)


@given(
    st.fixed_dictionaries({}, optional={key: VALUES for key in (*KEYS, "x")})
    | st.builds(lambda more: {**GOOD, **more}, st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=2))
    | st.builds(lambda claims: {**GOOD, "claims": claims}, st.lists(CLAIMS | st.just(CLAIM), max_size=3))
    | VALUES
)
def test_a_file_of_any_shape_is_a_sweep_or_each_mistake_has_one_line(content: object) -> None:
    with TemporaryDirectory() as folder:
        write(Path(folder), "mine", content)
        try:
            sweeps = load_sweeps(["mine"], Path(folder))
        except UserError as refused:
            assert all(problem.startswith("sweeps") and " must " in problem for problem in refused.problems)
            assert all("; " in problem and "\n" not in problem for problem in refused.problems)
        else:
            for sweep in sweeps:
                assert sweep.levels and sweep.seeds and all(sweep.settings(level) for level in sweep.levels)


SHORT = """
factor: actor_rollout_ref.actor.optim.lr
levels: [1e-4, 5.0e-4, {value: 1E-3, label: fast, kl.coef: 0, "+hardware.day": 2026-11-30}]
seeds: 2
"""


def test_levels_may_be_bare_values_and_set_more_and_seeds_may_be_counted(tmp_path: Path) -> None:
    """1e-4 is a number, as it is in conf/ and on the command line; PyYAML alone would read a text."""
    write(tmp_path, "mine", SHORT)
    (sweep,) = load_sweeps(["mine"], tmp_path)
    assert [level.value for level in sweep.levels] == [1e-4, 5e-4, 1e-3]
    assert [level.label for level in sweep.levels] == ["0.0001", "0.0005", "fast"]
    assert sweep.seeds == (1, 2)
    assert sweep.settings(sweep.levels[2]) == {
        "actor_rollout_ref.actor.optim.lr": 1e-3, "kl.coef": 0, "+hardware.day": "2026-11-30"
    }  # fmt: skip


def test_arms_may_be_listed_one_by_one(tmp_path: Path) -> None:
    claim = {**CLAIM, "order": ["many", "rollout.n=3, kl.coef=0.01"]}
    arms = [{"rollout.n": 3, "kl.coef": 0.01}, {"label": "many", "algorithm": "ppo", "rollout.n": 8}]
    write(tmp_path, "pairs", {"arms": arms, "claims": [claim]})
    (sweep,) = load_sweeps(["pairs"], tmp_path)
    assert [sweep.settings(level) for level in sweep.levels] == [arms[0], {"algorithm": "ppo", "rollout.n": 8}]
    assert (sweep.factor, sweep.claims[0].levels) == ("", ("many", "rollout.n=3, kl.coef=0.01"))


PAIRS = "arms={rollout.n: 3, kl.coef: 0.01},{algorithm: ppo, rollout.n: 8}"


def test_arms_of_a_command_are_pairs_and_not_a_product() -> None:
    assert jobs([PAIRS, "seed=1,2", "kl.type=kl"]) == [
        ["seed=1", "kl.type=kl", "rollout.n=3", "kl.coef=0.01"],
        ["seed=2", "kl.type=kl", "rollout.n=3", "kl.coef=0.01"],
        ["seed=1", "kl.type=kl", "algorithm=ppo", "rollout.n=8"],
        ["seed=2", "kl.type=kl", "algorithm=ppo", "rollout.n=8"],
    ]
    assert jobs(["arms=[{rollout.n: 3}]"]) == jobs(["arms={rollout.n: 3}"]) == [["rollout.n=3"]]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["arms=3"], "arms must be mappings of what each arm sets, but one is 3; write 'arms={"),
        (["arms={}"], "arms must be mappings of what each arm sets"),
        (["arms={seed: 3}"], "arms must not set seed; write it beside arms="),
        ([PAIRS, "sweeps=kl"], "arms must not stand beside sweeps"),
        ([PAIRS, "kl={coef: 1}"], "kl.coef must not be set beside arms, which varies it; drop one of the two"),
        ([PAIRS, "algorithm=ppo"], "algorithm must not be set beside arms"),
        (["arms={rollot.n: 3}"], "rollot.n must be a key of the config"),
        (["arms={algorithm: pop}"], "algorithm must be cispo, "),
    ],
)
def test_a_mistake_in_arms_is_told(overrides: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        jobs(overrides)
