"""How long the analysis takes, beside its peers, in one run.

    python -m benchmarks.analysis

- 30 runs x 600 rows x 60 metrics from a server that answers after 200 ms: ours, first and second time, beside the
  official client's scan_history (8 threads) and openrlbenchmark (0.3.1, in the folder of peers that `make test` fills),
  whose curves must be ours;
- 10,000 steps x 120 metrics from one `.wandb` file: ours beside W&B's own reader (`wandb leet inspect --json`) and the
  parsing of what it prints;
- every figure of 24 runs x 300 steps in 4 ablations, as PNG, SVG and PDF, with the tables: the whole command;
- `--help`.

The server is the tests' stand-in, in a process of its own. Every measurement is a process of its own; the seconds are
its wall clock, imports included, unless said otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.analysis.conftest import make_run
from tests.analysis.test_peers import OPENRLBENCHMARK, PEERS
from tests.analysis.wandb_format import write_log
from tests.analysis.wandb_server import ENTITY, KEY, PROJECT, ServedRun, WandbServer

ROOT = Path(__file__).resolve().parents[1]
RUNS, ROWS, METRICS, LATENCY = 30, 600, 60, 0.2
LOG_STEPS, LOG_METRICS = 10_000, 120

OURS = f"""
import json, sys, time, resource
from pathlib import Path
from analysis.sources.wandb_api import WandbProject
began = time.perf_counter()
records, warnings = WandbProject({ENTITY!r}, {PROJECT!r}, cache=Path(sys.argv[1])).read()
assert len(records) == {RUNS} and not warnings and all(len(r.history.rows) == {ROWS} for r in records)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
curves = [[[step, value] for step, value in record.history.curve("group/m7")] for record in records]
Path(sys.argv[2]).write_text(json.dumps(sorted(curves)))
"""
CLIENT = f"""
import time, resource, wandb
from concurrent.futures import ThreadPoolExecutor
began = time.perf_counter()
api = wandb.Api(overrides={{"entity": {ENTITY!r}}}, timeout=30)
runs = list(api.runs("{ENTITY}/{PROJECT}", per_page=200, lazy=False))
with ThreadPoolExecutor(8) as threads:
    rows = list(threads.map(lambda run: list(run.scan_history(page_size=10_000, use_cache=False)), runs))
assert [len(found) for found in rows] == [{ROWS}] * {RUNS}
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
READ_LOG = """
import sys, time, resource
from pathlib import Path
from analysis.sources.wandb_log import read_log
began = time.perf_counter()
assert len(read_log(Path(sys.argv[1])).rows) == 10_000
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def serve() -> None:
    """Serve the made-up runs until the parent goes, having printed the address."""
    draw = random.Random(0)
    runs = [
        ServedRun(
            f"run{number:02}",
            [
                (s, {"_runtime": s, "group/step": s, **{f"group/m{m}": draw.random() for m in range(METRICS)}})
                for s in range(ROWS)
            ],
            config={"env": "countdown", "exp": "abl"},
        )
        for number in range(RUNS)
    ]
    for run in runs:
        run.history(0, 1)
    with WandbServer(runs, latency=LATENCY) as server:
        print(server.url, flush=True)
        sys.stdin.read()


@contextmanager
def served() -> Iterator[dict[str, str]]:
    """Yield the environment in which a W&B client talks to the stand-in."""
    command = [sys.executable, "-m", "benchmarks.analysis", "--serve"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdin is not None
        url = server.stdout.readline().strip()
        quiet = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
        yield {**os.environ, **quiet, "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}
        server.stdin.close()


def measure(label: str, code: str, *arguments: object, **more: dict[str, str]) -> None:
    """Run code in a process of its own; print the seconds it tells, those of the whole process, and its memory."""
    began = time.perf_counter()
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    whole = time.perf_counter() - began
    if done.returncode:
        print(f"  {label:44} failed: {done.stderr.strip().splitlines()[-1]}")
        return
    own, memory = map(float, done.stdout.split()[-2:])
    print(f"  {label:44} {own:6.2f} s   {whole:6.2f} s   {memory:5.0f} MB")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analysis", description="How long the analysis takes.")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{'':46} reading    process   memory")
        print(f"{RUNS} runs x {ROWS} rows x {METRICS} metrics, {LATENCY * 1000:.0f} ms a request")
        with served() as environment:
            for number in ("first", "second"):
                measure(f"this project, {number} pull", OURS, folder / "cache", folder / "ours.json", env=environment)
            measure("wandb scan_history, 8 threads", CLIENT, env={**environment, "WANDB_DIR": temporary})
            theirs = folder / "theirs.json"
            environment |= {"PYTHONPATH": str(PEERS)}
            measure("openrlbenchmark, one metric", OPENRLBENCHMARK, theirs, "group/m7", env=environment)
            same = theirs.exists() and json.loads(theirs.read_text()) == json.loads((folder / "ours.json").read_text())
            print(f"  its curves and ours are {'the same' if same else 'NOT THE SAME'}")
        read_logs(folder)
        draw_figures(folder)


def read_logs(folder: Path) -> None:
    """Print how long a large `.wandb` file takes."""
    draw = random.Random(0)
    rows = ((step, {f"group/m{m}": draw.random() for m in range(LOG_METRICS)}) for step in range(LOG_STEPS))
    path = write_log(folder / "log" / "run-large.wandb", rows)
    print(f"a .wandb file of {LOG_STEPS} steps x {LOG_METRICS} metrics, {path.stat().st_size / 1e6:.0f} MB")
    measure("this project", READ_LOG, path)
    package = importlib.util.find_spec("wandb")
    assert package is not None and package.origin is not None
    client = Path(package.origin).parent / "bin" / "wandb-core"
    command = [str(client), "leet", "inspect", "--no-observability", "--json", "--run-file", str(path)]
    began = time.perf_counter()
    done = subprocess.run([*command, str(path.parent)], check=True, capture_output=True)
    rows_read = sum(json.loads(line)["type"] == "history" for line in done.stdout.splitlines())
    assert rows_read == LOG_STEPS
    print(f"  {'wandb leet inspect --json, and parsing it':44} {time.perf_counter() - began:6.2f} s")


def draw_figures(folder: Path) -> None:
    """Print how long the figures of 24 runs take, and the help."""
    arms = [{}, {"temperature": 0.6}, {"temperature": 1.2}, {"n": 3}, {"n": 8}, {"kl": 0.0}, {"kl": 0.01}]
    arms.append({"algorithm": "gae"})
    for arm in arms:
        for seed in (1, 2, 3):
            make_run(folder / "runs", seed=seed, steps=300, **arm)  # type: ignore[arg-type]
    print("24 runs x 300 steps, 4 ablations")
    for label, arguments in (
        ("every figure and table", ["analysis.plot_ablation", "--source", "runs", "--out", "figures"]),
        ("the report", ["analysis.report", "--source", "runs", "--out", "figures/report.html"]),
        ("--help", ["analysis.plot_ablation", "--help"]),
    ):
        began = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        print(f"  {label:44} {'':8}   {time.perf_counter() - began:6.2f} s")


if __name__ == "__main__":
    main()
