"""The numbers behind a figure: a table of the arms, a table of the runs, and the curves as CSV."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm, seeds_text
from analysis.figures.series import View, arm_series
from analysis.pages.formats import MISSING, Rows, markdown_table, markdown_text, terminal_table
from analysis.records.curves import Curves, seconds_per_step
from analysis.records.history import Curve
from analysis.records.record import RunRecord
from analysis.statistics.arm_fits import Fits
from analysis.statistics.claims import Verdict
from analysis.statistics.estimand import Estimand
from analysis.statistics.summary import Summary
from experiments.values import as_float

if TYPE_CHECKING:
    from rich.table import Table


def arm_columns(ablation: Ablation, curves: Mapping[str, Curves]) -> list[str]:
    """Return the headers of the table of arms."""
    name = ", ".join(factor.short for factor in ablation.factors) or "run"
    score = "accuracy" if all(curves[run.name].scores_accuracy for run in ablation.runs) else "reward"
    return [
        name,
        "steps",
        f"{score}\nsampled",
        f"{score}\ngreedy",
        "train\nreward",
        "length",
        "format",
        "s/step",
    ]


def arm_rows(ablation: Ablation, curves: Mapping[str, Curves], estimand: Estimand) -> Rows:
    """Return one row for each arm. If it has several seeds, a number is the mean of the seeds' numbers.

    Validation: first→last, and the best; length: first→lowest→last; reward and format: the last;
    seconds a step: the median. They are of the runs and steps that count; of an arm without such a run, of all it has.
    """
    rows = []
    for arm in ablation.arms:
        names = {run.name for run in estimand.counted.get(arm.label, ())}
        counted = [run for run in arm.runs if run.name in names]
        until = estimand.until if counted and not estimand.cost else None
        runs = counted or arm.averaged

        def cut(name: str, runs: Sequence[RunRecord] = runs, until: int | None = until) -> list[Curve]:
            return [[p for p in curves[run.name][name] if until is None or p[0] <= until] for run in runs]

        rows.append(
            [
                f"{_first_cell(ablation, arm)}\n{seeds_text(arm)}",
                f"{steps_text(arm.runs)}\n{state_text(arm.runs)}",
                validation_text(cut("sampled")),
                validation_text(cut("greedy")),
                number(cut("reward"), last),
                length_text(cut("length")),
                number(cut("format"), last),
                seconds_text(runs),
            ]
        )
    return rows


def _first_cell(ablation: Ablation, arm: Arm) -> str:
    """Return the arm's level, if the column's head is the factor and the level a number; else the arm's name."""
    is_number = len(ablation.factors) == 1 and as_float(arm.levels[0]) is not None
    return arm.label.partition("=")[2] if is_number else arm.name


def run_rows(ablation: Ablation, curves: Mapping[str, Curves]) -> Rows:
    """Return one row for each run: name, arm, seed, state, attempts, steps redone and missing, last validations."""
    rows = []
    for arm in ablation.arms:
        for run in arm.runs:
            missing = sum(end - start + 1 for start, end in run.history.gaps())
            curve = curves[run.name]
            row = [run.name, arm.name, str(run.seed), run.progress(), str(run.attempts), str(run.history.redone)]
            row += [str(missing), number([curve["sampled"]], last), number([curve["greedy"]], last)]
            rows.append(row)
    return rows


def summary_table(summary: Summary) -> str:
    """Return the Markdown table of the arms' summaries, and a line that says what its numbers are."""
    head, *rows = summary.rows()
    return f"{markdown_table(head, rows)}\n{summary.note()}\n"


FITTED = (
    "The fit is R - R0 = (A - R0) / (1 + (C_mid / C)^B) of validation accuracy R against compute C; 95% intervals over "
    "seeds. docs/analysis.md says how it is made."
)


def fit_table(fits: Fits) -> str:
    """Return the Markdown table of the arms' fits, and a line that says what is fitted."""
    head, *rows = fits.rows()
    return f"{markdown_table(head, rows)}\n{FITTED}\n"


def claim_rows(verdicts: Sequence[Verdict]) -> Rows:
    """Return one row for each claim: the article's sentence, the verdicts, and the reason for them."""
    return [[verdict.claim.text, verdict.verdict, verdict.corrected, verdict.reason] for verdict in verdicts]


CLAIM_COLUMNS = ["claim", "verdict by itself", "after Holm's correction", "effect with 95% interval"]


def family_text(tested: int) -> str:
    """Return what the corrected verdicts are corrected for; "" if no claim was tested."""
    if not tested:
        return ""
    return (
        f"A verdict by itself is wrong in at most 5% of cases. After Holm's correction, the chance that any of the "
        f"{tested} claims tested here gets a wrong verdict is at most 5%."
    )


RUN_COLUMNS = ["run", "arm", "seed", "state", "attempts", "steps redone", "steps missing", "sampled", "greedy"]


def last(curve: Curve) -> float:
    return curve[-1][1]


def number(curves: Sequence[Curve], pick: Callable[[Curve], float], digits: int = 2) -> str:
    """Return the mean over seeds of what `pick` takes from each curve, as text."""
    values = [pick(curve) for curve in curves if curve]
    return f"{statistics.fmean(values):.{digits}f}" if values else MISSING


def validation_text(curves: Sequence[Curve]) -> str:
    """Return e.g. "0.11→0.43" and "best 0.45"."""
    if not any(curves):
        return MISSING
    first = number(curves, lambda curve: curve[0][1])
    best = number(curves, lambda curve: max(value for _, value in curve))
    return f"{first}→{number(curves, last)}\nbest {best}"


