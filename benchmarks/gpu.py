"""What only a GPU can tell, in one command: `python -m benchmarks.gpu [--items tiny,article,...] [--minutes M]`

tiny      the tiny model, GRPO and PPO, 10 steps on the GPU and on the CPU: the same seed gives the same curve
article   3B shape, the article's batch: our settings and the article's; the ratio is the figure
vllm      0.5B shape, 3 steps: rollout and trainer probabilities agree after each weight sync
arms      3B shape: n = 3, 5, 8 and PPO, relative to n = 5
memory    0.5B, 1.5B, 3B, 7B shapes: peak memory by phase against what preflight predicts

The most telling runs come first; `--minutes` leaves out those for which no time is left. Each run is
`python -m experiments.run` in a process of its own. The models have Qwen2.5's shapes and random weights
(benchmarks/gpu_model.py), so nothing is downloaded: compute and memory are real, every response runs to its limit.

The record is a JSON file in benchmarks/results/, written after each step of each run. Whatever ends the command, the
same command goes on from there with what is missing. A table comes last. `--device cpu` rehearses all of it on a CPU,
with narrow models.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_cases import ITEMS, MODEL, SEED, Case, cases, substitutes
from benchmarks.gpu_machine import Machine, describe, find_machine
from benchmarks.gpu_record import GPUMemory, Result, figures, measured, out_of_step, predicted, table
from benchmarks.watch import Outcome, watch
from experiments.attempt.caches import cache_variables
from experiments.errors import UserError
from experiments.processes import reaping
from experiments.store.files import write_atomically
from experiments.store.rundir import find_runs

PROJECT = Path(__file__).resolve().parents[1]
PATIENCE = 6  # a run without --minutes may take so many times what is expected
CLOSING_SECONDS = 25  # what ending a run and all that it started may take
BROKEN_OFF = "the benchmark ended in the middle of this run"
SHAPE = "model.shape."


def command(case: Case, folder: Path) -> list[str]:
    """Return the command of a case, whose run goes into `folder`; models and data are beside it."""
    overrides = [override.replace(MODEL, str(model_folder(case, folder.parent))) for override in case.overrides]
    places = (f"runs_dir={folder / 'runs'}", f"data_dir={folder.parent / 'data'}")
    return [sys.executable, "-P", "-m", "experiments.run", *overrides, *places]


def model_folder(case: Case, folder: Path) -> Path:
    """Return where the random model of a case is."""
    return folder / f"model-{case.model}"


def run_case(
    case: Case,
    folder: Path,
    limit: float,
    indices: Sequence[str] = (),
    keep: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Run one case for `limit` seconds at most and end all that it started; return its figures or {"failed": why}.

    Args:
        indices: the GPUs whose memory is sampled, all by default.
        keep: is called after each step with the figures so far.
    """
    started = time.monotonic()
    folder.mkdir(parents=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.getenv("PYTHONPATH")])),
        **cache_variables(folder.parent, os.environ),  # one run compiles for the next
    }
    if (failed := built(case, folder.parent, environment, limit)) is not None:
        return {"failed": failed}

    def so_far(outcome: Outcome, samples: Sequence[tuple[float, float]]) -> Result:
        rows = [(arrival.time, arrival.row["data"]) for arrival in outcome.arrivals]
        return measured([(moment, row) for moment, row in rows if "timing_s/step" in row], samples)

    log = folder / "log"
    try:
        with GPUMemory(indices) as memory:
            outcome = watch(
                command(case, folder),
                environment,
                rows=(folder / "runs", "*/attempts/*/metrics.jsonl"),
                places={},
                log=log,
                limit=max(0.0, limit - (time.monotonic() - started)),
                seen=lambda outcome: keep({**so_far(outcome, memory.samples), "failed": BROKEN_OFF}),
            )
    finally:
        runs = find_runs(folder / "runs")
        for run in runs:
            reaping.reap(run.path)
    result = so_far(outcome, memory.samples)
    if outcome.code is None and result.get("steps", 0) < 2:
        return {**result, "failed": f"ran past its limit of {limit:.0f} s"}
    if outcome.code:
        return {**result, "failed": cause(log, runs)}
    if parted := out_of_step(case.item, result):
        return {**result, "failed": parted}
    if outcome.code is None:
        result |= {"cut": f"ended at its limit of {limit:.0f} s after {result['steps']} steps"}
    return {**result, "predicted_gib": predicted(runs[0].load_config()) if runs else {}}


