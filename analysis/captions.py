"""What must be said under a figure so that it does not mislead."""

from __future__ import annotations

from analysis.ablations import Ablation

MINIATURE_MODEL = "tiny"


def caption(ablation: Ablation) -> list[str]:
    """Return the sentences of the figure's footer, the most important first."""
    return [*unfinished(ablation), *warnings(ablation), *miniature(ablation)]


def unfinished(ablation: Ablation) -> list[str]:
    """Return e.g. ["✕ temperature=1.2 seed 0: killed at step 31 of 60"], one for each run that is not complete.

    The cross is the mark at which its curves end.
    """
    return [
        f"{'✕ ' if run.history.rows else ''}{arm.run_label(run)}: {run.progress()}"
        for arm in ablation.arms
        for run in arm.runs
        if not run.complete
    ]


def warnings(ablation: Ablation) -> list[str]:
    """Return the reasons for which the curves must not simply be compared."""
    sentences = []
    keys = {factor.key for factor in ablation.factors}
    if "rollout.temperature" in keys:
        sentences.append(
            "Training panels are sampled at each arm's own temperature; only validation compares like with like."
        )
    if ablation.companions:
        shown = ", ".join(ablation.companions[:4])
        more = f" and {len(ablation.companions) - 4} more" if len(ablation.companions) > 4 else ""
        sentences.append(f"The runs also differ in {shown}{more}.")
    if len(ablation.arms) > 1 and all(len(arm.runs) == 1 for arm in ablation.arms):
        sentences.append("One seed per arm: differences of this size can be chance.")
    return sentences


def miniature(ablation: Ablation) -> list[str]:
    """Return the sentence that keeps a miniature from being taken for the experiment at scale; [] for a real one."""
    models = {run.config.get("model.name") for run in ablation.runs}
    hardware = {run.config.get("hardware.name") for run in ablation.runs}
    parts = []
    if MINIATURE_MODEL in models:
        parts.append("0.3M-parameter model")
    elif hardware == {"cpu"}:
        parts.append(" and ".join(sorted(str(model) for model in models)))
    if parts and "cpu" in hardware:
        parts.append("on a CPU")
    return [f"miniature: {' '.join(parts)}"] if parts else []
