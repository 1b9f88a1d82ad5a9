"""A gate's checks find their evidence in two evaluations, in pairs, or say in one line why there is none."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from attar.stages.artifacts.dataset.rows import Row
from attar.stages.evaluate.evidence import evaluation_claim
from attar.stages.evaluate.gate_check import GateCheck
from attar.stages.evaluate.question_pairs import paired_right, question_ids

IDS = [f"question {index}" for index in range(8)]
BASELINE: dict[str, Any] = {
    "model_fingerprint": "original",
    "right": {"facts": [1.0] * 6 + [0.0] * 2},
    "question_ids": {"facts": IDS},
    "text": "prose",
    "text_pieces": [[32.0, 32], [30.0, 32], [33.0, 32]],
    "disk_bytes": 400,
    "memory_bytes": 800,
    "num_parameters": 100,
}
CANDIDATE: dict[str, Any] = {
    **BASELINE,
    "model_fingerprint": "student",
    "right": {"facts": [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]},
    "text_pieces": [[35.2, 32], [33.0, 32], [36.3, 32]],
    "disk_bytes": 200,
    "memory_bytes": 600,
    "latency": {
        "decode_seconds_per_token_rounds": [0.9, 1.0, 0.8],
        "prefill_seconds_rounds": [1.0, 1.0, 1.1],
        "beside": {
            "model_fingerprint": "original",
            "decode_seconds_per_token_rounds": [1.0, 1.1, 0.9],
            "prefill_seconds_rounds": [2.0, 2.0, 2.2],
        },
    },
}


def claim_of(measure: str, limit: float, data: str = "", candidate: dict[str, Any] | None = None):
    return evaluation_claim(GateCheck(measure=measure, limit=limit, data=data), candidate or CANDIDATE, BASELINE)


@pytest.mark.parametrize(
    ("measure", "limit", "value"),
    [
        ("accuracy_drop", 0.1, 0.0),
        ("accuracy_retention", 0.9, 1.0),
        ("perplexity_ratio", 1.2, pytest.approx(2.718281828 ** (9.5 / 96), rel=1e-6)),
        ("bytes_ratio", 0.9, 0.5),
        ("memory_ratio", 0.9, 0.75),
        ("parameters_ratio", 1.0, 1.0),
        ("decode_latency_ratio", 1.0, pytest.approx(0.8993, rel=1e-3)),
        ("prefill_latency_ratio", 1.0, pytest.approx(0.5)),
    ],
)
def test_every_measure_has_its_evidence(measure: str, limit: float, value: Any) -> None:
    claim = claim_of(measure, limit)
    assert claim.evidence is not None and claim.evidence.value == value


def test_answers_are_paired_by_question_whatever_their_order() -> None:
    shuffled = {
        **CANDIDATE,
        "right": {"facts": [0.0, 1.0, 0.0]},
        "question_ids": {"facts": [IDS[7], IDS[6], IDS[0]]},
    }
    assert paired_right(shuffled, BASELINE, "facts") == ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    assert claim_of("accuracy_drop", 0.1, "facts", shuffled).evidence.num_units == 3  # type: ignore[union-attr]
    unknown = {**shuffled, "question_ids": {"facts": [IDS[7], IDS[6], "another"]}}
    with pytest.raises(ValueError, match="task 'facts': candidate and baseline did not answer the same questions"):
        claim_of("accuracy_drop", 0.1, "facts", unknown)


def test_questions_that_are_alike_have_ids_of_their_own() -> None:
    rows = [Row("a", "What?", "Yes."), Row("b", "What?", "Yes."), Row("c", "What?", "No.")]
    ids = question_ids(rows)
    assert len(set(ids)) == 3 and ids[1] == f"{ids[0]}-2" and question_ids(rows[1:])[0] == ids[0]


def test_who_stopped_early_is_judged_by_what_holds_at_any_time() -> None:
    early = {**CANDIDATE, "stopping": {"order": ["facts"] * 8, "num_drawn": 8}}
    fixed, always = (
        claim_of("accuracy_drop", 0.5, candidate=candidate).evidence.bound(0.05, is_upper=True)  # type: ignore[union-attr]
        for candidate in (CANDIDATE, early)
    )
    assert always > fixed


@pytest.mark.parametrize(
    ("candidate", "measure", "why"),
    [
        ({"latency": {**CANDIDATE["latency"], "beside": {}}}, "decode_latency_ratio", "give evaluate the input beside"),
        ({"text": "other"}, "perplexity_ratio", "another text"),
        (
            {"text_pieces": [[35.2, 30], [33.0, 32], [36.3, 32]]},
            "perplexity_ratio",
            "limit loss_ratio of compare instead",
        ),
    ],
)
def test_what_was_measured_apart_decides_nothing(candidate: dict[str, Any], measure: str, why: str) -> None:
    claim = claim_of(measure, 1.1, candidate={**CANDIDATE, **candidate})
    assert claim.evidence is None and why in claim.undecided


@pytest.mark.parametrize(
    ("candidate", "check", "message"),
    [
        (
            {},
            {"measure": "accuracy_drop", "limit": 0.1, "data": "fact"},
            "'fact' was not measured. Did you mean 'facts'?",
        ),
        ({"right": {}}, {"measure": "accuracy_drop", "limit": 0.1}, "no task was measured"),
        ({"text_pieces": []}, {"measure": "perplexity_ratio", "limit": 1.1}, "no text was measured"),
        ({"latency": {}}, {"measure": "decode_latency_ratio", "limit": 1.1}, "keeps no rounds; evaluate it again"),
    ],
)
def test_what_nobody_measured_is_refused(candidate: dict[str, Any], check: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation_claim(GateCheck(**check), {**CANDIDATE, **candidate}, BASELINE)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"measure": "accuracy_drop", "limit": 1.5}, "limit of accuracy_drop is 1.5; accepted: above -1 and below 1"),
        ({"measure": "agreement", "limit": 0.0}, "accepted: above 0 and below 1"),
        (
            {"measure": "bytes_ratio", "limit": 0.5, "data": "facts"},
            "bytes_ratio is not measured by task; leave data out",
        ),
    ],
)
def test_a_check_that_means_nothing_is_refused(check: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GateCheck(**check)


def test_a_task_on_which_the_original_is_at_chance_is_no_measure_of_retention() -> None:
    unknowing = {**BASELINE, "right": {"facts": [0.0] * 8}}
    claim = evaluation_claim(GateCheck(measure="accuracy_retention", limit=0.9), CANDIDATE, unknowing)
    assert claim.evidence is None
    assert claim.undecided.startswith(
        "facts is no measure: the original answers 0% of 8 questions right, at least 0%, and guessing 0%"
    )
    guessing = {**BASELINE, "guessed": {"facts": 0.5}}
    claim = evaluation_claim(GateCheck(measure="accuracy_retention", limit=0.9, data="facts"), CANDIDATE, guessing)
    assert claim.evidence is None and "guessing 50%" in claim.undecided
    knowing = {**BASELINE, "guessed": {"facts": 0.1}}
    assert evaluation_claim(GateCheck(measure="accuracy_retention", limit=0.9), CANDIDATE, knowing).evidence is not None
    # what is taken away needs no share to be taken from
    assert evaluation_claim(GateCheck(measure="accuracy_drop", limit=0.1), CANDIDATE, unknowing).evidence is not None
