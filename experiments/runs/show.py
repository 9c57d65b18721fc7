"""`show` and `diff`: one run in full, and two runs beside each other."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.config.identity import is_scientific
from experiments.runs.status import local_time, status_of
from experiments.store.events import Event
from experiments.store.frozen import FIRST
from experiments.store.rundir import RunDir
from experiments.terminal import printable
from experiments.values import flatten

SAMPLES = 3
SAMPLE_BYTES = 65_536  # how much of a rollout file is read, from its beginning
CONTENT = ("digest", "code")  # last parts of keys that are not settings: planning fills in the content's digest
ABSENT = "(not there)"


def show(run: RunDir) -> int:
    """Print a run: its state, its config against the baseline, its events, attempts and last samples; return 0."""
    status, notes = status_of(run)
    config = run.load_config()
    of = "" if status.of is None else f" of {status.of}"
    accuracy = "" if status.accuracy is None else f", validation accuracy {status.accuracy:.3f}"
    _print(f"{run.path.name}: {status.state}, step {status.step}{of}{accuracy}\n{run.path}\n")
    for note in notes:
        _print(note)
    _section("what differs from the baseline", differences(baseline(), config))
    _section("events", map(_event, run.events()))
    _section("attempts", map(str, (attempt.path for attempt in run.attempts())))
    for frozen in dict.fromkeys(event.get("config") for event in run.events() if event.get("event") == Event.STARTED):
        if isinstance(frozen, str) and frozen != FIRST:
            changed = differences(run.load_config(FIRST), run.load_config(frozen), scientific=False)
            _section(f"what attempts with {frozen} changed; it cannot change the result", changed)
    _section("last samples", samples(run))
    return 0


def diff(first: RunDir, second: RunDir) -> int:
    """Print how two runs differ: their states, then their configs, first what can change the result; return 0."""
    for mark, run in (("-", first), ("+", second)):
        status, _ = status_of(run)
        figures = "" if status.accuracy is None else f", validation accuracy {status.accuracy:.3f}"
        _print(f"{mark} {run.path.name}: {status.state} at step {status.step}{figures}")
    configs = first.load_config(), second.load_config()
    _print("")
    _section("what can change the result", differences(*configs, content=True))
    _section("what cannot", differences(*configs, scientific=False))
    commits = [_code(run).get("commit") for run in (first, second)]
    if commits[0] != commits[1]:
        _section("commit", [f"{commits[0]} -> {commits[1]}"])
    return 0


def baseline() -> dict[str, Any]:
    """Return the resolved config that conf/ gives when nothing is overridden."""
    from omegaconf import OmegaConf

    from experiments.config.compose import compose_config

    config = OmegaConf.to_container(compose_config([]), resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], scientific: bool = True, content: bool = False
) -> list[str]:
    """Return a line "key: before -> after" for each leaf in which two configs differ, sorted by key.

    Args:
        scientific: compare the keys that can change the result; False: the other keys.
        content: compare the digests of what the configs point at, too.
    """
    old, new = dict(flatten(before)), dict(flatten(after))
    keys = sorted(key for key in old.keys() | new.keys() if is_scientific(key) == scientific)
    return [
        f"{key}: {_spelt(old, key)} -> {_spelt(new, key)}"
        for key in keys
        if old.get(key, ABSENT) != new.get(key, ABSENT) and (content or key.rsplit(".", 1)[-1] not in CONTENT)
    ]


def samples(run: RunDir) -> Iterator[str]:
    """Yield the first SAMPLES responses of the last training step whose rollouts were written."""
    for attempt in reversed(run.attempts()):
        files = sorted(attempt.rollouts.glob("*.jsonl"), key=_step)
        if files:
            with open(files[-1], "rb") as file:
                lines = file.read(SAMPLE_BYTES).split(b"\n")[:-1]
            for line in lines[:SAMPLES]:
                with contextlib.suppress(ValueError, KeyError, TypeError):  # damaged
                    row = json.loads(line)
                    yield f"step {row['step']}, score {row['score']}:\n{row['input']}{row['output']}\n"
            return


def _step(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else -1


def _event(event: Mapping[str, Any]) -> str:
    more = "  ".join(f"{key}={value}" for key, value in event.items() if key not in ("time", "event"))
    return f"{local_time(event.get('time'))}  {event.get('event', '?'):<12} {more}".rstrip()


def _code(run: RunDir) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        code = json.loads((run.path / "code.json").read_bytes())
        return code if isinstance(code, dict) else {}
    return {}


def _spelt(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False, default=str) if key in leaves else ABSENT


def _section(title: str, lines: Any) -> None:
    _print(title)
    empty = True
    for line in lines:
        _print("\n".join(f"  {part}" for part in line.split("\n")))
        empty = False
    _print("  (none)\n" if empty else "")


def _print(text: str) -> None:
    print(printable(text))
