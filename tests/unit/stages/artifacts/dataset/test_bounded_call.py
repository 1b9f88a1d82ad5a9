"""What others wrote is checked in a process that has limits: any text ends in a verdict, and the next one is checked as before."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from attar.compressors.data.code_tasks import solved
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS, FitsSchema, MatchesPattern, check_reference
from attar.stages.runtime.bounded_call import BoundedCalls, TookTooMuch
from attar.stages.runtime.sandbox import code_of


@pytest.fixture(scope="module")
def calls() -> BoundedCalls:
    return BoundedCalls(cpu_seconds=0.5, wall_seconds=1.5, memory_bytes=1 << 29)


def test_a_check_that_sleeps_is_ended_and_the_next_call_is_answered(calls: BoundedCalls) -> None:
    with pytest.raises(TookTooMuch, match=r"more than 1\.5 s"):
        calls.call("time:sleep", 600)
    assert calls.call("math:gcd", 12, 18) == 6


def test_a_check_that_computes_is_ended_by_its_own_timer(calls: BoundedCalls) -> None:
    """Inside one C function, where Python's signal handlers never run."""
    with pytest.raises(TookTooMuch, match=r"more than 0\.5 s"):
        BoundedCalls(cpu_seconds=0.5, wall_seconds=60.0).call("builtins:pow", 3, 10**8)


def test_a_check_that_takes_memory_is_ended(calls: BoundedCalls) -> None:
    with pytest.raises(TookTooMuch, match="more than 512 MiB"):
        calls.call("builtins:bytes", 1 << 30)
    assert calls.call("math:gcd", 12, 18) == 6


def test_an_exception_is_told_and_half_an_emoji_goes_along(calls: BoundedCalls) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        calls.call("operator:floordiv", 1, 0)
    assert calls.call("builtins:str", "\ud83d") == "\ud83d"


def test_a_slow_check_is_a_verdict_and_not_the_end_of_a_stage() -> None:
    slow = BoundedCalls(cpu_seconds=0.0001, wall_seconds=60.0)  # no answer is checked in so little
    schema = json.dumps({"enum": list(range(20_000))})
    assert (FitsSchema(calls=slow)("7", schema, []) or "").startswith(
        ("wrong answer (its check took", "unusable reference")
    )


@pytest.mark.parametrize(
    ("answer", "schema", "verdict"),
    [
        ("9" * 5000, '{"type": "number"}', None),
        ('"x"', '{"$ref": "#/nowhere"}', "unusable reference (its $ref leads nowhere"),
        ('"x"', '{"$ref": "#"}', "unusable reference (it refers to itself without end)"),
        ('"x"', '{"$dynamicRef": "#gone"}', "unusable reference (its $ref leads nowhere"),
        ('"x"', '{"properties": {"a": {"$ref": "other.json"}}}', "unusable reference (its $ref leads nowhere"),
        ('{"$ref": "far"}', '{"properties": {"$ref": {"type": "string"}}}', None),
        ('{"a": {"a": {}}}', '{"additionalProperties": {"$ref": "#"}, "type": "object"}', None),
        ("[" * 900 + "]" * 900, '{"items": {"$ref": "#"}}', "wrong answer (nested too deep)"),
        ("[" * 100_000, "{}", "wrong answer (not JSON)"),
        ("NaN", "{}", "wrong answer (not JSON)"),
        ("1", "[" * 100_000, "unusable reference ("),
        ("1", "7", "unusable reference (no JSON schema"),
        ("\ud800", "{}", "wrong answer (not JSON)"),
    ],
)
def test_every_schema_ends_in_a_verdict(answer: str, schema: str, verdict: str | None) -> None:
    reason = FitsSchema()(answer, schema, [])
    assert reason is None if verdict is None else (reason or "").startswith(verdict), reason


def test_a_schema_fetches_no_address_and_reads_no_file(tmp_path: Path) -> None:
    (tmp_path / "far.json").write_text('{"type": "string"}')
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)  # whoever came waits in its queue
        for far in (f"http://127.0.0.1:{server.getsockname()[1]}/far.json", f"file://{tmp_path}/far.json"):
            reason = FitsSchema()('"x"', json.dumps({"$ref": far}), []) or ""
            assert reason.startswith("unusable reference (its $ref leads nowhere in it"), reason
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_pattern_matches_an_accent_however_it_is_encoded() -> None:
    check = MatchesPattern()
    assert check("cafe\u0301", "café", []) is None and check("café", "cafe\u0301", []) is None
    assert check("cafe", "café", []) == "wrong answer (the pattern does not match)"


@pytest.mark.parametrize(
    ("verifier", "reference", "choices", "fault"),
    [
        ("number", "#### 72", [], None), ("number", "many", [], "no number"), ("choice", "北京", ["北京", "東京"], None),
        ("choice", "x", ["北京", "東京"], "no single choice"), ("contains", "Москва", [], None), ("contains", " ", [], "empty"),
        ("pattern", r"\d+", [], None), ("pattern", "(", [], "no regular expression"), ("pattern", "", [], "empty"),
        ("json_schema", '{"type": "object"}', [], None), ("json_schema", "{", [], "no JSON schema"),
        ("json_schema", '{"$ref": "#"}', [], "itself without end"), ("unit_tests", "assert f(1) == 2", [], None),
        ("unit_tests", "assert f(1", [], "no Python"), ("unit_tests", " ", [], "no tests"), ("unit_tests", "a\0", [], "no Python"),
        ("none", "", [], None), ("contains", "\ud83d", [], "half a character"),
    ],
)  # fmt: skip
def test_a_reference_is_checked_before_any_answer(
    verifier: str, reference: str, choices: list[str], fault: str | None
) -> None:
    reason = check_reference(verifier, reference, choices)
    assert reason is None if fault is None else fault in (reason or ""), reason


@pytest.mark.parametrize("name", ANSWER_CHECKS)
def test_a_fault_of_the_reference_is_the_verdict_on_every_answer(name: str) -> None:
    check = ANSWER_CHECKS[name]()
    for reference in ("many", "(", "", "#### 72"):
        fault, reason = (
            check.reference_fault(reference, ["red", "blue"]),
            check("an answer", reference, ["red", "blue"]),
        )
        assert (fault is not None) == (reason or "").startswith("unusable reference") or name == "unit_tests", (
            reference,
            fault,
            reason,
        )


@pytest.mark.parametrize("piece", ["\n", "```python\n", " ", "`"])
def test_a_model_that_repeats_itself_holds_up_no_reader_of_code(piece: str) -> None:
    """A fence and then 200,000 characters of one kind: time was quadratic in empty lines, 1.7 s for 20,000."""
    text = "```python\n" + piece * (200_000 // len(piece))
    start = time.process_time()
    code_of(text)
    solved(text)
    assert time.process_time() - start < 2.0
