"""Closeness to the original: zero for itself, the float64 divergence for another, intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from attar.compressors.measure.closeness import closeness, closeness_of_each, ratio_of_sums
from attar.compressors.models.runner import TorchRunner
from attar.stages.ingest.tiny_model import random_model

PAIRS = [([5, 6], [7, 8, 9]), ([1], [2]), ([3, 4, 5], [6, 7])]


def test_a_model_is_as_close_to_itself_as_can_be() -> None:
    runner = TorchRunner(random_model("llama")[0])
    for text, (_, continuation) in zip(closeness(runner, runner, PAIRS, batch_size=2), PAIRS, strict=True):
        assert text.kl_nats == pytest.approx(0, abs=1e-5) and text.num_agreeing == text.num_tokens == len(continuation)
        assert text.loss_nats == text.original_loss_nats


def test_divergence_and_losses_equal_those_of_each_text_alone_in_float64() -> None:
    student, original = random_model("llama", seed=1)[0], random_model("llama", seed=2)[0]
    figures = closeness(TorchRunner(student), TorchRunner(original), PAIRS, batch_size=3)
    for text, (context, continuation) in zip(figures, PAIRS, strict=True):
        ids = torch.tensor([[*context, *continuation]])
        with torch.no_grad():
            student_logprobs, original_logprobs = (
                m(input_ids=ids).logits[0, len(context) - 1 : -1].double().log_softmax(-1) for m in (student, original)
            )
        wanted = torch.tensor(continuation)[:, None]
        assert text.kl_nats == pytest.approx(
            float((original_logprobs.exp() * (original_logprobs - student_logprobs)).sum()), rel=1e-4
        )
        assert text.loss_nats == pytest.approx(-float(student_logprobs.gather(-1, wanted).sum()), rel=1e-4)
        assert text.original_loss_nats == pytest.approx(-float(original_logprobs.gather(-1, wanted).sum()), rel=1e-4)
        assert text.kl_nats > 0.1, "the direction matters: these models differ"


def test_students_beside_each_other_are_measured_as_alone() -> None:
    runners = [TorchRunner(random_model("llama", seed=seed)[0]) for seed in (1, 2, 3)]
    together = closeness_of_each([*runners, runners[0]], runners[2], PAIRS, batch_size=2)
    assert together == [closeness(runner, runners[2], PAIRS, batch_size=2) for runner in (*runners, runners[0])]


def test_interval_of_a_mean_is_the_textbook_one() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()
    estimate = ratio_of_sums(values, [1.0] * 400)
    deviation = torch.tensor(values).std().item() / 20
    assert estimate.value == pytest.approx(sum(values) / 400)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * deviation, rel=0.15)


@pytest.mark.parametrize("count", [2, 7, 150])
def test_interval_of_a_ratio_is_scipys_paired_percentile_bootstrap(count: int) -> None:
    above, below = (np.random.default_rng(seed).gamma(2.0, size=count) for seed in (0, 1))
    expected = bootstrap(
        (above, below),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=2000,
        batch=100,
        rng=np.random.default_rng(3),
    ).confidence_interval
    estimate = ratio_of_sums(above.tolist(), below.tolist(), seed=3)
    # the same draws; a quantile between two of them is interpolated in another order of operations
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_pairs_stay_together_in_the_interval() -> None:
    """A student that is right exactly where the original is keeps all of it, whichever questions are drawn."""
    right = [float(index % 3 == 0) for index in range(90)]
    estimate = ratio_of_sums(right, right)
    assert estimate.value == estimate.low == estimate.high == 1.0
    assert math.isnan(ratio_of_sums([1.0, 0.0], [0.0, 0.0]).value)
