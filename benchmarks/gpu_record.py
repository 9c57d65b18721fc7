"""Turn the runs that benchmarks/gpu.py watched into seconds, memory by phase, the items' figures, and the table."""

from __future__ import annotations

import math
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from experiments.models.folder import shape_of
from experiments.models.memory import phases
from experiments.models.setup import setup_of

Row = Mapping[str, float]
Result = dict[str, Any]

# The timers of a step from its end backwards, and the phase of experiments/models/memory.py that each belongs to.
# Generation comes first: it takes the part of the step that no other timer covers.
TIMERS = {
    "update_weights": "weights",
    "update_actor": "update",
    "update_critic": "update",
    "adv": "advantage",
    "values": "log-prob",
    "ref": "log-prob",
    "old_log_prob": "log-prob",
}
PREDICTED = ("rollout", "log-prob", "update")
# Above this mean difference of log-probabilities, rollout and trainer have different weights: in fp32, where a CPU
# shows 1e-7, and in bf16. Two random models are 0.3 apart; at a learning rate of 1e-4 one step moves them by 0.05 to
# 0.08 (hidden size 896).
PARTED = {"tiny": 1e-3, "vllm": 0.05}


class GPUMemory:
    """Samples of the memory in use: `samples` has (seconds since the epoch, MiB of the fullest of some GPUs)."""

    def __init__(self, indices: Sequence[str] = ()) -> None:
        self.samples: list[tuple[float, float]] = []
        self.only = [f"--id={','.join(indices)}"] if indices else []  # on a shared node other GPUs are somebody else's

    def __enter__(self) -> GPUMemory:
        query = [
            "nvidia-smi",
            "--query-gpu=index,memory.used",
            "--format=csv,noheader,nounits",
            "-lms",
            "200",
            *self.only,
        ]
        try:
            self.process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except FileNotFoundError:
            self.process = None
            return self
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.thread.join()

    def _read(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        first = None
        for line in self.process.stdout:
            index, _, used = line.partition(",")
            if not used.strip().isdigit():
                continue
            first = first or index
            if index == first or not self.samples:
                self.samples.append((time.time(), float(used)))
            else:  # another GPU of the same sample
                moment, most = self.samples[-1]
                self.samples[-1] = (moment, max(most, float(used)))

    process: subprocess.Popen[str] | None = None


def out_of_step(item: str, result: Result) -> str | None:
    """Return a message if the rollout had other weights than the trainer; None if not, or if nothing was logged."""
    limit = PARTED["tiny" if item == "tiny" else "vllm"]
    gaps = [(gap, step) for step, gap in enumerate(result["log_ppl_abs_diff"], 1) if gap is not None]
    gap, step = max(gaps, default=(0.0, 0), key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0])
    if gap <= limit:
        return None
    parted = f"log_ppl_abs_diff is {gap:.3g} in step {step}, above {limit:g}"
    return f"FAIL: the rollout has other weights than the trainer: {parted}"


def phase_seconds(row: Row) -> dict[str, float]:
    """Return the seconds that a step spent in each phase, in their order."""
    spent: dict[str, float] = {"rollout": 0.0}
    for timer in reversed(TIMERS):
        if f"timing_s/{timer}" in row:
            spent[TIMERS[timer]] = spent.get(TIMERS[timer], 0.0) + row[f"timing_s/{timer}"]
    spent["rollout"] = max(0.0, row["timing_s/step"] - sum(spent.values()))
    return spent


