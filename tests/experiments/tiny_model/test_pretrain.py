"""Test that pre-training is deterministic, learns, and weighs the tokens as its recipe says."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.tiny_model import card, evaluation, pretrain, tokenizer, traces

SHORT = replace(pretrain.RECIPE, steps=24, batch=8, micro_batches=2, warmup=3)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(seed: int, recipe: pretrain.Recipe) -> tuple[dict[str, torch.Tensor], list[float]]:
    losses: list[float] = []
    model = pretrain.build(seed)
    pretrain.train(model, seed, recipe, progress=lambda step, loss: losses.append(loss))
    return model.state_dict(), losses


def test_training_reduces_the_loss_and_repeats_itself():
    weights, losses = trained(3, SHORT)
    assert len(losses) == 24
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    again, same_losses = trained(3, SHORT)
    assert same_losses == losses
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    _, other = trained(4, replace(SHORT, steps=1))
    assert other[0] != losses[0]


def test_an_untrained_model_knows_nothing():
    _, losses = trained(0, replace(SHORT, steps=1, judgement_weight=1.0))
    assert losses[0] == pytest.approx(math.log(tokenizer.VOCAB_SIZE), abs=0.05)


def test_micro_batches_change_nothing_but_rounding():
    one, _ = trained(5, replace(SHORT, steps=1, micro_batches=1, adamw_lr=0.0, muon_lr=0.0))
    _, losses = trained(5, replace(SHORT, steps=1, micro_batches=1))
    _, cut = trained(5, replace(SHORT, steps=1, micro_batches=4))
    assert cut[0] == pytest.approx(losses[0], rel=1e-5)
    start = pretrain.build(5).state_dict()
    assert all(torch.equal(one[name], start[name]) for name in start)


def test_the_loss_is_that_of_the_response_with_judgements_weighted():
    model = pretrain.build(1)
    encode = tokenizer.build()
    prompt = encode.encode("numbers 3, 7, 12 target 45 <think>")
    response = encode.encode(" 3 + 7 = 10, 10 + 12 = 22 not it,")
    other = encode.encode(" hmm")
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        expected = 0.0
        for place, token in enumerate(response, start=len(prompt)):
            weight = 5.0 if place - len(prompt) in (4, 10, 11) else 1.0  # 10, 22, not it
            expected -= weight * float(log_probs[place - 1, token])
        alone = float(pretrain._weighted_loss(model, [(prompt, response)], 5.0))
        short = float(pretrain._weighted_loss(model, [(prompt, other)], 5.0))
        padded = float(pretrain._weighted_loss(model, [(prompt, other), (prompt, response)], 5.0))
    assert alone == pytest.approx(expected, rel=1e-5)
    assert padded == pytest.approx(alone + short, rel=1e-5)


def test_batches_hold_no_held_out_problem():
    encode = tokenizer.build()
    recipe = replace(pretrain.RECIPE, steps=20)
    prompts = {encode.decode(prompt) for batch in pretrain.batches(0, recipe, traces.MIXTURE) for prompt, _ in batch}
    assert len(prompts) > 1000
    for prompt in prompts:
        a, b, c, target = (int(word.strip(",")) for word in prompt.split() if word[0].isdigit())
        assert not traces.held_out((a, b, c), target)


def small_folder(folder: Path, seed: int) -> None:
    model = pretrain.build(seed)
    scores = [evaluation.evaluate(model, traces.held_out_problems()[:4], 1.0, 8)]
    card.write_folder(folder, model, scores, {"seed": seed, "recipe": SHORT, "mixture": traces.MIXTURE})


def test_a_folder_is_replaced_whole(tmp_path: Path):
    folder = tmp_path / "model"
    small_folder(folder, 0)
    first = (folder / "model.safetensors").read_bytes()
    (folder / "old.bin").write_text("of an older model")
    small_folder(folder, 1)
    assert not (folder / "old.bin").exists()
    assert (folder / "model.safetensors").read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_write_leaves_the_old_folder(tmp_path: Path):
    folder = tmp_path / "model"
    small_folder(folder, 0)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(KeyError):
        card.write_folder(folder, pretrain.build(1), [], {"seed": 1})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_other_files_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert pretrain.main(["--out", str(tmp_path)]) == 2
    assert "--out must be a new or empty folder or a model's" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_negative_seed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert pretrain.main(["--seed", "-1", "--out", str(tmp_path / "model")]) == 2
    assert "--seed must be 0 or more, but is -1" in capsys.readouterr().err


def test_sampling_repeats_itself_and_leaves_torchs_random_state_alone():
    model = pretrain.build(0)
    problems = traces.held_out_problems()[:8]
    state = torch.get_rng_state()
    first = evaluation.respond(model, problems, 1.0, 12, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert evaluation.respond(model, problems, 1.0, 12, seed=1) == first
    assert evaluation.respond(model, problems, 1.0, 12, seed=2) != first
    assert all(0 < len(row) <= 12 for row in first)
    # An untrained model is nearly uniform. So 96 draws give many different tokens, unless sampling is cut to the top.
    assert len({token for row in first for token in row}) > 40


def test_greedy_decoding_takes_the_likeliest_token():
    model = pretrain.build(0)
    problem = traces.held_out_problems()[0]
    row = evaluation.respond(model, [problem], 0.0, 5)[0]
    ids = tokenizer.build().encode(evaluation.prompt_of(problem))
    for token in row:
        assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)
