"""Time the plan of many arms beside Hydra's own basic launcher: `python -m benchmarks.planning [ARMS]`.

The two sides get the same jobs and run one after the other, in child processes. Hydra's side only composes and reads
each job's config. Ours also checks it, names it, digests what it points at, looks for what is there already, and prints
the plan.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.project import PROJECT_DIR

OURS = """
import sys
from experiments.run import main
sys.exit(main())
"""
HYDRA = """
import hydra
from omegaconf import OmegaConf
from experiments.config.compose import CONFIG_DIR, register_resolvers
register_resolvers()
hydra.main(str(CONFIG_DIR), "config", "1.3")(lambda config: OmegaConf.to_container(config, resolve=True) and None)()
"""
BASIC = ["--multirun", "hydra/launcher=basic", "hydra/sweeper=basic"]
HYDRA_ARMS = 40  # so many are enough, since Hydra's time grows in proportion to the arms


def seconds(code: str, overrides: list[str]) -> tuple[float, float]:
    """Return (CPU seconds, wall seconds) of a process that runs `code`."""
    before, began = os.times(), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *overrides],
        cwd=PROJECT_DIR,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    after = os.times()
    if done.returncode:
        raise SystemExit(done.stderr)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, time.monotonic() - began


def arms(number: int) -> list[str]:
    """Return overrides that make so many arms of four temperatures."""
    return ["rollout.temperature=0.6,0.8,1.0,1.2", f"seed=range(1,{number // 4 + 1})"]


def main() -> int:
    """Print the measurements as JSON; return 0."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        places = [f"runs_dir={Path(folder) / 'runs'}", f"data_dir={Path(folder) / 'data'}", "show=plan"]
        seconds(OURS, [*arms(4), *places])  # the data set is made once, whatever is planned
        start, _ = seconds(OURS, [*arms(4), *places])
        ours, wall = seconds(OURS, [*arms(number), *places])
        hydra_few, _ = seconds(HYDRA, [*BASIC, *arms(4), *places])
        hydra, _ = seconds(HYDRA, [*BASIC, *arms(4 + HYDRA_ARMS), *places])
    each = (hydra - hydra_few) / HYDRA_ARMS
    row = {
        "arms": number,
        "ours_cpu_s": round(ours, 2),
        "ours_wall_s": round(wall, 2),
        "ours_cpu_ms_each": round(1000 * (ours - start) / (number - 4), 1),
        "hydra_cpu_ms_each": round(1000 * each, 1),
        "hydra_cpu_s": round(hydra_few + each * (number - 4), 1),
        "ratio": round((hydra_few + each * (number - 4)) / ours, 1),
    }
    print(json.dumps(row, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
