"""The gate on intervals: three verdicts, Holm over what can err, and how many more questions would decide."""

from __future__ import annotations

import math

import pytest

from attar.compressors.measure.evidence import Exact
from attar.compressors.measure.newcombe import Cells, PairedDrop
from attar.registry.release.interval_gate import FAILED, PASSED, TOO_FEW, Claim, judge_claims, whole_verdict
from attar.registry.release.measures import MEASURES


def drop(limit: float, *cells: float, name: str = "accuracy_drop") -> Claim:
    return Claim(name, limit, True, "", PairedDrop((Cells(*cells),)))


def test_few_questions_decide_nothing_and_many_do() -> None:
    """One answer in ten flips either way, a tenth may be lost: 23 questions do not tell, 460 do."""
    few, many, bad = (drop(0.1, 15, 1, 1, 6), drop(0.1, 300, 20, 20, 120), drop(0.1, 200, 150, 20, 90))
    assert [judge_claims([claim], 0.05)[0].verdict for claim in (few, many, bad)] == [TOO_FEW, PASSED, FAILED]


def test_it_says_how_many_more_are_needed_and_that_many_decide() -> None:
    claim = drop(0.1, 24, 7, 7, 8)
    [judged] = judge_claims([claim], 0.05)
    assert judged.verdict == TOO_FEW and judged.num_more and 10 < judged.num_more < 200
    share = 1 + judged.num_more / 46
    assert judge_claims([drop(0.1, 24 * share, 7 * share, 7 * share, 8 * share)], 0.05)[0].verdict == PASSED
    share = 1 + 0.9 * judged.num_more / 46
    assert judge_claims([drop(0.1, 24 * share, 7 * share, 7 * share, 8 * share)], 0.05)[0].verdict == TOO_FEW
    assert judged.advice == f"about {judged.num_more:,} more questions would pass it, answered as these were"
    [worse] = judge_claims([drop(0.1, 30, 8, 2, 6)], 0.05)
    assert worse.verdict == TOO_FEW and worse.advice.endswith("would fail it, answered as these were")


def test_on_the_limit_itself_no_number_would_tell() -> None:
    [judged] = judge_claims([drop(0.1, 60, 15, 5, 20)], 0.05)
    assert (
        judged.verdict == TOO_FEW and judged.num_more is None and "no number of questions would tell" in judged.advice
    )


def test_holm_asks_more_of_several_and_says_what_of_each() -> None:
    """Three alike checks at p about 0.03: alone each passes at 5%, together the smallest would need 1.7%."""
    claims = [drop(0.1, 125, 24, 16, 35, name=f"check {index}") for index in range(3)]
    p = claims[0].doubt()
    assert 0.05 / 3 < p < 0.05
    assert [judged.verdict for judged in judge_claims(claims, 0.05, "each")] == [PASSED] * 3
    together = judge_claims(claims, 0.05, "holm")
    assert [judged.verdict for judged in together] == [TOO_FEW] * 3
    assert sorted(judged.level for judged in together) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])


def test_holm_steps_down_and_exact_figures_take_no_share() -> None:
    sure, fair = drop(0.3, 300, 20, 20, 120), drop(0.1, 125, 24, 16, 35)
    exact = Claim("bytes_ratio", 0.5, True, "", Exact(0.4))
    judged = judge_claims([fair, exact, sure], 0.05)
    assert [check.verdict for check in judged] == [PASSED] * 3, (
        "once the sure one is passed the other is held to the whole level"
    )
    assert [check.level for check in judged] == pytest.approx([0.05, 0.05, 0.025])
    assert judge_claims([Claim("bytes_ratio", 0.5, True, "", Exact(0.6))], 0.05)[0].verdict == FAILED


def test_a_passed_check_has_its_bound_within_the_limit() -> None:
    for cells in ((300, 20, 20, 120), (200, 150, 20, 90), (30, 2, 2, 12), (80, 3, 9, 10)):
        [judged] = judge_claims([drop(0.1, *cells)], 0.05)
        check = judged.as_dict()
        assert (check["high"] <= 0.1) == (judged.verdict == PASSED) and (check["low"] > 0.1) == (
            judged.verdict == FAILED
        )
        assert check["has_passed"] == (judged.verdict == PASSED) and check["measured_on"] == f"{sum(cells)} questions"


def test_what_cannot_be_told_is_neither_passed_nor_failed_and_no_number_fails() -> None:
    apart = Claim("decode_latency_ratio", 1.0, True, "", None, "measured apart from the original")
    [judged] = judge_claims([apart], 0.05)
    assert judged.verdict == TOO_FEW and judged.advice == "measured apart from the original"
    assert judged.as_dict()["known"] == "" and math.isnan(judged.as_dict()["measured"])
    assert judge_claims([Claim("perplexity_ratio", 2.0, True, "", Exact(math.nan))], 0.05)[0].verdict == FAILED


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        ([PASSED, PASSED], PASSED),
        ([PASSED, TOO_FEW], TOO_FEW),
        ([TOO_FEW, FAILED, PASSED], FAILED),
        ([], PASSED),
    ],
)
def test_the_whole_is_as_good_as_its_worst(verdicts: list[str], whole: str) -> None:
    assert whole_verdict(verdicts) == whole


@pytest.mark.parametrize(
    ("name", "limit", "text"),
    [
        ("accuracy_drop", 0.05, "5 points of the accuracy may be lost"),
        ("accuracy_retention", 0.9, "10% of the accuracy may be lost"),
        ("agreement", 0.8, "20% of the tokens may differ from the original's"),
        ("kl_nats", 0.3, "0.3 nats a token from the original"),
        ("bytes_ratio", 0.5, "bytes must fall by 50%"),
        ("decode_latency_ratio", 1.0, "decode seconds per token may rise by 0%"),
    ],
)
def test_a_limit_says_what_it_lets_through(name: str, limit: float, text: str) -> None:
    assert MEASURES[name].lets_through(limit) == text
