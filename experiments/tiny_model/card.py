"""Write the model's Hugging Face folder: weights, tokenizer, `metrics.json`, and the card made from `metrics.json`."""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from experiments.errors import UserError
from experiments.tiny_model import tokenizer, traces
from experiments.tiny_model.evaluation import Scores

METRICS = "metrics.json"
CARD = "README.md"

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [countdown, reinforcement-learning, miniature]
---

# The tiny base model

A Qwen2-architecture model of {parameters:,} parameters (3 layers, width 96, 4 heads over 2 key-value heads, tied
embeddings) that writes searches for a countdown equation, badly. It is what reinforcement learning starts from in the
laptop miniature of the R1-Zero experiments.

**It is no language model.** It knows {tokens} tokens: the numbers 0 to 99, operators, tags and a few stock phrases. The
tokenizer silently drops any other text (`tokenizer.check_text` refuses it). It can do nothing but this one task.

## Prompt and response

The prompt is a compact form of the full-scale template, in the same tags; the chat template passes it through. A
response goes on from there, and ends in `<|im_end|>`:

```text
numbers 3, 7, 12 target 63 <think>
 3 + 7 = 10, 10 + 12 = 22 not it, let's try 12 - 3 = 9, 9 * 7 = 63 this works </think> <answer> ( 12 - 3 ) * 7 </answer>
```

Problems: 3 numbers from 1 to 20, a target from 10 to 99, every intermediate result an integer from 0 to 99. There are
{problems:,} that differ in more than the order of the numbers.

## How it was made

From nothing but `experiments/tiny_model/traces.py`: {traces:,} imperfect searches, each written by a program, for
problems drawn from the {training:,} that are not held out. The writers ramble, give up early, forget the tags, never
close the answer or overlook a hit; the shares and the training recipe are in `metrics.json`. So the format and the
habit of searching on are there for reinforcement learning to find. We put them there; they do not emerge.

    python -m experiments.tiny_model.pretrain --seed {seed} --out experiments/tiny_model/weights

takes 3 to 6 minutes on one core. The weights shipped here came from exactly this command; on
another machine, or with another torch than {torch}, rounding gives slightly different ones. Eight mixtures and recipes
were tried, two of them cut short, and this one was chosen by the table below and by how well GRPO improved the
result, both on the held-out problems. So the table is no unbiased estimate.

## What it can do

One response to each of {held_out} distinct held-out problems, none of them seen in pre-training in any order of its
numbers. "limit" is the most tokens of a response, "trials" the expressions tried in one response; accuracy and format
are those of `experiments/tasks/countdown/reward.py`.

{table}

The standard error of a share from {held_out} answers is up to 0.02.
"""


def check_target(folder: Path) -> None:
    """Return nothing if `folder` may be written.

    Raises:
        UserError: `folder` holds something other than a model, which would be lost.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / "config.json").exists() or not any(folder.iterdir()))):
        raise UserError(f"--out must be a new or empty folder or a model's, but is {folder}; name another one")


def write_folder(folder: Path, model: PreTrainedModel, scores: list[Scores], made_by: dict[str, Any]) -> None:
    """Write the whole folder at once; it replaces a model folder of that name.

    made_by: seed (int), recipe and mixture (dataclasses).
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        model.save_pretrained(new)
        tokenizer.build().save_pretrained(new)
        for file in new.iterdir():
            file.chmod(0o644)
        metrics = {
            "parameters": model.num_parameters(),
            "seed": made_by["seed"],
            "recipe": asdict(made_by["recipe"]),
            "mixture": asdict(made_by["mixture"]),
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "held_out": [asdict(row) for row in scores],
            "sha256": {file.name: sha256(file) for file in sorted(new.iterdir())},
        }
        (new / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        (new / CARD).write_text(card(metrics), encoding="utf-8")
        new.chmod(0o755)
        _replace(folder, new)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def card(metrics: dict[str, Any]) -> str:
    """Return the text of the card; every measured number in it is taken from `metrics`."""
    columns = ("decoding", "limit", "accuracy", "format", "length", "trials", "true equations")
    header = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
    rows = [
        f"| {_decoding(row['temperature'])} | {row['limit']} "
        f"| {row['accuracy']:.3f} | {row['format']:.3f} | {row['length']:.1f} | {row['trials']:.2f} "
        f"| {row['equations_right']:.3f} |"
        for row in metrics["held_out"]
    ]
    return _CARD.format(
        parameters=metrics["parameters"],
        tokens=len(tokenizer.TOKENS),
        problems=len(traces.problems()),
        training=len(traces.training_problems()),
        held_out=metrics["held_out"][0]["problems"],
        traces=metrics["recipe"]["steps"] * metrics["recipe"]["batch"],
        seed=metrics["seed"],
        torch=metrics["versions"]["torch"],
        table="\n".join([header, *rows]),
    )


def _decoding(temperature: float) -> str:
    return f"T = {temperature:.1f}" if temperature else "greedy"


def sha256(file: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _replace(folder: Path, new: Path) -> None:
    """Put `new` in the place of `folder`: two renames, since a folder that holds files cannot be replaced in one."""
    if not folder.exists():
        os.replace(new, folder)
        return
    old = new.with_name(f"{new.name}.old")
    os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old)
