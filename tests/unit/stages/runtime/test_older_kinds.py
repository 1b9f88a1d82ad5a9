"""The flat spellings of a method's kind: what is one, and what is left to the checks of today's form."""

from __future__ import annotations

from typing import Any

import pytest

from attar.stages.runtime.older_fields import NOTHING, kind_of


@pytest.mark.parametrize(
    ("spelt", "now"),
    [
        ("gate", {"kind": "gate"}),
        ({"gate": {"limit": 2}}, {"kind": "gate", "limit": 2}),
        ({"kind": "gate", "gate": {"limit": 2}, "other": 1}, {"kind": "gate", "other": 1, "limit": 2}),
        ({"kind": "gate", "limit": 2}, NOTHING),
        # no name at all: a mutated recipe ended in "unhashable type" here
        ({"kind": {"gate": 1}}, NOTHING),
        ({"kind": ["gate"], "gate": {}}, NOTHING),
        ({"kind": None}, NOTHING),
        ([], NOTHING),
    ],
)
def test_a_kind_is_read_from_each_spelling_and_from_nothing_else(spelt: Any, now: Any) -> None:
    assert kind_of(spelt) == now
