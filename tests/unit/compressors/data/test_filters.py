"""Filters of single rows, and the choice of few rows that cover many."""

from __future__ import annotations

import itertools

import pytest
import torch

from attar.compressors.data.diversity import farthest_first, farthest_points, text_features
from attar.compressors.data.filters import Length, PassRate, Repetition
from attar.compressors.data.keep import reason_kind
from attar.compressors.data.ngrams import distinct_fraction


def kind(reason: str | None) -> str | None:
    return None if reason is None else reason_kind(reason)


@pytest.mark.parametrize(
    ("length", "expected"), [(2, "too short"), (3, None), (5, None), (6, "too long"), (0, "too short")]
)
def test_length_limits_are_inclusive(length: int, expected: str | None) -> None:
    assert kind(Length(3, 5, "tokens")(length)) == expected


def test_no_largest_length_is_no_limit() -> None:
    assert Length(0, 0, "tokens")(10**9) is None


@pytest.mark.parametrize(
    ("rate", "expected"), [(0.24, "too hard"), (0.25, None), (0.75, None), (0.76, "too easy"), (None, None)]
)
def test_pass_rate_limits_are_inclusive(rate: float | None, expected: str | None) -> None:
    assert kind(PassRate(0.25, 0.75)(rate)) == expected


def test_distinct_fraction_is_one_without_repetition_and_falls_in_a_loop() -> None:
    assert distinct_fraction("a b c d e f") == 1.0
    assert distinct_fraction("no no no no no") == pytest.approx(1 / 3)
    assert distinct_fraction("too short") == distinct_fraction("") == 1.0
    loop = "and so it goes on " * 50
    assert distinct_fraction(loop) == pytest.approx(5 / 248)
    assert kind(Repetition(0.2)(loop)) == "repetitive" and Repetition(0.0)(loop) is None


def test_features_are_unit_vectors_alike_for_like_texts() -> None:
    features = text_features(["the red fox runs", "the red fox sleeps", "prime numbers are odd", ""])
    norms = features.norm(dim=-1)
    torch.testing.assert_close(norms, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert features[0] @ features[1] > 0.2 > (features[0] @ features[2]).abs()


def test_farthest_points_cover_within_twice_the_best_radius() -> None:
    """Gonzalez's bound, against every choice of four of twelve."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        points = torch.nn.functional.normalize(torch.randn(12, 3, generator=generator), dim=-1)
        distances = torch.cdist(points, points)
        radius = distances[:, farthest_points(points, 4)].amin(dim=1).max()
        best = min(distances[:, list(some)].amin(dim=1).max() for some in itertools.combinations(range(12), 4))
        assert radius <= 2 * best + 1e-5


def test_copies_are_chosen_last() -> None:
    features = text_features(["red fox", "red fox", "blue whale", "red fox", "green tree"])
    assert farthest_points(features, 3)[0] == 0 and set(farthest_points(features, 3)) == {0, 2, 4}
    assert sorted(farthest_points(features, 99)) == [0, 1, 2, 3, 4]


def test_both_selections_are_one_farthest_first_order() -> None:
    """Points on a line: from the left end the right end is farthest, then the middle; copies end it where they are not wanted."""
    line = torch.tensor([0.0, 10.0, 4.0, 4.0, 10.0])
    chosen = farthest_first(lambda index: (line - line[index]).abs(), 5, 5, takes_copies=False)
    assert chosen == [0, 1, 2]
    assert farthest_first(lambda index: (line - line[index]).abs(), 5, 9)[:3] == [0, 1, 2]
    assert farthest_first(lambda index: (line - line[index]).abs(), 5, 2, first=2) == [2, 1]
