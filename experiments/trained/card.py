"""The card of an exported model: README.md, which says what trained it. Light."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.algorithm_names import algorithm_of
from experiments.models import hub
from experiments.store.files import read_jsonl
from experiments.store.metrics import accuracy, greedy_accuracy
from experiments.store.rundir import RunDir
from experiments.values import at, flatten

SETTINGS = {
    "sampling temperature": "actor_rollout_ref.rollout.temperature",
    "responses to a prompt": "actor_rollout_ref.rollout.n",
    "prompts a step": "data.train_batch_size",
    "learning rate": "actor_rollout_ref.actor.optim.lr",
    "KL term": "kl.coef",
    "seed": "seed",
}

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
{base_model}tags: [reinforcement-learning, verl]
---

# {base}, trained on {task}: step {step}

`{base}` after {step} steps of reinforcement learning on the task `{task}`, trained with veRL {verl}.

| | |
|---|---|
{table}

{scores}

## Use it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")   # the weights are in {dtype}, as they were trained
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
```

It was trained on prompts of this form (one message of the user, through the tokenizer's chat template), and may answer
others badly:

```text
{prompt}
```

The license is that of the base model.
"""


def card(run: RunDir, step: int, dtype: str, prompt: str) -> str:
    """Return the card's text. Every number in it is taken from the run's records; no path of this machine is in it."""
    config = run.load_config()
    base = _base(config)
    rows = [("run", f"`{run.path.name}`"), ("base model", f"`{base}`")]
    rows += [("algorithm", f"`{algorithm_of(dict(flatten(config)))}`")]
    rows += [(label, f"`{value}`") for label, key in SETTINGS.items() if (value := at(config, key)) is not None]
    code = _code(run)
    if code.get("commit"):
        rows.append(("code", f"commit `{code['commit']}`{' and uncommitted changes' if code.get('diff') else ''}"))
    return _CARD.format(
        base_model=f"base_model: {base.partition('@')[0]}\n" if "/" in base else "",
        step=step,
        base=base,
        task=at(config, "task.name") or "unknown",
        verl=at(code, "versions.verl") or "0.9.1",
        table="\n".join(f"| {label} | {value} |" for label, value in rows),
        scores=_scores(run, step),
        dtype=dtype,
        prompt=prompt.replace("```", "'''"),
    )


def _base(config: Mapping[str, Any]) -> str:
    """Return the base model's name on the hub, with its revision if that is known; of a local one, model.name."""
    path = str(at(config, "model.path") or "")
    if path and not Path(path).exists() and path.count("/") == 1:
        return path
    return hub.name_and_revision(Path(path)) or str(at(config, "model.name") or "the base model")


def _scores(run: RunDir, step: int) -> str:
    """Return what the run's own validation said of this step, in a sentence."""
    rows = [row for attempt in run.attempts() for row in read_jsonl(attempt.metrics)[0] if row.get("step") == step]
    data: dict[str, Any] = {}
    for row in rows:
        data |= row["data"] if isinstance(row.get("data"), Mapping) else {}
    sampled, greedy = accuracy(data), greedy_accuracy(data)
    said = [f"{value:.3f} {how}" for value, how in ((sampled, "sampled"), (greedy, "greedy")) if value is not None]
    if not said:
        return "The run was not validated at this step."
    return f"The run's validation at this step: accuracy {' and '.join(said)}."


def _code(run: RunDir) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        code = json.loads((run.path / "code.json").read_bytes())
        return code if isinstance(code, dict) else {}
    return {}
