"""Compare each rule of the data, the tokenizer and the reward with veRL's own code, from files to scores.

Where veRL stops, or silently goes on with something else than what is in the file, preflight refuses before the start.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from transformers import AutoTokenizer

from experiments.config.verl import verl_node
from experiments.tiny_model import WEIGHTS
from tests.experiments.right_config import Config, problems_of, with_values, write_rows

Write = Callable[[Path], Any]
SAYS = [{"role": "user", "content": "numbers 1, 2 target 3"}]
TRUTH = {"style": "rule", "ground_truth": {"target": 3, "numbers": [1, 2]}}
REWARD = "reward.custom_reward_function.path"


@pytest.fixture(scope="module")
def base(resolved: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A config with sixteen prompts per batch and forty in the file."""
    file = str(rows(tmp_path_factory.mktemp("rows") / "rows.parquet"))
    return with_values(resolved("experiment=smoke"), {"data.train_files": file, "data.val_files": file})


def rows(file: Path, count: int = 40, **columns: list[Any]) -> Path:
    return write_rows(file, count, **{"prompt": [SAYS] * count, **columns})


def begin(config: Config) -> str:
    """Load, tokenize and score with veRL's own code; return what happened to the prompts. Raises what veRL raises."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopBase
    from verl.trainer.ppo.reward import load_reward_manager
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    tree = OmegaConf.create(verl_node(config))
    tokenizer = AutoTokenizer.from_pretrained(config["model"]["path"])
    trainer: Any = SimpleNamespace(config=tree, tokenizer=tokenizer, processor=None, trainer_mode="sync")
    trainer.parameter_sync_step, trainer.train_dataloader_it = 1, None
    PPOTrainer._init_dataloader(trainer)
    loaded = [PPOTrainer._fetch_one_gen_batch(trainer), next(iter(trainer.val_dataloader))]
    options: dict[str, Any] = {"chat_template_kwargs": {}, "mm_processor_kwargs": {}, "processor": None}
    builder = create_continuous_token_builder(tokenizer, hf_model_type="qwen2", **options)
    limit = SimpleNamespace(rollout_config=SimpleNamespace(prompt_length=config["data"]["max_prompt_length"]))
    became = "starts"
    for batch in loaded:
        for chat in batch["raw_prompt"]:
            ids = builder.build_initial_tokens(list(chat))
            text = "".join(message["content"] for message in chat) if ids else ""
            if not ids:
                became = "an empty prompt"
            elif tokenizer.decode(ids).split() != text.split():
                became = "other words"
            elif AgentLoopBase._cap_text_prompt_length(limit, ids) != ids:
                became = "a cut prompt"
    manager = load_reward_manager(tree, tokenizer)
    for batch in loaded:
        for index in range(len(batch["data_source"])):
            score(manager, {key: batch[key][index] for key in ("data_source", "reward_model", "extra_info")})
    return became


def score(manager: Any, row: dict[str, Any]) -> None:
    """Score one response of a row as veRL's reward loop does."""
    from verl import DataProto

    names = ("prompts", "responses", "attention_mask")
    tensors = TensorDict({name: torch.ones(1, 4, dtype=torch.long) for name in names}, batch_size=1)
    data = DataProto(batch=tensors, non_tensor_batch={key: as_array(value) for key, value in row.items()})
    result = manager.loop.run_until_complete(manager.run_single(data))
    manager.assemble_rm_scores(data, [result["reward_score"]])


def as_array(value: Any) -> Any:
    import numpy as np

    array = np.empty(1, dtype=object)
    array[0] = dict(value) if isinstance(value, dict) else value
    return array


def content(data: bytes) -> Write:
    return lambda file: file.write_bytes(data)


def prompts(*odd: Any) -> Write:
    return lambda file: rows(file, prompt=[SAYS] * (40 - len(odd)) + list(odd))


def truths(*odd: Any) -> Write:
    return lambda file: rows(file, reward_model=[TRUTH] * (40 - len(odd)) + list(odd))


