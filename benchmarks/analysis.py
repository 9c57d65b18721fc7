"""How long the analysis takes, beside its peers, in one run.

    python -m benchmarks.analysis

- 30 runs x 600 rows x 60 metrics from a server that answers after 200 ms: ours, first and second time, beside the
  official client's scan_history (8 threads) and openrlbenchmark (0.3.1, in the folder of peers that `make test` fills),
  whose curves must be ours; then the same runs, moved to parquet files by the server;
- 10,000 steps x 120 metrics from one `.wandb` file: ours, with and without its short cut for rows of known metrics
  (0.5 and 4.0 seconds of CPU), beside W&B's own reader (`wandb leet inspect --json`) and the parsing of what it prints;
- every figure of 200 runs x 1,000 steps x 60 metrics, 8 arms x 25 seeds in 4 ablations, from their folders and from
  `.wandb` files, and their report;
- every figure of 24 runs x 300 steps, 160 responses a step kept, as PNG, SVG and PDF, with the tables: the whole
  command, of 8 arms x 3 seeds in 4 ablations; and their report;
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
from typing import Any

import yaml

from analysis.records.history import Row
from tests.analysis.conftest import made_up_rows, make_run
from tests.analysis.sources.test_peers import OPENRLBENCHMARK, PEERS
from tests.analysis.wandb_format import write_log
from tests.analysis.wandb_server import ENTITY, KEY, PROJECT, ServedRun, WandbServer

ROOT = Path(__file__).resolve().parents[1]
RUNS, ROWS, METRICS, LATENCY = 30, 600, 60, 0.2
LOG_STEPS, LOG_METRICS = 10_000, 120
STEPS, RESPONSES = 300, 160
MANY_STEPS, SEEDS = 1000, 25
ARMS: list[dict[str, Any]] = [
    *({}, {"temperature": 0.6}, {"temperature": 1.2}, {"n": 3}, {"n": 8}),
    *({"kl": 0.0}, {"kl": 0.01}, {"algorithm": "gae"}),
]
WORDS = ("let's", "try", "how", "about", "wait", "this", "works", "does", "not", "equal", "3", "5", "+", "*", "=", "21")

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
DOWNLOADS = f"""
import sys, time, resource, wandb
import pyarrow.parquet as pq
from concurrent.futures import ThreadPoolExecutor
began = time.perf_counter()
api = wandb.Api(overrides={{"entity": {ENTITY!r}}}, timeout=30)
runs = list(api.runs("{ENTITY}/{PROJECT}", per_page=200, lazy=False))
def rows(run):
    files = run.download_history_exports(f"{{sys.argv[1]}}/{{run.id}}").paths
    return [row for file in files for row in pq.read_table(file).to_pylist()]
with ThreadPoolExecutor(8) as threads:
    found = list(threads.map(rows, runs))
assert [len(rows) for rows in found] == [{ROWS}] * {RUNS}
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
READ_EVERY_FIELD = """
from analysis.sources import wandb_log
wandb_log.read_row = wandb_log.read_any_row
"""


def serve(exported: bool) -> None:
    """Print the address, then serve the made-up runs until the parent ends; `exported`: as parquet files."""
    draw = random.Random(0)
    runs = [
        ServedRun(
            f"run{number:02}",
            [
                (s, {"_runtime": s, "group/step": s, **{f"group/m{m}": draw.random() for m in range(METRICS)}})
                for s in range(ROWS)
            ],
            config={"env": "countdown", "exp": "abl"},
            exported=ROWS if exported else 0,
        )
        for number in range(RUNS)
    ]
    for run in runs:
        run.history(0, 1)
    with WandbServer(runs, latency=LATENCY) as server:
        print(server.url, flush=True)
        sys.stdin.read()


