"""What only a GPU can tell, in one command: `python -m benchmarks.gpu [--items tiny,vllm,...] [--limit SECONDS]`

tiny      the tiny model, GRPO and PPO, 10 steps on the CPU and on the GPU: the same seed gives the same curve
vllm      0.5B shape, 3 steps: rollout and trainer probabilities agree after each weight sync
article   3B shape, the article's batch: its settings, then ours; the ratio is the figure
arms      3B shape: n = 3, 5, 8 and PPO, relative to n = 5
memory    0.5B, 1.5B, 3B, 7B shapes: peak memory by phase against what preflight predicts

Each run is `python -m experiments.run` in a process of its own; an item at its limit is ended with all that it started,
and the next begins. The models have Qwen2.5's shapes and random weights (benchmarks/gpu_model.py): compute and memory
are real, every response runs to its limit. The record is written after each run: a JSON file in benchmarks/results/; a
table comes last. `--device cpu` does what needs no GPU: the first item, on the CPU alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_cases import ITEMS, MODEL, SEED, Case, Machine, cases, substitutes
from benchmarks.gpu_record import GPUMemory, Result, figures, measured, out_of_step, predicted, table
from benchmarks.packages import versions
from benchmarks.watch import watch
from experiments.errors import UserError
from experiments.processes import reaping
from experiments.store.files import write_atomically
from experiments.store.rundir import find_runs

PROJECT = Path(__file__).resolve().parents[1]
TORCH_SECONDS = 300
# What torch is built for, and the MiB of the first GPU that it sees, 0 for none.
ASK_TORCH = """
import torch
print(torch.version.cuda, torch.cuda.get_device_properties(0).total_memory >> 20 if torch.cuda.is_available() else 0)
"""
PACKAGES = ("verl", "torch", "vllm", "flash-attn", "transformers", "ray", "tensordict")


def find_machine(device: str) -> Machine:
    """Return the machine to measure on; UserError if a GPU is asked for and can't be used."""
    if device == "cpu":
        return Machine("cpu")
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=60).stdout.splitlines()
    except (FileNotFoundError, subprocess.TimeoutExpired):
        lines = []
    found = visible([[part.strip() for part in line.split(",")] for line in lines if line.count(",") == 4])
    if not found:
        raise UserError("nvidia-smi must find a GPU, but finds none; run this on a GPU node, or add --device cpu")
    try:
        asked = [sys.executable, "-c", ASK_TORCH]
        seen = subprocess.run(asked, capture_output=True, text=True, timeout=TORCH_SECONDS).stdout.split()
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"torch must be imported within {TORCH_SECONDS} s, but is not; put the environment on a local disk"
        ) from error
    _, _, name, memory, driver = found[0]
    if len(seen) != 2 or seen[1] == "0":
        built = seen[0] if seen else "none"
        raise UserError(
            f"torch must see the {name}, but doesn't: it is built for CUDA {built}, the driver is {driver}; "
            "do: pip install -e '.[gpu]', and see docs/gpu.md for the driver"
        )
    return Machine(
        device="cuda",
        name=name,
        gpus=len(found),
        memory_gib=int(memory if memory.isdigit() else seen[1]) // 1024,  # one that shares the host's says [N/A]
        indices=tuple(index for index, *_ in found),
        driver=driver,
        vllm=importlib.util.find_spec("vllm") is not None,
        flash_attn=importlib.util.find_spec("flash_attn") is not None,
    )


