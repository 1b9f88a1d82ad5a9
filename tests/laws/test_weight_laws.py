"""Weights of tokens and of sequences by hand: what each gives, what it reads, what of a step it is the mean of, what is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.losses.weights.sample_weights import SAMPLE_WEIGHTS, teacher_score
from attar.compressors.distill.losses.weights.token_weights import TOKEN_WEIGHTS, sequence_positions

ALL = slice(0, 7)
# sequence 1 has no tokens; those of sequence 2 lie around one of sequence 3
SEQUENCES = torch.tensor([0, 0, 0, 2, 3, 2, 2])
STUDENT = torch.tensor([1.0, 3.0, 2.0, 0.5, 4.0, 0.25, 0.125])
TEACHER = torch.tensor([2.0, 1.0, 2.0, 0.0, 1.0, 3.0, 0.5])
STATS = TokenStats(
    SEQUENCES, tuple(SampleFacts() for _ in range(4)), student_entropy=STUDENT, teacher_entropy=TEACHER,
    is_first_choice=torch.tensor([True, False, True, False, True, True, False]),
)  # fmt: skip
LOSS = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])


def weighed(name: str, tokens: slice = ALL, **params: Any) -> list[float]:
    return build(TOKEN_WEIGHTS, name, params)(LOSS[tokens], STATS, tokens).tolist()


@pytest.mark.parametrize(
    ("name", "params", "weights"),
    [
        ("gate", {}, [1 / (1 + math.exp(t - s)) for s, t in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True)]),
        ("entropy", {}, [math.exp(-t) for t in TEACHER.tolist()]),
        ("entropy", {"beta": 0.5}, [math.exp(-0.5 * t) for t in TEACHER.tolist()]),
        # of 6 nats the first two tokens hold 4; of 0.875 the first holds 0.5
        ("opener", {"entropy_fraction": 0.6}, [1, 1, 0, 1, 1, 1, 0]),
        ("opener", {"entropy_fraction": 0.5}, [1, 1, 0, 1, 1, 0, 0]),
        ("opener", {"entropy_fraction": 1.0}, [1, 1, 1, 1, 1, 1, 1]),
        # 2 of 3 tokens, each counts 3/2; the sequence of one token keeps it
        ("top_entropy", {"fraction": 0.5}, [0, 1.5, 1.5, 1.5, 1, 1.5, 0]),
        ("top_entropy", {"fraction": 0.01}, [0, 3, 0, 3, 1, 0, 0]),
        ("top_entropy", {"fraction": 1.0}, [1, 1, 1, 1, 1, 1, 1]),
        ("confident", {"max_entropy_nats": 1.0}, [1, 0, 0, 1, 0, 1, 1]),
        ("confident", {"max_entropy_nats": 1.0, "of": "teacher"}, [0, 1, 0, 1, 1, 0, 1]),
        ("correct", {}, [1, 0, 1, 0, 1, 1, 0]),
        ("clip", {"limit_nats": 4.0}, [1, 1, 1, 1, 4 / 5, 4 / 6, 4 / 7]),
    ],
)
def test_what_a_weight_makes_of_each_tokens_loss(name: str, params: dict[str, Any], weights: list[float]) -> None:
    expected = [loss * weight for loss, weight in zip(LOSS.tolist(), weights, strict=True)]
    assert weighed(name, **params) == pytest.approx(expected, rel=1e-6)
    assert weighed(name, slice(2, 5), **params) == pytest.approx(expected[2:5], rel=1e-6), "a part of the batch"


def test_what_a_weight_looks_at() -> None:
    needs = {
        "gate": {"student_entropy", "teacher_entropy"}, "entropy": {"teacher_entropy"}, "clip": set(), "opener": {"student_entropy"},
        "top_entropy": {"student_entropy"}, "confident": {"student_entropy"}, "correct": {"is_first_choice"},
    }  # fmt: skip
    params: dict[str, dict[str, Any]] = {"clip": {"limit_nats": 1.0}, "confident": {"max_entropy_nats": 1.0}}
    assert {name: build(TOKEN_WEIGHTS, name, params.get(name, {})).needs for name in TOKEN_WEIGHTS} == needs
    assert build(TOKEN_WEIGHTS, "confident", {"max_entropy_nats": 1.0, "of": "teacher"}).needs == {"teacher_entropy"}


def test_the_mean_of_a_step_is_over_the_routed_tokens() -> None:
    samples = (SampleFacts(is_correct=True), SampleFacts(), SampleFacts(), SampleFacts(is_correct=True))
    stats = replace(STATS, samples=samples)
    weight = build(TOKEN_WEIGHTS, "entropy")
    each = [math.exp(-t) for t in TEACHER.tolist()]
    for route, tokens in (("all", range(7)), ("wrong", (3, 5, 6)), ("correct", (0, 1, 2, 4))):
        total, count = weight.step_sums(samples, route, lambda: stats)
        assert total == pytest.approx(sum(each[index] for index in tokens)) and count == len(list(tokens))


def test_positions_of_each_sequence_are_in_order_and_none_is_empty() -> None:
    assert [positions.tolist() for positions in sequence_positions(STATS)] == [[0, 1, 2], [3, 5, 6], [4]]


@pytest.mark.parametrize(
    ("table", "name", "params", "message"),
    [
        (TOKEN_WEIGHTS, "clip", {"limit_nats": 0.0}, "limit_nats is 0.0; accepted: above 0"),
        (TOKEN_WEIGHTS, "opener", {"entropy_fraction": 0.0}, "entropy_fraction is 0.0; accepted: above 0, at most 1"),
        (TOKEN_WEIGHTS, "top_entropy", {"fraction": 1.01}, "fraction is 1.01; accepted: above 0, at most 1"),
        (
            TOKEN_WEIGHTS,
            "confident",
            {"max_entropy_nats": 1.0, "of": "past"},
            "of is 'past'; accepted: student, teacher",
        ),
        (SAMPLE_WEIGHTS, "beta_kernel", {"alpha": -0.1}, "alpha and beta are -0.1 and 1.0; accepted: 0 or more"),
        (SAMPLE_WEIGHTS, "beta_kernel", {"beta": -0.1}, "alpha and beta are 1.0 and -0.1; accepted: 0 or more"),
        (SAMPLE_WEIGHTS, "self_paced", {"kappa_nats": 0.0}, "kappa_nats is 0.0; accepted: above 0"),
    ],
)
def test_a_wrong_parameter_is_refused_in_these_words(
    table: Any, name: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(table, name, params)


def sample_weights(name: str, samples: list[SampleFacts], losses: list[float], **params: Any) -> list[float]:
    return build(SAMPLE_WEIGHTS, name, params)(samples, losses)


def test_weights_of_sequences_are_their_formulas() -> None:
    rates = [SampleFacts(pass_rate=rate) for rate in (0.0, 0.25, 0.5, 1.0)]
    assert sample_weights("beta_kernel", rates, []) == [0.0, 0.1875, 0.25, 0.0]
    assert sample_weights("beta_kernel", rates, [], alpha=2.0, beta=0.0) == [0.0, 0.0625, 0.25, 1.0]
    assert sample_weights("beta_kernel", rates, [], alpha=0.0, beta=0.0) == [1.0] * 4
    assert sample_weights("self_paced", rates[:3], [0.5, 1.0, 2.0], kappa_nats=1.0) == [1.0, 0.0, 0.0]
    soft = sample_weights("self_paced", rates[:2], [1.0, 3.0], kappa_nats=2.0, is_hard=False)
    assert soft == pytest.approx([math.exp(-0.5), math.exp(-1.5)])
    scores = [SampleFacts(score=score) for score in (0.0, 0.4, 0.5, 1.0)]
    assert sample_weights("divergence_aware", scores, []) == [0.0, 0.4, 0.5, 1.0]
    assert sample_weights("divergence_aware", scores, [], min_score=0.5) == [0.0, 0.0, 1.0, 1.0]


def test_what_a_sequences_weight_reads_and_what_it_is_without() -> None:
    assert build(SAMPLE_WEIGHTS, "beta_kernel").reads == {"pass_rates"}
    for zero in ({"alpha": 0.0}, {"beta": 0.0}):
        assert build(SAMPLE_WEIGHTS, "beta_kernel", zero).reads == {"pass_rates"}
    assert build(SAMPLE_WEIGHTS, "beta_kernel", {"alpha": 0.0, "beta": 0.0}).reads == frozenset()
    assert build(SAMPLE_WEIGHTS, "self_paced", {"kappa_nats": 1.0}).reads == frozenset()
    assert build(SAMPLE_WEIGHTS, "divergence_aware").reads == {"scores"}
    for name, fact in (("beta_kernel", "pass_rate"), ("divergence_aware", "score")):
        message = f"the sample weight reads {fact}, but a row has none: let self_data or a rollout find it"
        with pytest.raises(ValueError, match=f"^{message}$"):
            sample_weights(name, [SampleFacts()], [])


def test_the_kernels_mean_is_over_the_routed_sequences() -> None:
    samples = [SampleFacts(pass_rate=0.5, is_correct=True), SampleFacts(pass_rate=0.25), SampleFacts(pass_rate=0.75)]
    kernel = build(SAMPLE_WEIGHTS, "beta_kernel")
    sums = {route: kernel.step_sums(samples, route, lambda: STATS) for route in ("all", "wrong", "correct")}
    assert sums == {"all": (0.625, 3.0), "wrong": (0.375, 2.0), "correct": (0.25, 1.0)}


def test_a_sentence_is_the_teachers_where_it_is_likelier_by_more_than_delta() -> None:
    teacher, student = torch.tensor([-1.0, -1.0, -2.0, -2.0, -2.0]), torch.tensor([-3.0, -1.0, -2.0, -2.5, -3.5])
    # mean gaps of [0, 2), [2, 4), [4, 5): 1, 0.25, 1.5 nats
    assert teacher_score(teacher, student, [2, 4, 5]) == pytest.approx(2 / 3)
    assert teacher_score(teacher, student, [2, 4, 5], 1.0) == pytest.approx(1 / 3), "exactly delta is not more"
    assert teacher_score(teacher, student, [2, 4, 5], 0.2) == 1.0
    assert teacher_score(teacher, student, [2, 2, 5], 0.2) == 1.0, "a sentence without tokens does not count"
    assert teacher_score(teacher, student, []) == 0.0
    assert teacher_score(torch.full((1,), 0.70), torch.zeros(1), [1]) == 1.0, "ln 2 is 0.693"
    assert teacher_score(torch.full((1,), 0.69), torch.zeros(1), [1]) == 0.0
