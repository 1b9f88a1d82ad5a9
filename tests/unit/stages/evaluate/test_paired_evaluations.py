"""Two evaluations side by side: pairs where both were asked the same, times that tell something or are said to tell nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from attar.registry.release.figures import is_figure, with_interval
from attar.stages.evaluate.headline import headline_metrics
from attar.stages.evaluate.paired_evaluations import accuracy_ratio, paired_ratios


def evaluation(**changes: Any) -> dict[str, Any]:
    times = {"prefill_seconds": 0.2, "decode_seconds_per_token": 0.04}
    spread = {
        f"{name}{end}": value * share
        for name, value in times.items()
        for end, share in (("_low", 0.95), ("_high", 1.05))
    }
    plain = {
        "format": "model",
        "model_fingerprint": "one",
        "num_parameters": 100,
        "flops_per_token": 200.0,
        "disk_bytes": 400,
        "perplexity": math.exp(1.0),
        "text_pieces": [[32.0, 32], [16.0, 16], [33.0, 32], [31.0, 32]],
        "text": "prose",
        "tasks": {"facts": 0.75},
        "right": {"facts": [1.0] * 75 + [0.0] * 25},
        "asked": {"facts": "these"},
        "latency": {"num_rounds": 5, "num_prompt_tokens": 32, "machine": "m", "num_threads": 2, **times, **spread},
    }
    return {**plain, **changes}


def timed(share: float, **changes: Any) -> dict[str, Any]:
    latency = evaluation()["latency"]
    return {
        **{name: value * share if isinstance(value, float) else value for name, value in latency.items()},
        **changes,
    }


def test_every_figure_has_its_interval_and_what_it_was_measured_on() -> None:
    figures = headline_metrics(evaluation())
    for name in ("accuracy", "accuracy_facts", "perplexity", "prefill_seconds", "decode_seconds_per_token"):
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"], name
    assert figures["num_questions"] == figures["num_questions_facts"] == 100 and figures["num_text_tokens"] == 112
    assert with_interval(figures, "accuracy") == "0.75 [0.657, 0.825] on 100 questions"
    assert with_interval({f"model/{name}": value for name, value in figures.items()}, "model/perplexity").endswith(
        "] on 112 tokens"
    )
    assert [name for name in sorted(figures) if is_figure(name)] == [
        "accuracy", "accuracy_facts", "decode_seconds_per_token", "disk_bytes", "flops_per_token", "num_parameters", "perplexity",
        "prefill_seconds",
    ]  # fmt: skip


def test_the_same_questions_make_pairs_and_others_do_not() -> None:
    candidate = evaluation(tasks={"facts": 0.6}, right={"facts": [1.0] * 60 + [0.0] * 40})
    paired = accuracy_ratio(candidate, evaluation())
    apart = accuracy_ratio({**candidate, "asked": {"facts": "others"}}, evaluation())
    assert paired is not None and apart is not None and paired.value == apart.value == pytest.approx(0.8)
    assert None not in (paired.low, paired.high, apart.low, apart.high)
    assert apart.low < paired.low < 0.8 < paired.high < apart.high  # type: ignore[operator]
    assert paired.measured_on == "100 questions"
    old = {name: value for name, value in candidate.items() if name not in ("right", "asked", "text_pieces", "latency")}
    assert paired_ratios(old, evaluation()) == {}, "an evaluation of an earlier version tells no interval"


def test_texts_are_compared_piece_by_piece() -> None:
    pieces = [[nats * 1.1, count] for nats, count in evaluation()["text_pieces"]]
    ratio = paired_ratios(evaluation(text_pieces=pieces), evaluation())["perplexity"]
    assert ratio.value == pytest.approx(math.exp(0.1), rel=1e-6)
    assert (
        ratio.low is not None
        and ratio.high is not None
        and math.exp(0.1) * 0.98 < ratio.low < ratio.high < math.exp(0.1) * 1.02
    )
    assert "perplexity" not in paired_ratios(evaluation(text="another"), evaluation())


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (evaluation(latency=timed(1.2)), ""),
        (evaluation(latency=timed(0.5)), "two models of one shape"),
        (evaluation(latency=timed(1.9)), "two models of one shape"),
        (evaluation(latency=timed(0.5), num_parameters=80), ""),
        (evaluation(latency=timed(0.5, machine="other"), num_parameters=80), "timed under other conditions"),
        (evaluation(latency=timed(0.5, num_threads=1), num_parameters=80), "timed under other conditions"),
    ],
)
def test_times_of_one_shape_that_lie_far_apart_tell_nothing(candidate: dict[str, Any], why: str) -> None:
    ratio = paired_ratios(candidate, evaluation())["decode_seconds_per_token"]
    assert ratio.undecided.startswith(why) and bool(ratio.undecided) == bool(why)


def test_a_time_in_turns_is_held_against_its_turn_not_against_another_day() -> None:
    beside = {**{name: value for name, value in timed(2.0).items() if "seconds" in name}, "model_fingerprint": "one"}
    candidate = evaluation(latency=timed(1.0, beside=beside, machine="other"), num_parameters=80)
    ratio = paired_ratios(candidate, evaluation())["decode_seconds_per_token"]
    assert ratio.value == pytest.approx(0.5) and not ratio.undecided and ratio.measured_on == "5 rounds, in turns"
    assert ratio.low == pytest.approx(0.5 * 0.95 / 1.05) and ratio.high == pytest.approx(0.5 * 1.05 / 0.95)
