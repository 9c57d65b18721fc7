"""Time submissions of sweeps to SLURM beside Hydra's submitit launcher: `python -m benchmarks.submission [RUNS ...]`.

Each side submits the same arms to the same cluster (a slurmctld, a slurmdbd and two slurmd, real ones, on this machine)
in a process of its own. Three things are measured:
- the seconds from the start of the process. Ours end when it ends, which is when the prompt is back. The stock
  launcher's end when its sbatch has returned, since its prompt comes back when the last job has ended;
- the CPU seconds, children included, to which a busy machine adds little;
- the calls of SLURM's programs, for the stock launcher also those of the LOOK_SECONDS that follow.

Needs slurmctld, slurmd, slurm-client, slurmdbd, mariadb-server, and the `dev` extra for hydra-submitit-launcher.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.slurm.calls import Calls
from tests.slurm.cluster import Cluster

RUNS = (8, 100, 1000)
LOOK_SECONDS = 10.0
LIMIT_SECONDS = 900.0
OURS = ["hydra/launcher=slurm", "hydra.launcher.mem=1000M", "+hydra.launcher.sbatch.begin=now+1hour"]
STOCK = [
    "hydra/launcher=submitit_slurm",
    "hydra/sweeper=basic",
    "hydra.launcher.mem_gb=1",
    "hydra.launcher.cpus_per_task=1",
    "+hydra.launcher.additional_parameters.begin=now+1hour",
]


def command(runs: int, folder: Path, *more: str) -> list[str]:
    """Return the command that submits so many runs: four temperatures, as many seeds as that takes."""
    arms = ["rollout.temperature=0.6,0.8,1.0,1.2", f"seed={','.join(map(str, range(1, runs // 4 + 1)))}"]
    where = [f"runs_dir={folder / 'runs'}", f"data_dir={folder.parent / 'data'}"]
    return [sys.executable, "-m", "experiments.run", "-m", *arms, *where, *more]


def submit_ours(cluster: Cluster, runs: int, folder: Path) -> dict[str, Any]:
    """Submit with hydra/launcher=slurm; return the seconds of the plan alone and of everything, and the calls."""
    calls = Calls(cluster, folder)
    began = time.time()
    subprocess.run(command(runs, folder, "show=plan"), check=True, env=calls.environment, stdout=subprocess.DEVNULL)
    planned = time.time() - began
    began, before = time.time(), cpu_seconds()
    subprocess.run(command(runs, folder, *OURS), check=True, env=calls.environment, stdout=subprocess.DEVNULL)
    return {
        "prompt_s": round(time.time() - began, 1),
        "cpu_s": round(cpu_seconds() - before, 1),
        "plan_alone_s": round(planned, 1),
        "calls": calls.counted(),
    }


def submit_stock(cluster: Cluster, runs: int, folder: Path) -> dict[str, Any]:
    """Submit with hydra/launcher=submitit_slurm; return the seconds until its array is in the queue, and the calls."""
    calls = Calls(cluster, folder)
    began, before = time.time(), cpu_seconds()
    process = subprocess.Popen(
        command(runs, folder, *STOCK), env=calls.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    submitted: float | str = f"more than {LIMIT_SECONDS:g}"
    while process.poll() is None and time.time() - began < LIMIT_SECONDS:
        if "sbatch" in calls.counted():
            submitted = round(calls.made()[-1][1] - began, 1)
            time.sleep(LOOK_SECONDS)
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    return {
        "submitted_s": submitted,
        "cpu_s": round(cpu_seconds() - before, 1),
        "prompt_s": "when the last job ends",
        "calls": calls.counted(),
    }


def cpu_seconds() -> float:
    """Return the CPU time of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Print one line of JSON for each number of runs; return 0."""
    numbers = [int(argument) for argument in sys.argv[1:]] or list(RUNS)
    os.environ["OMP_NUM_THREADS"] = "1"
    with Cluster(nodes=2, accounting=True) as cluster, tempfile.TemporaryDirectory() as base:
        subprocess.run(  # the data set is made once, whatever is submitted
            command(4, Path(base) / "first", "show=plan"), check=True, stdout=subprocess.DEVNULL
        )
        for runs in numbers:
            row: dict[str, Any] = {"runs": runs}
            for name, submit in (("ours", submit_ours), ("stock", submit_stock)):
                folder = Path(base) / f"{name}-{runs}"
                folder.mkdir()
                row[name] = submit(cluster, runs, folder)
                row[name]["queued"] = len(cluster.run("squeue", "-h", "-r").splitlines())
                cluster.cancel_all()
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