def length_text(curves: Sequence[Curve]) -> str:
    """Return e.g. "46→40" and "→53": first, lowest, last."""
    if not any(curves):
        return MISSING
    first = number(curves, lambda curve: curve[0][1], 0)
    lowest = number(curves, lambda curve: min(value for _, value in curve), 0)
    return f"{first}→{lowest}\n→{number(curves, last, 0)}"


def steps_text(runs: Sequence[RunRecord]) -> str:
    """Return e.g. "60/60", or "31-60/60" if the seeds got to different steps."""
    reached = sorted({run.history.last_step() for run in runs})
    planned = sorted({run.planned_steps for run in runs if run.planned_steps})
    text = str(reached[0]) if len(reached) == 1 else f"{reached[0]}-{reached[-1]}"
    return f"{text}/{planned[-1]}" if planned else text


def state_text(runs: Sequence[RunRecord]) -> str:
    """Return e.g. "finished", or "2 finished" and "1 killed"."""
    states = Counter(run.state for run in runs)
    return runs[0].state if len(states) == 1 else "\n".join(f"{count} {state}" for state, count in states.items())


def seconds_text(runs: Sequence[RunRecord]) -> str:
    """Return the mean over the runs of their median seconds a step."""
    seconds = [value for run in runs if (value := seconds_per_step(run)) is not None]
    return f"{statistics.fmean(seconds):.3g}" if seconds else MISSING


def terminal_tables(ablation: Ablation, curves: Mapping[str, Curves], summary: Summary, width: int) -> list[Table]:
    """Return two tables for the terminal: how far the arms are, and the numbers that a paper would print.

    `width`: of the terminal, in columns. A table that is wider is cut into several.
    """
    title = f"{ablation.title} ({ablation.settings()})"
    head, *rows = summary.rows()
    return [
        *terminal_table(title, arm_columns(ablation, curves), arm_rows(ablation, curves, summary.estimand), width),
        *terminal_table(summary.note(), head, rows, width),
    ]


def markdown(
    ablation: Ablation,
    curves: Mapping[str, Curves],
    notes: Sequence[str],
    summary: Summary,
    verdicts: Sequence[Verdict] = (),
    tested: int = 0,
    fits: Fits | None = None,
) -> str:
    """Return the Markdown page of an ablation: arms, notes, numbers, claims, runs, and what was left out and why.

    `tested`: how many claims were tested together, on this page and on others.
    """
    parts = [
        f"# {markdown_text(ablation.title)}\n\n{markdown_text(ablation.settings())}\n",
        f"![{markdown_text(ablation.title)}]({ablation.name}.svg)\n",
        markdown_table(arm_columns(ablation, curves), arm_rows(ablation, curves, summary.estimand)),
        "Validation: first→last; length: first→lowest→last; reward, format: last; s/step: median. "
        "With several seeds: the mean over seeds.\n",
        *(f"- {markdown_text(note)}" for note in notes),
        "\n## Numbers\n",
        summary_table(summary),
        *(["\n## Claims\n", markdown_table(CLAIM_COLUMNS, claim_rows(verdicts))] if verdicts else []),
        *([f"{family_text(tested)}\n"] if verdicts and tested else []),
        *(["\n## Where it would end\n", fit_table(fits)] if fits and fits.is_asked else []),
        "\n## Runs\n",
        markdown_table(RUN_COLUMNS, run_rows(ablation, curves)),
    ]
    if left_out := ablation.why_left_out():
        rows = [[run.name, reason] for run, reason in left_out]
        parts += ["\n## Left out\n", markdown_table(["run", "what and why"], rows)]
    return "\n".join(parts)


def curves_csv(ablation: Ablation, curves: Mapping[str, Curves], view: View | None = None) -> str:
    """Return what the figure draws, one line of text for each point.

    `x` is the place along the figure's axis, `value` is as recorded, and `smoothed` is as shown where curves are
    smoothed. A point of the mean over seeds has "mean" as its seed and names no run; `low` and `high` are its 95%
    interval, and it is of `n` runs. The mean is that of the lines as they are shown.
    """
    view = view or View()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "seed", "run", "curve", "metric", "step", "x", "value", "smoothed", "low", "high", "n"])
    names = list(dict.fromkeys(name for run in ablation.runs for name in curves[run.name].by_name))
    for arm in ablation.arms:
        for name in names:
            series = arm_series(arm, name, curves, view)
            metric = ""
            for run, raw, shown in series.seeds:
                metric = curves[run.name].metrics[name]
                start = [arm.label, run.seed, run.name, name, metric]
                smoothed = map(repr, shown.ys) if view.smooths(name) else [""] * len(raw.ys)
                points = zip(raw.steps, raw.xs, raw.ys, smoothed, strict=True)
                writer.writerows([*start, step, f"{x:.10g}", repr(y), s, "", "", ""] for step, x, y, s in points)
            mean = series.mean
            for number, (step, x, y) in enumerate(zip(mean.steps, mean.xs, mean.ys, strict=True)):
                bounds = [repr(b) if math.isfinite(b) else "" for b in (series.low[number], series.high[number])]
                row = [arm.label, "mean", "", name, metric, step, f"{x:.10g}", repr(y), "", *bounds]
                writer.writerow([*row, series.count[number]])
    return text.getvalue()