def built(case: Case, folder: Path, environment: Mapping[str, str], limit: float) -> str | None:
    """Build the model of a case unless it is there; return why it could not be built, None if it is."""
    place = model_folder(case, folder)
    if case.model is None or place.exists():
        return None
    shape = [override for override in case.overrides if override.startswith(SHAPE)]
    build = [sys.executable, "-m", "benchmarks.gpu_model", case.model, str(folder / "half-built"), *shape]
    shutil.rmtree(folder / "half-built", ignore_errors=True)
    try:
        done = subprocess.run(build, env=dict(environment), cwd=PROJECT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"its model was not built within {limit:.0f} s"
    if done.returncode:
        return f"its model was not built: {(done.stderr.strip().splitlines() or ['no word'])[-1]}"
    (folder / "half-built").rename(place)
    return None


def cause(log: Path, runs: Sequence[Any]) -> str:
    """Return why a run failed: its recorded cause, else what the command refused, else the last line of its output."""
    failures = [event for run in runs for event in run.events() if event["event"] == "failed"]
    if failures:
        return f"{failures[-1]['kind']}: {failures[-1]['cause']}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("error:")), (lines or ["it printed nothing"])[-1])


def opened(machine: Machine, folder: Path, out: Path) -> Result:
    """Return the record in `out`, with what it has of this machine, or a new one; UserError for another machine's."""
    described = json.loads(json.dumps(describe(machine)))
    record: Result = {
        "machine": described,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": SEED,
        "lengths": "random models run to their limits; the tiny model's responses end by themselves",
        "substitutes": list(substitutes(machine)),
        "items": {},
        "figures": {},
    }
    if out.exists():
        known = json.loads(out.read_text())
        if known["machine"] != described:
            raise UserError(
                f"{out} must be a record of this machine and its packages, but is of another "
                f"({known['machine']['name']}); do: name a new file with --out"
            )
        record |= {name: known[name] for name in ("started", "items", "figures")}
        clean_up(Path(known["folder"]))
    return {**record, "folder": str(folder)}


def clean_up(folder: Path) -> None:
    """End the runs of an earlier command that was killed, and delete its models."""
    for place in folder.glob("*/runs"):
        for run in find_runs(place):
            reaping.reap(run.path)
    for model in folder.glob("model-*"):
        shutil.rmtree(model, ignore_errors=True)


def measure(
    items: Sequence[str], machine: Machine, folder: Path, minutes: float | None, out: Path, began: float
) -> Result:
    """Run the items' cases; write the record to `out` after each step; return it.

    A case that the record in `out` has is not run again. With `minutes`, counted from `began` (time.monotonic), a case
    is not begun that they leave no time for; the record's "missing" names it.
    """
    record = opened(machine, folder, out)
    record["missing"] = {}

    def keep(case: Case, result: Result) -> None:
        record["items"].setdefault(case.item, {})[case.name] = result
        record["figures"] = figures(record["items"])
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, json.dumps(record, indent=1) + "\n")

    every = cases(items, machine)
    for number, case in enumerate(every):
        title = f"{case.item}: {case.name}"
        # The baseline with our settings belongs to two items, and is measured once.
        shared = record["items"].get("article", {}).get(case.name) if case.item == "arms" else None
        known = record["items"].get(case.item, {}).get(case.name) or shared
        limit: float = case.seconds * PATIENCE
        if minutes is not None:
            limit = began + 60 * minutes - time.monotonic() - CLOSING_SECONDS
        if known and "failed" not in known:
            keep(case, known)
        elif minutes is not None and limit < case.seconds:
            record["missing"][title] = f"takes about {case.seconds} s, of which {max(0.0, limit):.0f} s were left"
        else:
            print(f"{title} ...", flush=True)
            place = folder / f"{case.item}-{number}"
            keep(case, run_case(case, place, limit, machine.indices, partial(keep, case)))
        if case.model not in {other.model for other in every[number + 1 :]}:
            shutil.rmtree(model_folder(case, folder), ignore_errors=True)  # gigabytes
    write_atomically(out, json.dumps(record, indent=1) + "\n")
    return record


def report(record: Result) -> None:
    """Print the figures, what is missing, and the table last."""
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for name, value in record["figures"].items():
        console.print(f"{name}: {value}")
    for line in record["substitutes"]:
        console.print(line)
    for title, why in record["missing"].items():
        console.print(f"{title} is missing: it {why}; the same command goes on with it")
    machine = record["machine"]
    console.print(f"{machine['gpus']} x {machine['name']}, driver {machine['driver']}" if machine["gpus"] else "CPU")
    console.print(table(record["items"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0; 1 if a case failed; 2 if there is nothing to measure on, or the record is another machine's."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description="What only a GPU can tell: five items, the most telling runs first.")
    parser.add_argument("--items", default=",".join(ITEMS), help=f"of {', '.join(ITEMS)} (default: all)")
    parser.add_argument("--minutes", type=float, help="for all of it; runs that don't fit are left out (default: all)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal without a GPU")
    parser.add_argument("--out", type=Path, help="the JSON file (default: benchmarks/results/gpu-<GPU>.json)")
    parsed = parser.parse_args(arguments)
    items = parsed.items.split(",")
    if unknown := set(items) - set(ITEMS):
        parser.error(f"--items must name {', '.join(ITEMS)}, but names {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the run that is under way, too
    folder = Path(tempfile.mkdtemp(prefix="gpu-benchmark-"))
    try:
        machine = find_machine(parsed.device)
        slug = re.sub(r"[^a-z0-9]+", "-", machine.name.lower()).strip("-")
        out = parsed.out or PROJECT / "benchmarks" / "results" / f"gpu-{slug}.json"
        record = measure(items, machine, folder, parsed.minutes, out, began)
    except UserError as error:
        print(f"error: {error.problems[0]}", file=sys.stderr)
        shutil.rmtree(folder)
        return UserError.exit_code
    report(record)
    print(f"written to {out}")
    if any("failed" in result for results in record["items"].values() for result in results.values()):
        print(f"logs: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
