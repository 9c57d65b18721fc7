"""The same training by TRL's GRPOTrainer, transformers generating. `python -m benchmarks.trl_grpo FOLDER STEPS`

Settings are TRL's fastest for this size: the whole batch at once, no gradient checkpointing, no bf16, nothing saved.
veRL 0.9.1 fails where TRL 1.16 can be imported: keep TRL in a folder of its own (see benchmarks/step.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.setting import KL, LR, PROMPTS, RESPONSE_LENGTH, SEED, TEMPERATURE, N, digit_share


def reward(completions: list[str], **kwargs: Any) -> list[float]:
    """Return the reward of each response, in the form that TRL asks for."""
    return [digit_share(text) for text in completions]


class Rows(TrainerCallback):
    """Writes a row as soon as a step's metrics are there."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "w", buffering=1)  # noqa: SIM115  as long as the process

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "reward" in logs:
            data = {
                "reward": float(logs["reward"]),
                "loss": float(logs["loss"]),
                "length": logs["completions/mean_length"],
            }
            self.file.write(json.dumps({"step": state.global_step, "data": data}) + "\n")


def main() -> None:
    """Train, and write one row per step to trl.jsonl."""
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    trainer = GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
            max_steps=steps,
            per_device_train_batch_size=PROMPTS * N,
            gradient_accumulation_steps=1,
            num_generations=N,
            max_completion_length=RESPONSE_LENGTH,
            temperature=TEMPERATURE,
            beta=KL,
            learning_rate=LR,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            loss_type="dapo",  # the mean over all tokens, as veRL's default
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            shuffle_dataset=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        ),
        train_dataset=Dataset.from_dict({"prompt": json.loads((folder / "prompts.json").read_text())}),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Rows(folder / "trl.jsonl")],
    )
    trainer.train()


if __name__ == "__main__":
    main()