DATA: dict[str, tuple[Write, str]] = {
    "whole": (rows, "starts"),
    "missing": (lambda file: None, "FileNotFoundError"),
    "no parquet": (content(b"not a parquet file at all"), "ArrowInvalid"),
    "nothing": (content(b""), "ArrowInvalid"),
    "a folder": (lambda file: file.mkdir(), "FileNotFoundError"),
    "cut off": (lambda file: file.write_bytes(rows(file).read_bytes()[:-20]), "ArrowInvalid"),
    "other columns": (lambda file: parquet.write_table(pa.table({"prompt": [SAYS] * 40}), file), "KeyError"),
    "no rows": (lambda file: parquet.write_table(parquet.read_table(rows(file)).slice(0, 0), file), "DatasetGen"),
    "less than a batch": (lambda file: rows(file, 15), "StopIteration"),
    "a batch": (lambda file: rows(file, 16), "starts"),
    "no chats": (prompts(*["numbers 1, 2 target 3"] * 40), "an empty prompt"),
    "no contents": (prompts(*[[{"role": "user", "text": "numbers"}]] * 40), "an empty prompt"),
    "no prompts": (prompts(*[None] * 40), "TypeError"),
    "a prompt of no messages": (prompts([]), "an empty prompt"),
    "a prompt that says nothing": (prompts([{"role": "user", "content": ""}]), "an empty prompt"),
    "a prompt too long": (prompts([{"role": "user", "content": "numbers" + " 1," * 40}]), "a cut prompt"),
    "words without a token": (prompts([{"role": "user", "content": "numbers 1, x 2"}]), "other words"),
    "truths as text": (truths(*['{"ground_truth": 3}'] * 40), "TypeError"),
    "no truths": (truths(*[{"style": "rule"}] * 40), "KeyError"),
    "a row without a truth": (truths(None), "TypeError"),
    "a truth of nothing": (truths({"style": "rule"}), "TypeError"),
}


@pytest.fixture(autouse=True)
def kept_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the cache of the library with which veRL reads parquet files in the test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def agree(config: Config, becomes: str) -> None:
    """Assert that veRL does what `becomes` says, and that preflight accepts the config only if veRL starts."""
    try:
        became = begin(config)
    except Exception as error:
        became = type(error).__name__
    assert became.startswith(becomes)
    assert (problems_of(config) == []) == (becomes == "starts")


@pytest.mark.parametrize("name", DATA)
def test_data_that_verl_can_t_train_on(base: Config, tmp_path: Path, name: str) -> None:
    """veRL loads, tokenizes and scores all validation data; the training data must fill a batch."""
    write, becomes = DATA[name]
    key = "train" if "batch" in name else "val"
    write(tmp_path / "odd.parquet")
    agree(with_values(base, {f"data.{key}_files": str(tmp_path / "odd.parquet")}), becomes)


@pytest.mark.parametrize(
    ("files", "becomes"),
    [({"val": []}, "ValueError"), ({"val": None}, "TypeError"), ({"train": []}, "ValueError")],
    ids=str,
)
def test_data_that_are_not_named(base: Config, files: dict[str, Any], becomes: str) -> None:
    agree(with_values(base, {f"data.{key}_files": value for key, value in files.items()}), becomes)


REWARDS = {
    "def compute_score(**row): return 0.5": "starts",
    "def compute_score(**row): return {'score': 0.5}": "starts",
    "def compute_score(**row: return 0.5": "RuntimeError",
    "def score(**row): return 0.5": "AttributeError",
    "def compute_score(response): return 0.5": "TypeError",
    "def compute_score(**row): return 1 / 0": "ZeroDivisionError",
    "def compute_score(**row): return 'good'": "ValueError",
    "def compute_score(**row): return {'reward': 0.5}": "KeyError",
    "import no_such_module": "RuntimeError",
}


@pytest.mark.parametrize("code", [*REWARDS, None])
def test_a_reward_that_verl_can_t_score_with(base: Config, tmp_path: Path, code: str | None) -> None:
    file = tmp_path / "reward.py"
    if code is not None:
        file.write_text(code)
    agree(with_values(base, {REWARD: str(file)}), REWARDS[code] if code else "FileNotFoundError")


def test_a_model_without_a_tokenizer(base: Config, tmp_path: Path) -> None:
    """veRL's worker starts with a tokenizer that knows no token, and stops at the first prompt."""
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    paths = dict.fromkeys(("model.path", "actor_rollout_ref.model.path"), str(folder))
    agree(with_values(base, paths), "ValueError")


def test_a_model_without_a_chat_template(base: Config, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    for file in folder.glob("*.jinja"):
        file.unlink()
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": None}))
    paths = dict.fromkeys(("model.path", "actor_rollout_ref.model.path"), str(folder))
    agree(with_values(base, paths), "ValueError")


def test_a_token_without_an_embedding(base: Config, tmp_path: Path) -> None:
    """A GPU would stop with a device-side assertion."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS)
    model.resize_token_embeddings(100)
    model.save_pretrained(folder)
    assert any(
        "that token has no embedding" in problem
        for problem in problems_of(with_values(base, {"model.path": str(folder)}))
    )
    with pytest.raises(IndexError):
        AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([[2, 120]]))
