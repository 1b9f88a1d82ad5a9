"""Code that is run against tests: only what passes them passes, and nothing takes more than it may."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attar.compressors.catalogue import build
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.runtime.sandbox import PassesTests, run_tests
from attar.stages.runtime.watched_process import Limits

TESTS = "assert double(2) == 4\nassert double(-1) == -2"
QUICK = Limits(wall_seconds=20.0, cpu_seconds=2)


def verdict(answer: str, limits: Limits = QUICK) -> str | None:
    return run_tests(answer, TESTS, limits)


def test_a_right_answer_passes_bare_and_fenced() -> None:
    right = "def double(x):\n    return 2 * x"
    assert verdict(right) is None
    check = PassesTests(limits=QUICK)
    assert check(f"Here it is:\n```python\n{right}\n```\nDone.", TESTS, []) is None
    assert "NameError" in (check("I cannot say.\n```python\n```", TESTS, []) or "")
    assert check(right, " ", []) == "unusable reference (no tests)"


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("def double(x):\n    return x", "AssertionError"),
        ("import sys\nsys.exit(0)", "left before the last test"),
        ("import os\nos._exit(0)", "left before the last test"),
        ("def double(x):\n    raise SystemExit(0)", "left before the last test"),
        ("import atexit, os\natexit.register(os._exit, 0)\ndef double(x):\n    return x", "left before the last test"),
        ("print('passed' * 3)\nraise SystemExit", "left before the last test"),
        ("import os\nos.write(1, b'ok')\nos.kill(os.getpid(), 9)", "SIGKILL"),
        ("def double(x:\n", "SyntaxError"),
        ("x = bytearray(4 << 30)", "MemoryError"),
        ("open('big', 'wb').write(bytes(8 << 20))", "File too large"),
        ("import builtins\nbuiltins.exec = lambda *a: None\nimport sys\nsys.exit()", "left before the last test"),
    ],
)
def test_what_does_not_pass_is_said(answer: str, complaint: str) -> None:
    objection = verdict(answer)
    assert objection is not None and objection.startswith("wrong answer (") and complaint in objection, objection


def test_a_loop_ends_at_its_cpu_time_and_a_wait_at_its_wall_time() -> None:
    assert "SIG" in (verdict("while True: pass", Limits(wall_seconds=60.0, cpu_seconds=1)) or "")
    waits = "import threading\nthreading.Event().wait()"
    assert verdict(waits, Limits(wall_seconds=1.5)) == "wrong answer (more than 1.5 seconds)"


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    verdict("open('left', 'w').write('x')\nimport time")
    assert not list(tmp_path.iterdir())


def test_the_environment_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    assert run_tests("import os", "assert 'MY_KEY' not in os.environ", QUICK) is None
    assert sys.executable


def test_pattern_must_match_the_whole_answer() -> None:
    check = build(ANSWER_CHECKS, "pattern")
    assert check(" 2024-01-31\n", r"\d{4}-\d{2}-\d{2}", []) is None
    assert check("on 2024-01-31", r"\d{4}-\d{2}-\d{2}", []) == "wrong answer (the pattern does not match)"
    assert (check("x", "(", []) or "").startswith("unusable reference (no regular expression")


def test_schema_must_fit() -> None:
    check = build(ANSWER_CHECKS, "json_schema")
    schema = '{"type": "object", "required": ["age"], "properties": {"age": {"type": "integer", "minimum": 0}}}'
    assert check('{"age": 3}', schema, []) is None
    assert check('Sure:\n```json\n{"age": 3}\n```', schema, []) is None
    assert check('{"age": -3}', schema, []) == "wrong answer (-3 is less than the minimum of 0)"
    assert check("age: 3", schema, []) == "wrong answer (not JSON)"
    assert (check("{}", '{"type": 7}', []) or "").startswith("unusable reference (no JSON schema")
    assert check.value('{"b": 1, "a": 2}', []) == check.value('{"a":2,"b":1}', [])
