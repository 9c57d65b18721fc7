"""What arms side by side win, beside one after the other and beside TRL: four trainings of the setting of step.py.

    python -m benchmarks.side_by_side [--steps 10] [--arms 4] [--only one,side,trl] [--out FILE] [--trl FOLDER]

one     hydra.launcher.jobs=1: one arm after the other, each with all cores
side    hydra/launcher=local as it is: as many arms at once as this machine has room for
trl     TRL's GRPOTrainer, one training after the other, each with all cores

Each is timed from its command to its end, starts included: what somebody who waits for a sweep sees. The figure is
arms x steps a minute. Run it on an idle machine. benchmarks/step.py says how to install TRL.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import setting, step
from experiments.launchers.machine import cores

NAMES = {
    "one": "ours, one after the other",
    "side": "ours, side by side",
    "trl": "TRL GRPOTrainer, one after the other",
}
LIMIT_SECONDS = 3600.0


def commands(name: str, folder: Path, steps: int, arms: int, threads: int) -> list[list[str]]:
    """Return the commands of a competitor; they are executed one after the other."""
    if name == "trl":
        return [step.command("trl", folder, steps, threads)] * arms
    ours = step.command("ours", folder / name, steps, threads)
    seeds = ",".join(str(seed) for seed in range(1, arms + 1))
    changed = {
        "seed=1,2": f"seed={seeds}",
        "hydra.launcher.jobs=1": f"hydra.launcher.jobs={1 if name == 'one' else 'null'}",
    }
    places = {"model.path": "model", "data.train_files": "train.parquet", "data.val_files": "test.parquet"}
    return [
        [changed.get(word, word) for word in ours if word.split("=")[0] not in places]
        + [f"{key}={folder / file}" for key, file in places.items()]
    ]


def measure(name: str, folder: Path, steps: int, arms: int, trl: Path) -> dict[str, float | str]:
    """Return {"seconds", "cpu_seconds", "arm_steps_a_minute"} of a competitor, or {"failed": why}."""
    threads = cores()
    temporary, log = folder / f"{name}-tmp", folder / f"{name}.log"
    temporary.mkdir()
    kind = "trl" if name == "trl" else "ours"
    environment = step.environment(kind, temporary, trl, threads)
    began, before = time.monotonic(), os.times()
    for command in commands(name, folder, steps, arms, threads):
        with open(log, "ab") as output:
            done = subprocess.run(
                command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, timeout=LIMIT_SECONDS
            )
        if done.returncode:
            return {"failed": f"ended with {done.returncode}: {step.last_line(log)}"}
    after, seconds = os.times(), time.monotonic() - began
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "cpu_seconds": cpu, "arm_steps_a_minute": 60 * arms * steps / seconds}


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, or 1 if a competitor failed."""
    parser = argparse.ArgumentParser(description="Arms side by side, one after the other, and TRL, in one run.")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--arms", type=int, default=4)
    parser.add_argument("--only", default=",".join(NAMES), help="competitors, separated by commas")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file too")
    parser.add_argument("--trl", type=Path, default=step.PROJECT / ".trl", help="the folder that TRL was installed to")
    parsed = parser.parse_args(arguments)
    names = parsed.only.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"--only must name {', '.join(NAMES)}, but names {', '.join(sorted(unknown))}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    folder = Path(tempfile.mkdtemp(prefix="side-by-side-"))
    setting.build(folder, parsed.steps)
    results = {}
    for name in names:
        console.print(f"{NAMES[name]} ...")
        results[name] = measure(name, folder, parsed.steps, parsed.arms, parsed.trl.absolute())
    table = Table(title=f"{parsed.arms} arms of {parsed.steps} steps, {cores()} cores", title_justify="left")
    for column in ("", "seconds", "arms x steps a minute", "against the first"):
        table.add_column(column, justify="left" if not column else "right")
    first = next((result for result in results.values() if "failed" not in result), {})
    for name, result in results.items():
        if "failed" in result:
            table.add_row(NAMES[name], "failed", str(result["failed"]), "")
            continue
        ratio = float(first["seconds"]) / float(result["seconds"])
        pace = f"{float(result['arm_steps_a_minute']):.1f}"
        table.add_row(NAMES[name], f"{float(result['seconds']):.1f}", pace, f"{ratio:.2f} x")
    console.print(table)
    if parsed.out:
        parsed.out.write_text(json.dumps({"cores": cores(), "results": results}, indent=1) + "\n")
    if any("failed" in result for result in results.values()):
        console.print(f"logs: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
