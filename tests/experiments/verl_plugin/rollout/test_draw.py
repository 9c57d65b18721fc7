"""Test experiments/verl_plugin/rollout/draw.py: the distribution of the drawn tokens, and the noise behind them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.verl_plugin.rollout.draw import Draw, NoiseStream, draw_tokens, truncate
from tests.experiments.verl_plugin.random_models import make_draw

LOGITS = [2.0, -1.0, 0.5, 1.5, -3.0, 0.0, 1.0, -0.5]
ROWS = 40_000


def reference(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """Return the probabilities to draw with, from their textbook definition."""
    weights = [np.exp(value / temperature) for value in logits]
    order = sorted(range(len(logits)), key=lambda token: -weights[token])
    kept = order[:top_k] if top_k > 0 else order
    mass, total, nucleus = 0.0, sum(weights[token] for token in kept), []
    for token in kept:
        if mass >= top_p and nucleus:
            break
        nucleus.append(token)
        mass += weights[token] / total
    total = sum(weights[token] for token in nucleus)
    return [weights[token] / total if token in nucleus else 0.0 for token in range(len(logits))]


SETTINGS = [
    (1.0, -1, 1.0),
    (0.6, -1, 1.0),
    (1.7, 0, 1.0),
    (1.0, 1, 1.0),
    (1.0, 3, 1.0),
    (1.0, 99, 1.0),
    (1.0, -1, 0.8),
    (1.0, -1, 0.0),
    (1.0, 2, 0.6),
    (0.8, 5, 0.9),
    (1.3, 4, 0.7),
]


@pytest.mark.parametrize("temperature, top_k, top_p", SETTINGS)
def test_tokens_are_drawn_with_the_reference_probabilities(temperature: float, top_k: int, top_p: float) -> None:
    expected = np.array(reference(LOGITS, temperature, top_k, top_p))
    draw = make_draw(ROWS, 1, 7, temperature, top_k, top_p)
    ids, log_probs = draw_tokens(torch.tensor([LOGITS]).expand(ROWS, -1), draw, 0)
    drawn = np.bincount(ids.numpy(), minlength=len(LOGITS)) / ROWS
    # Five standard deviations of a binomial share; a token without probability is never drawn.
    assert np.all(np.abs(drawn - expected) <= 5 * np.sqrt(expected * (1 - expected) / ROWS))
    np.testing.assert_allclose(log_probs.numpy(), np.log(expected[ids.numpy()]), atol=1e-6)
    assert (ids.dtype, log_probs.dtype) == (torch.int64, torch.float32)


def test_log_probs_are_the_log_softmax_of_the_truncated_logits() -> None:
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(1)) * 3
    draw = make_draw(64, 1, 2, 0.7, 12, 0.85)
    ids, log_probs = draw_tokens(logits, draw, 0)
    kept = truncate(logits / 0.7, draw.top_k, draw.top_p)
    torch.testing.assert_close(log_probs, kept.log_softmax(-1)[torch.arange(64), ids])


def test_each_row_has_its_own_settings() -> None:
    """A row of a mixed batch (greedy, hot, cold, top-k, top-p) is drawn as it is when it is alone."""
    rows = 60
    temperature = torch.tensor([0.0, 0.5, 1.0, 1.5, -1.0, 1.0]).repeat(rows // 6)
    top_k = torch.tensor([-1, 0, 3, -1, -1, 5]).repeat(rows // 6)
    top_p = torch.tensor([1.0, 0.9, 1.0, 0.6, 1.0, 0.7]).repeat(rows // 6)
    logits = torch.randn(rows, 30, generator=torch.Generator().manual_seed(3)) * 2
    draw = make_draw(rows, 2, 4, temperature, top_k, top_p)
    ids, log_probs = draw_tokens(logits, draw, 1)
    for row in range(rows):
        one_id, one_log_prob = draw_tokens(logits[row : row + 1], draw.rows(torch.tensor([row])), 1)
        assert one_id.item() == ids[row].item()
        assert one_log_prob.item() == pytest.approx(log_probs[row].item(), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_greedy_takes_the_likeliest_token_with_its_log_prob_at_temperature_1(temperature: float) -> None:
    logits = torch.randn(200, 20, generator=torch.Generator().manual_seed(5))
    ids, log_probs = draw_tokens(logits, make_draw(200, 1, 6, temperature), 0)
    assert torch.equal(ids, logits.argmax(-1))
    torch.testing.assert_close(log_probs, logits.log_softmax(-1).max(-1).values)


def test_a_step_uses_its_own_column_of_the_noise() -> None:
    draw = make_draw(1, 3)
    draw.noise[:] = torch.tensor([[0.0, 0.5, 0.999]], dtype=torch.float64)
    uniform = torch.zeros(1, 10)
    assert [draw_tokens(uniform, draw, step)[0].item() for step in range(3)] == [0, 5, 9]


logits_rows = st.lists(st.floats(-60, 60, width=32), min_size=2, max_size=12)


@given(logits_rows, st.floats(0.05, 5), st.integers(-1, 14), st.floats(0.01, 1), st.data())
def test_what_is_drawn_always_has_probability_and_rises_with_the_noise(
    logits: list[float], temperature: float, top_k: int, top_p: float, data: st.DataObject
) -> None:
    largest = 1 - 2**-53
    middle = data.draw(st.lists(st.floats(0, 1, exclude_max=True), max_size=3))
    noise = sorted([0.0, *middle, largest])
    rows = len(noise)
    draw = Draw(
        torch.full((rows,), temperature),
        torch.full((rows,), top_k),
        torch.full((rows,), top_p),
        torch.tensor(noise, dtype=torch.float64).unsqueeze(1),
    )
    ids, log_probs = draw_tokens(torch.tensor([logits]).expand(rows, -1), draw, 0)
    assert torch.isfinite(log_probs).all() and (log_probs <= 0).all()
    assert ids.tolist() == sorted(ids.tolist())


@given(logits_rows, st.integers(1, 14), st.floats(0.01, 0.99))
def test_truncation_keeps_the_smallest_sufficient_set(logits: list[float], top_k: int, top_p: float) -> None:
    row = torch.tensor([logits])
    by_k = truncate(row, torch.tensor([top_k]), torch.tensor([1.0]))[0]
    kept = by_k.isfinite()
    assert int(kept.sum()) == min(top_k, len(logits))
    assert torch.equal(by_k[kept], row[0][kept]), "what is kept is as it was"
    assert row[0][kept].min() >= max(row[0][~kept].tolist(), default=-torch.inf)
    nucleus = truncate(row, torch.tensor([0]), torch.tensor([top_p]))[0].isfinite()
    probability = row[0].double().softmax(-1)[nucleus]
    assert probability.sum() >= top_p - 1e-5
    assert probability.sum() - probability.min() < top_p + 1e-5, "without its least likely token it would not suffice"


def test_rows_selects_by_index_and_by_mask() -> None:
    draw = make_draw(4, 2, 0, [0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4], [0.5, 0.6, 0.7, 0.8])
    for keep in (torch.tensor([1, 3]), torch.tensor([False, True, False, True])):
        some = draw.rows(keep).to(torch.device("cpu"))
        assert torch.equal(some.temperature, draw.temperature[[1, 3]])
        assert some.top_k.tolist() == [2, 4]
        assert torch.equal(some.top_p, draw.top_p[[1, 3]])
        assert torch.equal(some.noise, draw.noise[[1, 3]])


def test_the_noise_of_a_request_does_not_depend_on_the_others() -> None:
    alone, crowded = NoiseStream(1, 0, 5), NoiseStream(1, 0, 5)
    mine = [alone.next([3, 1, 4], 1.0, 6) for _ in range(3)]
    others = []
    for expected in mine:
        others.append(crowded.next([3, 1], 1.0, 6))
        others.append(crowded.next([3, 1, 4], 0.5, 6))
        np.testing.assert_array_equal(crowded.next([3, 1, 4], 1.0, 6), expected)
    assert len({tuple(noise) for noise in (*mine, *others)}) == 9, "every request has noise of its own"


def test_a_longer_request_extends_a_shorter() -> None:
    np.testing.assert_array_equal(
        NoiseStream(1, 0, 5).next([7, 8], 1.0, 100)[:9], NoiseStream(1, 0, 5).next([7, 8], 1.0, 9)
    )


def test_the_same_request_is_recognised_however_it_is_written() -> None:
    first = NoiseStream(1).next([1, 2], 1.0, 4)
    np.testing.assert_array_equal(NoiseStream(1).next((1, 2), 1, 4), first)
    stream = NoiseStream(1)
    stream.next([1, 2], 1.0, 4)
    assert not np.array_equal(stream.next((1, 2), 1, 4), first), "it is a second request for the same prompt"


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=3), st.lists(st.integers(-5, 5), min_size=1, max_size=3))
def test_streams_differ_exactly_if_their_keys_do(one: list[int], other: list[int]) -> None:
    same = np.array_equal(NoiseStream(*one).next([1], 1.0, 3), NoiseStream(*other).next([1], 1.0, 3))
    assert same == (one == other)


def test_noise_is_uniform() -> None:
    stream = NoiseStream(2, 0, 1)
    noise = np.concatenate([stream.next([1, 2, 3], 1.0, 50) for _ in range(400)])
    assert noise.dtype == np.float64 and noise.min() >= 0 and noise.max() < 1
    shares = np.histogram(noise, bins=20, range=(0, 1))[0] / noise.size
    assert np.all(np.abs(shares - 0.05) <= 5 * np.sqrt(0.05 * 0.95 / noise.size))


def test_the_noise_of_a_run_never_changes() -> None:
    """Golden values: a resumed run, or one repeated with a later version of this project, draws the same samples."""
    noise = NoiseStream(1, 0, 0).next([5, 6, 7], 1.0, 3)
    np.testing.assert_allclose(noise, [0.5963482568718342, 0.8164031969133556, 0.08214889828455663], rtol=1e-12)


def test_rows_of_the_embedding_without_a_token_are_never_drawn() -> None:
    """Padding that the training never touches may have the largest logit of all."""
    rows = 200
    logits = torch.tensor([[0.0, 1.0, -1.0, 50.0, 60.0]]).repeat(rows, 1)
    for temperature in (0.0, 1.0):
        draw = Draw(
            torch.full((rows,), temperature),
            torch.full((rows,), -1),
            torch.ones(rows),
            torch.linspace(0, 0.999999, rows, dtype=torch.float64).unsqueeze(1),
            vocabulary=3,
        )
        ids, log_probs = draw_tokens(logits, draw.rows(torch.arange(rows)).to(torch.device("cpu")), 0)
        assert set(ids.tolist()) == ({1} if temperature == 0 else {0, 1, 2})
        assert torch.allclose(log_probs, logits[:, :3].log_softmax(-1).gather(1, ids.unsqueeze(1)).squeeze(1))
