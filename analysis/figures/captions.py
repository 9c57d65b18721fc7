"""What must be said under a figure so that it misleads nobody."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.design.ablations import Ablation
from analysis.figures.series import MOST_POINTS, View

MINIATURE_MODEL = "tiny"


def caption(ablation: Ablation, view: View | None = None, metrics: Sequence[str] = ()) -> list[str]:
    """Return the sentences of the figure's footer, the most important first; `metrics` are panels asked for by name."""
    notes = [*unfinished(ablation), *warnings(ablation, metrics), *shown(ablation, view or View())]
    return [*notes, *miniature(ablation)]


def unfinished(ablation: Ablation) -> list[str]:
    """Return e.g. ["✕ temperature=1.2 seed 0: killed at step 31 of 60"], one for each run that lacks steps or rows.

    The cross is the mark at which the curves of a run that is not complete end.
    """
    return [
        f"{'✕ ' if run.history.rows and not run.complete else ''}{arm.run_label(run)}: {run.progress()}"
        f"{', too short for the mean' if run.history.rows and run not in arm.averaged else ''}"
        for arm in ablation.arms
        for run in arm.runs
        if not run.complete or run.missing()
    ]


def shown(ablation: Ablation, view: View) -> list[str]:
    """Return what bands, smoothing and axis mean, where they are used."""
    sentences = []
    if any(len(arm.averaged) > 1 for arm in ablation.arms):
        sentences.append("Bands: 95% interval of the mean over seeds (Student's t).")
        sentences += fewer_seeds(ablation)
    longest = max((len(run.history.trained_steps()) for run in ablation.runs), default=0)
    if longest > MOST_POINTS:
        sentences.append(f"Training curves are drawn as means of up to {math.ceil(longest / MOST_POINTS)} steps.")
    if view.smoothing:
        sentences.append(
            f"Training curves are smoothed ({view.smoothing}), with the recorded ones pale behind. "
            "Validation is not smoothed."
        )
    if view.axis.name == "gpu_hours" and {run.config.get("trainer.device") for run in ablation.runs} & {"cpu"}:
        sentences.append("Hours are of CPU processes here, one for each GPU of the experiment at scale.")
    if view.axis.cost and not all(view.axis.places(run) for run in ablation.runs):
        sentences.append(f"Runs whose {view.axis.label} were not recorded are not drawn.")
    return sentences


def fewer_seeds(ablation: Ablation) -> list[str]:
    """Return from which step on an arm's mean is of fewer seeds, e.g. because a run was killed."""
    parts = []
    for arm in ablation.arms:
        ends = sorted(run.end for run in arm.averaged)
        if len(ends) > 1 and ends[0] < ends[-1]:
            left = sum(end > ends[0] for end in ends)
            parts.append(f"{arm.label} beyond step {ends[0]}: {left} of {len(ends)}")
    return [f"Means of fewer seeds: {'; '.join(parts)}."] if parts else []


def warnings(ablation: Ablation, metrics: Sequence[str] = ()) -> list[str]:
    """Return the reasons why the curves must not simply be compared."""
    sentences = []
    if any(factor.key == "rollout.temperature" or factor.key.startswith("temperature.") for factor in ablation.factors):
        sentences.append(
            "Training panels are sampled at each arm's own temperature; only validation compares like with like."
        )
        if any("entropy" in metric or "kl" in metric for metric in metrics):
            sentences.append(
                "veRL divides logits by the temperature: entropy and KL at different temperatures are not on one scale."
            )
    if ablation.companions:
        first = ", ".join(ablation.companions[:4])
        more = f" and {len(ablation.companions) - 4} more" if len(ablation.companions) > 4 else ""
        sentences.append(f"The runs also differ in {first}{more}.")
    seedless = sum(run.seed is None for run in ablation.runs)
    if seedless > 1:
        sentences.append(f"{seedless} runs have no seed in their config: each counts as a repeat of its own.")
    if len(ablation.arms) > 1 and all(len(arm.runs) == 1 for arm in ablation.arms):
        sentences.append("One seed per arm: differences of this size can be chance.")
    return sentences


def miniature(ablation: Ablation) -> list[str]:
    """Return a sentence that says that the runs are a miniature; [] for an experiment at scale."""
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