def peaks(rows: Sequence[tuple[float, Row]], samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return the most GiB of the fullest GPU in each phase, for rows with the moment at which each step ended.

    A phase's window follows from the timers. So a sample within a fraction of a second of its border may belong to the
    neighbouring phase.
    """
    found: dict[str, float] = {}
    for ended, row in rows:
        moment = ended - row["timing_s/step"]
        for phase, seconds in phase_seconds(row).items():
            inside = [used for when, used in samples if moment <= when < moment + seconds]
            if inside:
                found[phase] = max(found.get(phase, 0.0), max(inside) / 1024)
            moment += seconds
    return found


def measured(rows: Sequence[tuple[float, Row]], samples: Sequence[tuple[float, float]]) -> Result:
    """Return the figures of a run from its rows of metrics; seconds and rates are medians without the first step."""
    if not rows:
        return {"failed": "it wrote no metrics"}
    steady = [row for _, row in rows[1:]] or [rows[0][1]]

    def typical(key: str) -> float | None:
        values = [row[key] for row in steady if key in row]
        return round(median(values), 4) if values else None

    split = [phase_seconds(row) for row in steady]
    every: dict[str, list[float | None]] = {
        name: [row.get(key) for _, row in rows]
        for name, key in (
            ("score", "critic/score/mean"),
            ("log_ppl_abs_diff", "rollout_corr/log_ppl_abs_diff"),
            ("probs_diff_max", "training/rollout_probs_diff_max"),
            ("grad_norm", "actor/grad_norm"),
        )
    }
    allocated = [row[key] for _, row in rows for key in row if key.endswith("perf/max_memory_allocated_gb")]
    return {
        "steps": len(rows),
        "step_seconds": typical("timing_s/step"),
        "phase_seconds": {phase: round(median(part[phase] for part in split), 3) for phase in split[0]},
        "tokens_per_second_and_gpu": typical("perf/throughput"),
        "mfu": typical("perf/mfu/actor"),
        "response_length": typical("response_length/mean"),
        "allocated_gib": round(max(allocated), 2) if allocated else None,
        "peak_gib": {phase: round(gib, 2) for phase, gib in peaks(rows, samples).items()},
        **every,
    }


def predicted(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the GiB that preflight expects in each phase of a run; empty where it makes no estimate."""
    setup = setup_of(config, shape_of(config))
    return {phase.name: round(phase.total, 2) for phase in phases(setup)} if setup else {}


def figures(results: Mapping[str, Mapping[str, Result]]) -> dict[str, Any]:
    """Return the figures that the items are for, from results {item: {case: result}}; only what was measured."""
    done = {
        item: {name: result for name, result in cases.items() if "failed" not in result}
        for item, cases in results.items()
    }
    found: dict[str, Any] = {}
    tiny = done.get("tiny", {})
    for algorithm in ("grpo", "ppo"):
        here, there = tiny.get(f"{algorithm} on cpu"), tiny.get(f"{algorithm} on cuda")
        if here and there:
            curves = list(zip(here["score"], there["score"], strict=False))
            found[f"tiny: {algorithm}, largest difference of the reward curves"] = round(
                max(abs(a - b) for a, b in curves), 6
            )
            found[f"tiny: {algorithm}, step at which they part"] = next(
                (step for step, (a, b) in enumerate(curves, 1) if abs(a - b) > 1e-6), None
            )
    for name, result in {**tiny, **done.get("vllm", {})}.items():
        gaps = [value for value in result["log_ppl_abs_diff"] if value is not None]
        if gaps:
            found[f"{name}: largest log_ppl_abs_diff"] = max(gaps)
    article = done.get("article", {})
    if len(article) == 2:
        theirs, mine = (article[name]["step_seconds"] for name in ("article's settings", "ours, n=5"))
        found["article: its step over ours"] = round(theirs / mine, 3)
    arms = done.get("arms", {})
    if "ours, n=5" in arms:
        base = arms["ours, n=5"]["step_seconds"]
        found |= {f"arms: {name} over n=5": round(arm["step_seconds"] / base, 3) for name, arm in arms.items()}
    for name, result in done.get("memory", {}).items():
        for phase in PREDICTED:
            seen, said = result["peak_gib"].get(phase), result.get("predicted_gib", {}).get(phase)
            if seen and said:
                found[f"memory: {name}, {phase}, predicted over measured"] = round(said / seen, 3)
    return found


def table(results: Mapping[str, Mapping[str, Result]]) -> Table:
    """Return the table of all cases."""
    drawn = Table(title="all responses at their limit but for tiny: a random model does not end", title_justify="left")
    for column in ("case", "s a step", "rollout", "log-prob", "update", "tokens/s/GPU", "MFU", "peak GiB", "predicted"):
        drawn.add_column(column, justify="left" if column == "case" else "right", overflow="fold")
    for item, cases in results.items():
        for name, result in cases.items():
            if "failed" in result:
                drawn.add_row(f"{item}: {name}", "failed", result["failed"], *["-"] * 6)
                continue
            spent, peak = result["phase_seconds"], result["peak_gib"]
            said = result.get("predicted_gib", {})
            drawn.add_row(
                f"{item}: {name}" + (f" ({result['cut']})" if "cut" in result else ""),
                f"{result['step_seconds']:.2f}",
                *(f"{spent[phase]:.2f}" if phase in spent else "-" for phase in PREDICTED),
                _short(result["tokens_per_second_and_gpu"], ".0f"),
                _short(result["mfu"], ".3f"),
                _short(max(peak.values(), default=result["allocated_gib"]), ".1f"),
                _short(max(said.values(), default=None), ".1f"),
            )
    return drawn


def _short(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)
