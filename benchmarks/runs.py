"""What looking after a thousand runs costs: `python -m experiments.runs` over folders as veRL leaves them.

    python -m benchmarks.runs [--runs 1000]

Makes the folders (a config of veRL's size, events, 50 rows of metrics of veRL's size each), then runs each command in
a process of its own, seconds from start to end. Beside it: reading the same folders' configs as YAML.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.store.files import write_atomically
from experiments.store.rundir import RunDir

REPEATS = 5
STEPS = 50
METRICS = 110  # a row of veRL's
SETTINGS = 600  # lines of a config


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Time the command line over many runs' folders.")
    parser.add_argument("--runs", type=int, default=1000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="bench-runs-") as folder:
        runs_dir = Path(folder) / "runs"
        make(runs_dir, count)
        print(f"{count} runs of {STEPS} steps; median of {REPEATS} (fastest), seconds")
        for arguments in (
            ["--help"],
            ["list"],
            ["list", "--json"],
            ["list", "state=finished"],
            ["list", "rollout.temperature=0.6"],
        ):
            times = [timed(runs_dir, arguments) for _ in range(REPEATS)]
            print(f"  {' '.join(arguments):<28} {statistics.median(times):6.2f} ({min(times):.2f})")
        few = [RunDir(path) for path in sorted(runs_dir.iterdir())[:20]]
        print(f"  for comparison: the configs from config.yaml instead of config.json: {as_yaml(few) * count:.1f}")


def make(runs_dir: Path, count: int) -> None:
    """Make the folders of finished, failed and running runs."""
    rows = "".join(json.dumps(row(step), separators=(",", ":")) + "\n" for step in range(1, STEPS + 1))
    for k in range(count):
        run = RunDir(runs_dir / f"temperature={k % 3},seed={k}-{k:08x}")
        run.create(config(temperature=(0.6, 1.0, 1.2)[k % 3], seed=k), {"commit": "0" * 40, "diff": ""})
        events = [("launched", {"launcher": "local", "steps": STEPS}), ("started", {"attempt": 1, "host": "laptop"})]
        events += [("checkpoint", {"step": step}) for step in range(10, STEPS + 1, 10)]
        events += [("failed", {"kind": "killed", "cause": "", "remedy": ""})] if k % 10 == 0 else [("finished", {})]
        lines = [json.dumps({"time": 1.8e9 + k, "event": event, **fields}) for event, fields in events]
        with open(run.events_file, "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        write_atomically(run.new_attempt().metrics, rows)


def row(step: int) -> dict:
    """Return a row of metrics of the size of veRL's; every tenth step validates."""
    data = {f"rollout_corr/some_metric_of_verl_{k}": 0.123456789 * k + step for k in range(METRICS)}
    data |= {"training/global_step": step, "response_length/mean": 78.3125, "perf/time_per_step": 4.5038}
    if step % 10 == 0:
        data |= {"val-core/countdown/acc/mean@1": 0.3671875, "timing_s/testing": 3.7379}
    return {"step": step, "data": data}


def config(temperature: float, seed: int) -> str:
    """Return a config of veRL's size as YAML."""
    groups = "".join(
        f"group_{g}:\n" + "".join(f"  some_setting_of_verl_{k}: {0.001 * k}\n" for k in range(20))
        for g in range(SETTINGS // 20)
    )
    return f"seed: {seed}\nrollout:\n  temperature: {temperature}\n{groups}"


def timed(runs_dir: Path, arguments: list[str]) -> float:
    """Return how long a command takes, interpreter start included."""
    where = [] if arguments == ["--help"] else ["--runs-dir", str(runs_dir)]
    command = [sys.executable, "-m", "experiments.runs", *where, *arguments]
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def as_yaml(runs: list[RunDir]) -> float:
    """Return the seconds that reading one config.yaml takes."""
    start = time.perf_counter()
    for run in runs:
        (run.path / "config.json").unlink()
        run.load_config()
    return (time.perf_counter() - start) / len(runs)


if __name__ == "__main__":
    main()
