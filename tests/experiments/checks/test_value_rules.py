"""checks/value_rules.py: any value of a checked key is either refused with a message or can be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException

from experiments.checks.value_rules import RULES, faults
from experiments.config.sweep_compose import Composer
from experiments.errors import UserError
from experiments.models.folder import shape_of
from experiments.models.setup import setup_of
from experiments.planning.cost import costs, disk_needed
from experiments.planning.plan import plan_runs
from experiments.planning.show import remarks
from experiments.values import at, flatten
from tests.experiments.conftest import SHIPPED
from tests.experiments.right_config import problems_of

Config = dict[str, Any]
Resolve = Callable[..., Config]
ODD: tuple[Any, ...] = (None, 0, -1, 0.5, float("nan"), "x", [1], {"a": 1}, True)
FILES = {"data.train_files": ["none.parquet"], "data.val_files": "none.parquet"}  # missing: no reward is executed
KINDS = {
    "miniature": ("temperature=piecewise",),
    "GRPO": ("model=qwen2.5-3b", "hardware=a100x2", "temperature=linear"),
    "article's PPO": ("experiment=article_ppo",),
    "no vLLM": ("model=qwen2.5-0.5b", "hardware=a100x1", "algorithm=ppo", "actor_rollout_ref.rollout.name=hf"),
}


class Recorded(dict[str, Any]):
    """A node of a config that records which of its keys are read."""

    def __init__(self, node: dict[str, Any], asked: set[str], prefix: str = "") -> None:
        super().__init__(
            {
                name: Recorded(value, asked, f"{prefix}{name}.") if isinstance(value, dict) else value
                for name, value in node.items()
            }
        )
        self.asked, self.prefix = asked, prefix

    def __getitem__(self, name: str) -> Any:
        self.asked.add(f"{self.prefix}{name}")
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(f"{self.prefix}{name}")
        return super().get(name, default)


def with_value(config: Config, key: str, value: Any) -> Config:
    """Return a config with one key set. Only the nodes above the key are copied."""
    changed = node = dict(config)
    *parents, last = key.split(".")
    for part in parents:
        node[part] = dict(node[part])
        node = node[part]
    node[last] = value
    return changed


@pytest.fixture(scope="module")
def make(resolved: Resolve) -> Resolve:
    def config(*overrides: str) -> Config:
        found = resolved(*overrides)
        found["data"] |= {key.removeprefix("data."): value for key, value in FILES.items()}
        return found

    return config


def keys_read(config: Config) -> set[str]:
    """Return the leaves that the checks, the estimates and the remarks read."""
    asked: set[str] = set()
    recorded = Recorded(config, asked)
    problems_of(recorded)
    setup_of(recorded, shape_of(recorded))
    disk_needed(recorded)
    leaves = {key for key, _ in flatten(config)} | {rule.key for rule in RULES}
    return {key for key in asked if key in leaves or key in ("model.shape",)}


@pytest.mark.parametrize("kind", KINDS)
def test_any_value_is_refused_in_words_or_fine(make: Resolve, kind: str) -> None:
    base = make(*KINDS[kind])
    keys = keys_read(base)
    assert len(keys) > 70 and {"rollout.n", "hardware.memory_gib", "model.shape"} <= keys
    for key in sorted(keys):
        for value in ODD:
            config = with_value(base, key, value)
            problems = problems_of(config)
            assert all(isinstance(problem, str) and "; " in problem for problem in problems), (key, value)
            if len(problems) == len(problems_of(base)):  # then the plan goes on to call these
                setup_of(config, shape_of(config))
                disk_needed(config)


def test_each_rule_names_the_key_the_value_and_what_would_work(make: Resolve) -> None:
    base = make("experiment=article_ppo", "algorithm=ppo")
    assert faults(base) == {}
    for rule in RULES:
        if at(base, rule.key) is None and rule.key.split(".")[0] not in base:
            continue
        for value in ODD:
            config = with_value(base, rule.key, value)
            if not rule.when(config) or rule.good(value):
                continue
            assert any(
                problem.startswith(f"{rule.key} must be ") and f"but is {value!r}; " in problem
                for problem in faults(config).values()
            ), (rule.key, value)


def test_one_value_in_two_places_is_one_mistake(resolved: Resolve) -> None:
    for override, key in (("rollout.n=0", "rollout.n"), ("rollout.temperature=-1", "rollout.temperature")):
        (problem,) = set(faults(resolved(override)).values())
        assert problem.startswith(f"{key} must be")
    (problem,) = faults(resolved("actor_rollout_ref.rollout.temperature=0")).values()
    assert problem == "actor_rollout_ref.rollout.temperature must be a number above 0, but is 0; try 1.0"


@pytest.mark.parametrize("points", ["[[10,nan]]", "[[10,inf]]", "[[true,1.0]]", "[[10,x]]", "[[null,1]]"])
def test_points_are_finite_numbers(resolved: Resolve, points: str) -> None:
    (problem,) = faults(resolved("temperature=piecewise", f"temperature.points={points}")).values()
    assert problem.startswith("temperature.points must be pairs of a step above 1 and a temperature above 0")


# The same from the command line: the resolvers of conf/ and the plan must bear odd values, too.


COMPOSED = (
    *("hardware.memory_gib", "hardware.gpus_per_node", "hardware.nodes", "model.parameters", "model.shape"),
    *("model.path", "model.template", "rollout.n", "data.train_batch_size", "kl.coef", "runs_dir", "data_dir"),
    *("actor_rollout_ref.actor.ppo_mini_batch_size", "task.source", "task.space", "trainer.save_freq"),
    "algorithm.adv_estimator",
)


@pytest.mark.parametrize("key", COMPOSED)
def test_odd_values_of_what_conf_computes_with(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(tmp_path)  # "x" is a valid folder name, and the folder is made here
    places = (f"runs_dir={tmp_path / 'runs'}", f"data_dir={tmp_path / 'data'}")
    common = (*SHIPPED, "experiment=smoke", "model=qwen2.5-0.5b", "hardware=a100x2", "task.train_size=64", *places)
    for value in ("null", "0", "-1", "0.5", "x", "[1]", "{a: 1}"):
        try:
            runs = plan_runs([composer.compose([*common, f"{key}={value}"])])
        except HydraException:  # a list in place of a mapping: the real command has refused it before
            assert key == "model.shape"
        except UserError as error:
            assert all("must" in problem for problem in error.problems), (key, value)
        else:
            costs(runs)
            remarks(runs)