def visible(gpus: list[list[str]]) -> list[list[str]]:
    """Return those of nvidia-smi's GPUs (index, uuid, ...) that CUDA_VISIBLE_DEVICES leaves, in its order."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not chosen:  # if it is empty, torch sees none of them: find_machine reports it
        return gpus
    names = [name.strip() for name in chosen.split(",")]
    found = [[gpu for gpu in gpus if name == gpu[0] or gpu[1].startswith(name)] for name in names]
    return [gpu for matches in found for gpu in matches[:1]]


def describe(machine: Machine) -> Result:
    """Return what the figures were measured on and with."""
    return {
        **{name: getattr(machine, name) for name in ("device", "name", "gpus", "memory_gib", "driver")},
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "versions": versions(PACKAGES),
    }


def command(case: Case, folder: Path) -> list[str]:
    """Return the command of a case, whose run and data go into `folder`."""
    overrides = [override.replace(MODEL, str(folder / "model")) for override in case.overrides]
    places = (f"runs_dir={folder / 'runs'}", f"data_dir={folder.parent / 'data'}")
    return [sys.executable, "-P", "-m", "experiments.run", *overrides, *places]


def run_case(case: Case, folder: Path, limit: float, indices: Sequence[str] = ()) -> Result:
    """Run one case for `limit` seconds at most and end all that it started; return its figures or {"failed": why}.

    `indices`: the GPUs whose memory is sampled, all by default.
    """
    started = time.monotonic()
    folder.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.getenv("PYTHONPATH")]))}
    if case.model is not None:
        build = [sys.executable, "-m", "benchmarks.gpu_model", case.model, str(folder / "model")]
        try:
            built = subprocess.run(build, env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"its model was not built within {limit:.0f} s"}
        if built.returncode:
            return {"failed": f"its model was not built: {(built.stderr.strip().splitlines() or ['no word'])[-1]}"}
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
            )
    finally:
        runs = find_runs(folder / "runs")
        for run in runs:
            reaping.reap(run.path)
        shutil.rmtree(folder / "model", ignore_errors=True)  # gigabytes
    rows = [(arrival.time, arrival.row["data"]) for arrival in outcome.arrivals]
    result = measured([(moment, row) for moment, row in rows if "timing_s/step" in row], memory.samples)
    if outcome.code is None:
        return {**result, "failed": f"ran past its limit of {limit:.0f} s"}
    if outcome.code:
        return {**result, "failed": cause(log, runs)}
    if parted := out_of_step(case.item, result):
        return {**result, "failed": parted}
    return {**result, "predicted_gib": predicted(runs[0].load_config())}


def cause(log: Path, runs: Sequence[Any]) -> str:
    """Return why a run failed: its recorded cause, else what the command refused, else the last line of its output."""
    failures = [event for run in runs for event in run.events() if event["event"] == "failed"]
    if failures:
        return f"{failures[-1]['kind']}: {failures[-1]['cause']}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("error:")), (lines or ["it printed nothing"])[-1])


def measure(items: Sequence[str], machine: Machine, folder: Path, limit: float | None, out: Path) -> Result:
    """Run the items' cases; write the record to `out` after each; return it."""
    record: Result = {
        "machine": describe(machine),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seed": SEED,
        "lengths": "worst case: random models run to their limits; the tiny model's responses end by themselves",
        "substitutes": list(substitutes(machine)),
        "items": {},
        "figures": {},
    }
    for item in items:
        results: dict[str, Result] = record["items"].setdefault(item, {})
        deadline = time.monotonic() + (limit or ITEMS[item][1])
        for number, case in enumerate(cases(item, machine)):
            # The baseline with our settings belongs to two items, and is measured once.
            known = record["items"].get("article", {}).get(case.name) if item == "arms" else None
            left = deadline - time.monotonic()
            if known and "failed" not in known:
                results[case.name] = known
            elif left <= 0:
                results[case.name] = {"failed": f"not begun: {item} had reached its limit"}
            else:
                print(f"{item}: {case.name} ...", flush=True)
                results[case.name] = run_case(case, folder / f"{item}-{number}", left, machine.indices)
            record["figures"] = figures(record["items"])
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out, json.dumps(record, indent=1) + "\n")
    return record


def report(record: Result) -> None:
    """Print the figures, and the table last."""
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for name, value in record["figures"].items():
        console.print(f"{name}: {value}")
    for line in record["substitutes"]:
        console.print(line)
    machine = record["machine"]
    console.print(f"{machine['gpus']} x {machine['name']}, driver {machine['driver']}" if machine["gpus"] else "CPU")
    console.print(table(record["items"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0; 1 if a case failed; 2 if there is nothing to measure on."""
    parser = argparse.ArgumentParser(description="What only a GPU can tell: five items, each within its limit.")
    parser.add_argument("--items", default=",".join(ITEMS), help=f"of {', '.join(ITEMS)} (default: all)")
    parser.add_argument("--limit", type=float, help="seconds for each item, in place of its own")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: what needs no GPU")
    parser.add_argument("--out", type=Path, help="the JSON file (default: benchmarks/results/gpu-<GPU>.json)")
    parsed = parser.parse_args(arguments)
    items = parsed.items.split(",")
    if unknown := set(items) - set(ITEMS):
        parser.error(f"--items must name {', '.join(ITEMS)}, but names {', '.join(sorted(unknown))}")
    try:
        machine = find_machine(parsed.device)
    except UserError as error:
        print(f"error: {error.problems[0]}", file=sys.stderr)
        return UserError.exit_code
    for item in [item for item in items if not cases(item, machine)]:
        print(f"{item} needs a GPU, and is left out: {ITEMS[item][0]}")
        items.remove(item)
    slug = re.sub(r"[^a-z0-9]+", "-", machine.name.lower()).strip("-")
    out = parsed.out or PROJECT / "benchmarks" / "results" / f"gpu-{slug}.json"
    folder = Path(tempfile.mkdtemp(prefix="gpu-benchmark-"))
    record = measure(items, machine, folder, parsed.limit, out)
    report(record)
    print(f"written to {out}")
    if any("failed" in result for results in record["items"].values() for result in results.values()):
        print(f"logs: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
