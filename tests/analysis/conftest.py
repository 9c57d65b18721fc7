"""Run folders for tests, with made-up curves of a realistic shape. Never shown as results."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.records.history import TRAINED, Row

MakeRun = Callable[..., Path]


def made_up_rows(seed: int, temperature: float, first: int, last: int, source: str = "countdown") -> list[Row]:
    """Return the rows that training logs from step `first` to `last`, the same however the run is cut into attempts.

    A start at `first` > 1 is a resume: its first row is the validation at the checkpoint.
    """
    rows: list[Row] = [(first - 1, validation(seed, temperature, first - 1, source))]
    for step in range(first, last + 1):
        noise = random.Random(f"{seed} {temperature} {step}")
        rise = 1 / (1 + math.exp(-(step - 22) / 9))
        row = {
            TRAINED: step,
            "training/epoch": 0,
            "critic/score/mean": 0.12 + 0.3 * rise + noise.gauss(0, 0.02),
            "reward/acc/mean": 0.1 + 0.3 * rise + noise.gauss(0, 0.02),
            "reward/format/mean": min(1.0, 0.55 + 0.35 * (1 - math.exp(-step / 12)) + noise.gauss(0, 0.02)),
            "reward/hack/mean": 0.0,
            "response_length/mean": 46 - 8 * math.exp(-(((step - 10) / 7) ** 2)) + 10 * rise + noise.gauss(0, 0.8),
            "perf/time_per_step": 1.7 + 0.01 * (step % 3),
            "perf/total_num_tokens": 9000 + step,
        }
        if step % 10 == 0:
            row |= validation(seed, temperature, step, source)
        rows.append((step, row))
    return rows


def validation(seed: int, temperature: float, step: int, source: str) -> dict[str, float]:
    noise = random.Random(f"val {seed} {temperature} {step}")
    rise = 1 / (1 + math.exp(-(step - 22) / 9))
    sampled = 0.1 + (0.38 - 0.1 * abs(temperature - 1)) * rise + noise.gauss(0, 0.015)
    return {
        f"val-core/{source}/acc/mean@1": sampled,
        f"val-core/{source}_greedy/acc/mean@1": sampled + 0.25 * (1.4 - temperature) + noise.gauss(0, 0.015),
        f"val-aux/{source}/format/mean@1": 0.5 + 0.4 * rise,
    }


def make_run(
    runs: Path,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    n: int = 5,
    algorithm: str = "grpo",
    kl: float = 0.001,
    model: str = "tiny",
    steps: int = 60,
    legs: tuple[tuple[int, int], ...] | None = None,
    ending: str | None = "finished",
    attempts: list[list[Row]] | None = None,
    overrides: dict[str, Any] | None = None,
    name: str | None = None,
) -> Path:
    """Make a run's folder. `legs` are the (first, last) steps of its attempts; `ending` None leaves it without a word.

    `attempts` gives the attempts' rows instead, `overrides` other config values by dotted key.
    """
    config: dict[str, Any] = {
        "seed": seed,
        "runs_dir": "/somewhere/runs",
        "algorithm": {"adv_estimator": algorithm, "use_kl_in_reward": algorithm == "gae" and kl > 0},
        "rollout": {"temperature": temperature, "n": n},
        "temperature": {"schedule": "constant"},
        "kl": {"coef": kl, "type": "low_var_kl" if algorithm == "grpo" else "kl"},
        "model": {"name": model, "path": f"/somewhere/{model}"},
        "task": {"name": "countdown", "data_seed": 0},
        "hardware": {"name": "cpu" if model == "tiny" else "a100x2"},
        "data": {"seed": seed, "train_batch_size": 32, "train_files": f"/data/{seed}/train.parquet"},
        "actor_rollout_ref": {
            "actor": {"optim": {"lr": 2e-4}, "kl_loss_coef": kl, "ppo_micro_batch_size_per_gpu": 16},
            "rollout": {"temperature": temperature, "n": n, "val_kwargs": {"temperature": 1.0, "do_sample": True}},
        },
        "trainer": {
            "total_training_steps": steps,
            "experiment_name": f"run {seed} {temperature}",
            "default_local_dir": f"/tmp/{seed}",
            "n_gpus_per_node": 1,
        },
    }
    for key, value in (overrides or {}).items():
        node = config
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    settings = f"temperature={temperature},n={n},algorithm={algorithm},kl={kl},seed={seed}"
    digest = random.Random(json.dumps(config, sort_keys=True, default=str)).getrandbits(32)
    path = runs / (name or f"{settings}-{digest:08x}")
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    if attempts is None:
        if legs is None:
            legs = ((1, steps),) if ending != "planned" else ()
        attempts = [made_up_rows(seed, temperature, first, last) for first, last in legs]
    events: list[dict[str, Any]] = [{"event": "planned"}]
    for number, rows in enumerate(attempts, 1):
        folder = path / "attempts" / str(number)
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "data": d}) + "\n" for s, d in rows))
        events += [{"event": "started", "attempt": number}, *([{"event": "resumed", "step": 1}] if number > 1 else [])]
    if ending not in (None, "planned"):
        events.append({"event": ending})
    lines = (json.dumps({"time": 1.7e9 + place, **event}) + "\n" for place, event in enumerate(events))
    (path / "events.jsonl").write_text("".join(lines))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def make(runs: Path) -> MakeRun:
    """make(**settings) makes a run under `runs` and returns its folder."""

    def make_there(**settings: Any) -> Path:
        return make_run(runs, **settings)

    return make_there
