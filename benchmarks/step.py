"""What a GRPO step and a start cost, beside TRL and a bare PyTorch loop: same weights, same prompts, same run.

    python -m benchmarks.step [--quick] [--only ours,plain,trl,bare,sampler] [--threads 2] [--out FILE] [--trl FOLDER]

ours      python -m experiments.run: fork server and batched agent loop; two arms of one sweep
plain     the same with hardware.fast=false
trl       TRL's GRPOTrainer, transformers generating
bare      the shortest loop, benchmarks/bare_grpo.py
sampler   our sampler against transformers' generate, without training

Every competitor is a command of its own, one after the other, computes with the same number of threads (as many as a
run of ours has by default) and is watched from outside: a step is the time between two rows of metrics, the start is
from the command to the first row. The model is random and never ends a response (benchmarks/setting.py), so that all
generate the same number of tokens. Medians leave out the first step. Run it on an idle machine. One that fails is
reported with its last line, and the others still run.

veRL 0.9.1 breaks where TRL 1.16 can be imported, so TRL has a folder of its own:
    pip install --no-deps --target .trl trl==1.16.0
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import setting
from benchmarks.packages import versions
from benchmarks.watch import Arrival, Outcome, watch

PROJECT = Path(__file__).resolve().parents[1]
COMPETITORS = {
    "ours": "ours (fork server, batched loop)",
    "plain": "ours, plain path",
    "trl": "TRL GRPOTrainer",
    "bare": "bare PyTorch loop",
    "sampler": "sampler",
}
SAMPLED = {
    "full": "this model, all responses of full length",
    "tiny": "the shipped tiny model, responses end by themselves",
}
LIMIT_SECONDS = 900.0
PACKAGES = ("verl", "torch", "transformers", "ray", "trl")

Result = dict[str, Any]


def command(name: str, folder: Path, steps: int, threads: int) -> list[str]:
    """Return the command of a competitor."""
    if name == "sampler":
        return [sys.executable, "-m", "benchmarks.sampler", str(folder), str(steps)]
    if name in ("trl", "bare"):
        return [sys.executable, "-m", f"benchmarks.{name}_grpo", str(folder), str(steps)]
    batch = setting.PROMPTS * setting.N
    return [
        *(sys.executable, "-m", "experiments.run"),
        *(["-m", "seed=1,2", "hydra.launcher.jobs=1"] if name == "ours" else ["hardware.fast=false"]),
        f"hardware.threads={threads}",
        f"model.path={folder / 'model'}",
        f"data.train_files={folder / 'train.parquet'}",
        f"data.val_files={folder / 'test.parquet'}",
        "data.shuffle=false",
        f"data.train_batch_size={setting.PROMPTS}",
        f"data.max_response_length={setting.RESPONSE_LENGTH}",
        f"rollout.n={setting.N}",
        f"rollout.temperature={setting.TEMPERATURE}",
        f"kl.coef={setting.KL}",
        f"reward.custom_reward_function.path={PROJECT / 'benchmarks' / 'setting.py'}",
        f"actor_rollout_ref.actor.optim.lr={setting.LR}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={setting.PROMPTS}",
        f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={batch}",
        f"actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu={batch}",
        f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={batch}",
        f"trainer.total_training_steps={steps}",
        *("trainer.test_freq=-1", "trainer.val_before_train=false", "trainer.save_freq=-1", "tracking=none"),
        f"runs_dir={folder / name}",
    ]


def environment(name: str, temporary: Path, trl: Path, threads: int) -> dict[str, str]:
    """Return a competitor's environment: its threads, no hub, its own temporary files; TRL's folder for TRL alone."""
    path = [str(PROJECT), *([str(trl)] if name == "trl" else []), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        **({} if name in ("ours", "plain") else {"OMP_NUM_THREADS": str(threads)}),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(temporary),
    } | ({"VERL_PLATFORM": "cpu"} if name == "sampler" else {})


def measure(name: str, folder: Path, steps: int, trl: Path, threads: int) -> Result:
    """Run one competitor; return its result, or {"failed": why}."""
    load = os.getloadavg()[0]
    log = folder / f"{name}.log"
    pattern = "*/attempts/*/metrics.jsonl" if name in ("ours", "plain") else "*.jsonl"
    rows = (folder / name, pattern) if name in ("ours", "plain") else (folder, f"{name}.jsonl")
    temporary = folder / f"{name}-tmp"
    temporary.mkdir()
    outcome = watch(
        command(name, folder, steps, threads),
        environment(name, temporary, trl, threads),
        rows=rows,
        places={
            "/dev/shm": (Path("/dev/shm"), "*"),
            "temporary files": (temporary, "*"),
            "/tmp": (Path("/tmp"), "r1z-*"),  # a run's sockets: their paths must be short, whatever TMPDIR says
        },
        log=log,
        limit=LIMIT_SECONDS,
    )
    result: Result = {"load_before": round(load, 2)}
    if outcome.code != 0:
        why = "ran past its limit" if outcome.code is None else f"ended with {outcome.code}"
        return {**result, "failed": f"{why}: {last_line(log)}"}
    if name == "sampler":
        return {**result, **sampler_result([arrival.row["data"] for arrival in outcome.arrivals])}
    return {**result, **training_result(outcome, events(folder / name))}


def training_result(outcome: Outcome, events: dict[str, list[Result]]) -> Result:
    """Return {"step_seconds", ...} of a training that was watched.

    `events` has the events of each run's folder, for competitors that have such folders. Then the second run to give
    rows is the later arm, and its start is counted from the event "finished" of the first run.
    """
    runs: dict[str, list[Arrival]] = {}
    for arrival in outcome.arrivals:
        runs.setdefault(arrival.file, []).append(arrival)
    if not runs:
        return {"failed": "it wrote no metrics"}
    durations = [[b.time - a.time for a, b in itertools.pairwise(run)] for run in runs.values()]
    cpu = [[b.cpu_seconds - a.cpu_seconds for a, b in itertools.pairwise(run)] for run in runs.values()]
    arms = list(runs.values())
    result: Result = {
        "step_seconds": statistics.median(itertools.chain(*durations)),
        "step_cpu_seconds": statistics.median(itertools.chain(*cpu)),
        "step_seconds_all": [[round(seconds, 4) for seconds in run] for run in durations],
        "first_step_seconds": arms[0][0].time - outcome.started,
        "whole_seconds": outcome.ended - outcome.started,
        "peak_bytes": outcome.peak_bytes,
        "peak_processes": outcome.peak_processes,
        "left_behind": {kind: things for kind, things in outcome.left.items() if things},
        "reward": [figure(arms[0][i].row["data"], "critic/score/mean", "reward") for i in (0, -1)],
        "response_length": figure(arms[0][0].row["data"], "response_length/mean", "length"),
    }
    if len(arms) > 1:
        first = Path(arms[0][0].file).parents[2].name
        finished = next(event["time"] for event in events[first] if event["event"] == "finished")
        result["later_arm_seconds"] = arms[1][0].time - finished
    return result


def figure(data: dict[str, float], *names: str) -> float:
    """Return the metric under the first of these names that is there: veRL's, or the name in the loops here."""
    return round(next(data[name] for name in names if name in data), 4)