@contextmanager
def served(how: str) -> Iterator[dict[str, str]]:
    """Yield the environment in which a W&B client talks to the stand-in, which serves "live" or "exported" runs."""
    command = [sys.executable, "-m", "benchmarks.analysis", "--serve", how]
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
    parser.add_argument("--serve", choices=("live", "exported"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve == "exported")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{'':46} reading    process   memory")
        print(f"{RUNS} runs x {ROWS} rows x {METRICS} metrics, {LATENCY * 1000:.0f} ms a request")
        with served("live") as environment:
            for number in ("first", "second"):
                measure(f"this project, {number} pull", OURS, folder / "cache", folder / "ours.json", env=environment)
            client = {**environment, "WANDB_DIR": temporary, "WANDB_CACHE_DIR": temporary}
            measure("wandb scan_history, 8 threads", CLIENT, env=client)
            theirs = folder / "theirs.json"
            environment |= {"PYTHONPATH": str(PEERS)}
            measure("openrlbenchmark, one metric", OPENRLBENCHMARK, theirs, "group/m7", env=environment)
            same = theirs.exists() and json.loads(theirs.read_text()) == json.loads((folder / "ours.json").read_text())
            print(f"  its curves and ours are {'the same' if same else 'NOT THE SAME'}")
        print("the same runs, exported to parquet")
        with served("exported") as environment:
            measure("this project, first pull", OURS, folder / "cache2", folder / "ours.json", env=environment)
            client = {**environment, "WANDB_DIR": temporary, "WANDB_CACHE_DIR": temporary}
            measure("wandb scan_history, 8 threads", CLIENT, env=client)
            measure("wandb download_history_exports, 8 threads", DOWNLOADS, folder / "exports", env=client)
        read_logs(folder)
        draw_many(folder / "many")
        draw_figures(folder / "few")


def read_logs(folder: Path) -> None:
    """Print how long a large `.wandb` file takes."""
    draw = random.Random(0)
    rows = ((step, {f"group/m{m}": draw.random() for m in range(LOG_METRICS)}) for step in range(LOG_STEPS))
    path = write_log(folder / "log" / "run-large.wandb", rows)
    print(f"a .wandb file of {LOG_STEPS} steps x {LOG_METRICS} metrics, {path.stat().st_size / 1e6:.0f} MB")
    measure("this project", READ_LOG, path)
    measure("this project without its short cut", READ_EVERY_FIELD + READ_LOG, path)
    package = importlib.util.find_spec("wandb")
    assert package is not None and package.origin is not None
    client = Path(package.origin).parent / "bin" / "wandb-core"
    command = [str(client), "leet", "inspect", "--no-observability", "--json", "--run-file", str(path)]
    began = time.perf_counter()
    done = subprocess.run([*command, str(path.parent)], check=True, capture_output=True)
    rows_read = sum(json.loads(line)["type"] == "history" for line in done.stdout.splitlines())
    assert rows_read == LOG_STEPS
    print(f"  {'wandb leet inspect --json, and parsing it':44} {time.perf_counter() - began:6.2f} s")


def draw_many(folder: Path) -> None:
    """Print the seconds and the memory, over all processes, of the figures and report of 200 long runs."""
    for place, arm in enumerate(ARMS):
        for seed in range(1, SEEDS + 1):
            draw = random.Random(f"{place} {seed}")
            rows = timed_rows(seed, arm, MANY_STEPS)
            others = [f"group/m{number}" for number in range(METRICS - len(rows[-1][1]))]
            rows = [(step, {**row, **{metric: draw.random() for metric in others}}) for step, row in rows]
            run = make_run(folder / "runs", seed=seed, attempts=[rows], steps=MANY_STEPS, **arm)
            config = yaml.safe_load((run / "config.yaml").read_text())
            write_log(folder / "logs" / run.name / f"run-{place}s{seed}.wandb", rows, name=run.name, config=config)
    print(f"{len(ARMS)} arms x {SEEDS} seeds x {MANY_STEPS} steps x {METRICS} metrics")
    time_command(folder, "every figure and table", "analysis.plot_ablation", "--out", "figures")
    time_command(
        folder, "the same from .wandb files", "analysis.plot_ablation", "--source", "logs", "--out", "figures2"
    )
    time_command(folder, "the report", "analysis.report", "--out", "report.html")
    print(f"  {'its size':44} {(folder / 'report.html').stat().st_size / 1e6:31.1f} MB")


def draw_figures(folder: Path) -> None:
    """Print the seconds and the memory, over all processes, of the figures and report of 24 runs, and of the help."""
    for arm in ARMS:
        for seed in (1, 2, 3):
            keep_texts(
                make_run(folder / "runs", seed=seed, attempts=[timed_rows(seed, arm, STEPS)], steps=STEPS, **arm)
            )
    print(f"8 arms x 3 seeds x {STEPS} steps, {RESPONSES} responses a step")
    time_command(folder, "every figure and table", "analysis.plot_ablation", "--out", "figures")
    time_command(folder, "the report", "analysis.report", "--out", "figures/report.html")
    time_command(folder, "--help", "analysis.plot_ablation", "--help")


def timed_rows(seed: int, arm: dict[str, Any], steps: int) -> list[Row]:
    """Return a run's made-up rows with the phases of each step, as veRL logs them."""
    phases = {"gen": 1.0, "old_log_prob": 0.2, "ref": 0.2, "adv": 0.01, "update_actor": 0.3, "step": 1.8}
    timing = {f"timing_s/{phase}": seconds for phase, seconds in phases.items()} | {"perf/throughput": 5000.0}
    return [(step, {**row, **timing}) for step, row in made_up_rows(seed, arm.get("temperature", 1.0), 1, steps)]


def keep_texts(run: Path) -> None:
    """Write made-up responses of every step of a run; every tenth step's are alike, to spare the benchmark's time."""
    draw = random.Random(run.name)
    folder = run / "attempts" / "1" / "rollouts"
    folder.mkdir()
    texts = []
    for _ in range(10):
        said = [" ".join(draw.choices(WORDS, k=60)) for _ in range(RESPONSES)]
        prompt = "Using the numbers [3, 5, 7], create an equation that equals 21. " * 4
        rows = [{"input": prompt, "output": text, "gts": "{}", "score": 0.1, "acc": 0.0, "step": 1} for text in said]
        texts.append("".join(json.dumps(row) + "\n" for row in rows))
    for step in range(1, STEPS + 1):
        (folder / f"{step}.jsonl").write_text(texts[step % 10])


def time_command(folder: Path, label: str, *arguments: str) -> None:
    """Run a command; print its seconds, and the most memory that it and its processes held at once."""
    began, most = time.perf_counter(), 0.0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(folder / "printed", "w+") as log:
        command = [sys.executable, "-m", *arguments]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
        while process.poll() is None:
            most = max(most, tree_memory(process.pid))
            time.sleep(0.05)
        assert process.returncode == 0, (folder / "printed").read_text()
    print(f"  {label:44} {'':8}   {time.perf_counter() - began:6.2f} s   {most:5.0f} MB")


def tree_memory(pid: int) -> float:
    """Return the MB that a process and its children hold, pages that they share counted once."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return 0.0
    own = next((int(line.split()[1]) / 1024 for line in told.splitlines() if line.startswith("Pss:")), 0.0)
    return own + sum(tree_memory(int(child)) for child in children)


if __name__ == "__main__":
    main()
