"""What a model is asked when it writes tasks, and what counts as a response with tests."""

from __future__ import annotations

import pytest

from attar.compressors.data.code_tasks import SHOTS, concepts_prompt, instruction_prompt, property_of, solved


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("```python\ndef f(): return 1\n```\nTests:\n```python\nassert f() == 1\n```", "def f(): return 1\n"),
        ("```python\ndef f(): return 1\n```", None),
        ("```python\ndef f(): return 1\n```\n```python\nprint(f())\n```", None),
        ("```python\n\n```\n```python\nassert True\n```", None),
        ("def f(): return 1\nassert f() == 1", None),
    ],
)
def test_a_response_needs_two_blocks_and_an_assertion(response: str, expected: str | None) -> None:
    parts = solved(response)
    assert (parts.solution if parts else None) == expected


def test_kinds_come_in_turn_and_shots_before_what_is_asked() -> None:
    kinds = [property_of(3, number) for number in range(24)]
    assert len(set(kinds[:12])) == 12 and kinds[:12] == kinds[12:] and kinds != [property_of(4, n) for n in range(24)]
    prompt = concepts_prompt("x = {answer}", SHOTS[:2])
    assert prompt.endswith("x = {answer}\nConcepts:") and prompt.count("Concepts:") == 3
    assert instruction_prompt("lists", "a class", "hard", []).endswith("Kind: a class, hard\nTask:")
