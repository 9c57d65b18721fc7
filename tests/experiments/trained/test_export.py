"""An exported checkpoint is an ordinary Hugging Face folder, and computes what the trainer's weights compute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.runs.__main__ import main
from experiments.store.rundir import RunDir
from tests.experiments.trained.conftest import STEP, WEIGHTS, trained_weights


def command(run: RunDir, *arguments: str) -> int:
    return main(["--runs-dir", str(run.path.parent), *arguments])


def log_probs(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits.log_softmax(-1)


def test_an_export_loads_and_gives_the_trainer_s_log_probs(run: RunDir, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "model"
    assert command(run, "export", "kl=0.01", str(folder)) == 0
    expected = AutoModelForCausalLM.from_pretrained(WEIGHTS)
    missing = expected.load_state_dict(trained_weights(), strict=False).missing_keys
    assert missing == ["lm_head.weight"]  # tied
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    ids = torch.randint(128, (4, 32), generator=torch.Generator().manual_seed(1))
    assert (log_probs(model, ids) - log_probs(expected, ids)).abs().max() < 1e-6
    tokenizer, text = AutoTokenizer.from_pretrained(folder), "numbers 3, 7, 12 target 45 <think>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == json.loads((WEIGHTS / "generation_config.json").read_text())["eos_token_id"]
    assert "attn_implementation" not in json.loads((folder / "config.json").read_text())
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}
    assert list(folder.parent.iterdir()) == [folder], "nothing else is left"


def test_the_card_says_what_trained_it_and_names_no_path(run: RunDir, tmp_path: Path) -> None:
    assert command(run, "export", "kl=0.01", str(tmp_path / "model"), "--step", str(STEP)) == 0
    card = (tmp_path / "model/README.md").read_text()
    assert all(said in card for said in (run.path.name, "`grpo`", "0.438 sampled and 0.500 greedy", "`0.001`", "abc"))
    assert "numbers " in card and "target" in card
    assert str(tmp_path) not in card and str(WEIGHTS.parents[2]) not in card


def test_a_folder_that_is_not_empty_is_refused(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    assert command(run, "export", "kl=0.01", str(tmp_path / "mine")) == 2
    assert command(run, "export", "kl=0.01", str(tmp_path / "mine/thesis.txt")) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: DIR must be a new or empty folder, but {tmp_path / 'mine'} is not empty; name another one",
        f"error: DIR must be a new or empty folder, but {tmp_path / 'mine/thesis.txt'} is a file; name another one",
    ]
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_step_without_a_checkpoint_is_refused_with_those_that_there_are(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(run, "export", "kl=0.01", str(tmp_path / "model"), "--step", "7") == 2
    assert "still has, but is 7; there are: 20\n" in capsys.readouterr().err
    assert command(run, "evaluate", "kl=0.01", "--step", "7") == 2
    assert "there are: 20, or 0 for the base model\n" in capsys.readouterr().err
    assert command(run, "clean", "--yes", "kl=0.01") == 0
    assert command(run, "sample", "kl=0.01") == 2
    assert "has none: they were deleted by clean; give --step 0 for the base model, or " in capsys.readouterr().err


def test_a_torn_checkpoint_is_one_message_and_leaves_nothing(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actor = run.checkpoints / f"global_step_{STEP}" / "actor"
    (actor / "model_world_size_2_rank_1.pt").unlink()
    assert command(run, "export", "kl=0.01", str(tmp_path / "out/model")) == 2
    assert "model_world_size_2_rank_1.pt is missing" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
    (actor / "model_world_size_2_rank_1.pt").write_bytes((actor / "model_world_size_2_rank_0.pt").read_bytes()[:999])
    assert command(run, "export", "kl=0.01", str(tmp_path / "out/model")) == 2
    assert "model_world_size_2_rank_1.pt is torn" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
