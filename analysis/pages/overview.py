"""The page of all ablations: their figure, every claim with its verdict, and what a run of each arm cost."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.pages.formats import MISSING, Rows, markdown_table
from analysis.pages.study import Finding, Study
from analysis.pages.tables import CLAIM_COLUMNS, claim_rows, family_text
from analysis.records.axes import AXES
from analysis.statistics.intervals import mean

COST_COLUMNS = ["ablation", "arm", "runs", "steps", "tokens a run", "hours a run"]


def claim_numbers(findings: Sequence[Finding]) -> list[list[object]]:
    """Return what each claim rests on, for programs: a row for each of its comparisons, or the reason for none.

    The verdicts and p are the claim's, the effect and its interval the comparison's. What nobody can tell is empty.
    """
    head = ["ablation", "claim", "text", "verdict", "corrected", "p", "comparison", "effect", "low", "high", "seeds"]
    rows: list[list[object]] = [[*head, "reason"]]
    for finding in findings:
        for verdict in finding.verdicts:
            claim = verdict.claim
            start = [finding.ablation.title, claim.name, claim.text, verdict.verdict, verdict.corrected]
            start.append("" if verdict.p is None else repr(verdict.p))
            for comparison in verdict.comparisons:
                effect, interval = comparison.effect(), comparison.interval()
                bounds = [repr(interval.low), repr(interval.high)] if interval else ["", ""]
                seeds = min(map(len, comparison.samples))
                rows.append([*start, comparison.text, "" if effect is None else repr(effect), *bounds, seeds, ""])
            if not verdict.comparisons:
                rows.append([*start, "", "", "", "", "", verdict.reason])
    return rows


def cost_rows(findings: Sequence[Finding]) -> Rows:
    """Return a row for each arm: what its complete runs cost on average; validation and start-up do not count."""
    rows = []
    for finding in findings:
        for arm in finding.ablation.arms:
            costs = []
            for axis in (AXES["tokens"], AXES["hours"]):
                spent = [total for run in arm.complete if (total := max(axis.places(run).values(), default=0.0))]
                costs.append(f"{mean(spent):.3g}" if spent else MISSING)
            ends = sorted({run.end for run in arm.complete})
            steps = "-".join(str(end) for end in dict.fromkeys((ends[0], ends[-1]))) if ends else MISSING
            complete = f"{len(arm.complete)} of {len(arm.runs)}"
            rows.append([finding.ablation.title, arm.name, complete, steps, *costs])
    return rows


def overview_page(study: Study, stem: str) -> str:
    """Return the page as Markdown; `stem`: how the names of its figure's files begin."""
    parts = ["# The ablations\n", f"![response length and validation score of each ablation]({stem}.svg)\n"]
    notes = dict.fromkeys(note for finding in study.findings for note in finding.notes)
    parts += [f"- {note}" for note in notes]
    claims = [[finding.ablation.title, *row] for finding in study.findings for row in claim_rows(finding.verdicts)]
    if claims:
        parts += ["\n## Claims\n", markdown_table(["ablation", *CLAIM_COLUMNS], claims)]
    if family := family_text(study.tested()):
        parts.append(f"{family}\n")
    parts += ["\n## What it cost\n", markdown_table(COST_COLUMNS, cost_rows(study.findings))]
    return "\n".join(parts)