def sampler_result(rounds: list[dict[str, float]]) -> Result:
    """Return, for both models, the medians of both samplers in seconds and how many times faster ours is."""
    return {
        model: {
            "ours_seconds": statistics.median(row[f"ours {model}"] for row in rounds),
            "transformers_seconds": statistics.median(row[f"transformers {model}"] for row in rounds),
            "faster": statistics.median(row[f"transformers {model}"] / row[f"ours {model}"] for row in rounds),
        }
        for model in SAMPLED
    }


def events(folder: Path) -> dict[str, list[Result]]:
    """Return the events of each run's folder in `folder`; empty where there are none."""
    files = sorted(folder.glob("*/events.jsonl")) if folder.is_dir() else []
    return {path.parent.name: [json.loads(line) for line in path.read_text().splitlines() if line] for path in files}


def last_line(log: Path) -> str:
    """Return the last line of a log that says anything."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip(" ━─└┘│┃")]
    return lines[-1] if lines else "it printed nothing"


def machine(trl: Path) -> Result:
    """Return what the numbers were measured on."""
    installed = versions(PACKAGES)
    for folder in trl.glob("trl-*.dist-info"):
        installed["trl"] = folder.name.removesuffix(".dist-info").split("-")[1]
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    return {"cores": os.cpu_count(), "cpu": cpu, "python": platform.python_version(), "versions": installed}


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def training_table(results: dict[str, Result]) -> Table:
    """Return the table of the competitors that train."""
    sizes = f"{setting.PROMPTS} prompts x {setting.N} x {setting.RESPONSE_LENGTH} tokens, 0.6M parameters"
    table = Table(title=f"GRPO, {sizes}", title_justify="left")
    for column in (
        "",
        "s a step",
        "min - max",
        "CPU s a step",
        "start to end of step 1",
        "later arm",
        "peak memory",
        "left behind",
    ):
        table.add_column(column, justify="left" if column in ("", "left behind") else "right", overflow="fold")
    for name, result in results.items():
        if name == "sampler":
            continue
        if "failed" in result:
            table.add_row(COMPETITORS[name], "failed", *["-"] * 5, result["failed"])
            continue
        seconds = list(itertools.chain(*result["step_seconds_all"]))
        later, left = result.get("later_arm_seconds"), result["left_behind"]
        table.add_row(
            COMPETITORS[name],
            f"{result['step_seconds']:.2f}",
            f"{min(seconds):.2f} - {max(seconds):.2f}",
            f"{result['step_cpu_seconds']:.2f}",
            f"{result['first_step_seconds']:.1f} s",
            f"{later:.1f} s" if later is not None else "-",
            f"{result['peak_bytes'] / 2**30:.2f} GiB in {result['peak_processes']}",
            ", ".join(f"{kind}: {' '.join(things)}" for kind, things in left.items()) or "nothing",
        )
    return table


def report(results: dict[str, Result], console: Console) -> None:
    """Print the tables."""
    if set(results) - {"sampler"}:
        console.print(training_table(results))
    sampler = results.get("sampler")
    if sampler and "failed" in sampler:
        console.print(f"sampler failed: {sampler['failed']}")
    elif sampler:
        for model, what in SAMPLED.items():
            ours, theirs = sampler[model]["ours_seconds"], sampler[model]["transformers_seconds"]
            faster = f"{sampler[model]['faster']:.2f} x"
            console.print(f"sampling alone, {what}: {ours:.3f} s, transformers' generate {theirs:.3f} s: {faster}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, or 1 if a competitor failed."""
    parser = argparse.ArgumentParser(description="A GRPO step: ours, TRL and a bare PyTorch loop in one run.")
    parser.add_argument("--quick", action="store_true", help="4 steps each in place of 10")
    parser.add_argument("--only", default=",".join(COMPETITORS), help="competitors, separated by commas")
    parser.add_argument("--threads", type=int, default=2, help="how many threads each competitor computes with")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file too")
    parser.add_argument("--trl", type=Path, default=PROJECT / ".trl", help="the folder that TRL was installed to")
    parsed = parser.parse_args(arguments)
    names, steps = parsed.only.split(","), 4 if parsed.quick else 10
    if unknown := set(names) - set(COMPETITORS):
        parser.error(f"--only must name {', '.join(COMPETITORS)}, but names {', '.join(sorted(unknown))}")
    if sys.platform != "linux":
        parser.error("the machine must run Linux: processes and their memory are read from /proc")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    folder = Path(tempfile.mkdtemp(prefix="step-benchmark-"))
    setting.build(folder, steps)
    results: dict[str, Result] = {}
    for name in names:
        console.print(f"{COMPETITORS[name]} ...")
        results[name] = measure(name, folder, steps, parsed.trl.absolute(), parsed.threads)
    console.print(f"{parsed.threads} threads each")
    report(results, console)
    if parsed.out:
        record = {"machine": machine(parsed.trl), "steps": steps, "threads": parsed.threads, "results": results}
        temporary = parsed.out.with_name(f".{parsed.out.name}.new")
        temporary.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(temporary, parsed.out)
    if any("failed" in result for result in results.values()):
        console.print(f"logs: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
