"""Facts come back from a manifest with the types of their kind, whichever version wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.registry.artifacts.facts import Fact, fact_text, is_fact, read_facts, several
from attar.registry.artifacts.handles import ModelArtifact
from attar.registry.artifacts.store import Slot, Store


@pytest.mark.parametrize(
    ("kind", "stored", "read"),
    [
        ("model", {"removed_blocks": [1, 2], "num_blocks": 4}, {"removed_blocks": (1, 2), "num_blocks": 4}),
        ("model", {"removed_blocks": "1,12"}, {"removed_blocks": (1, 12)}),
        ("model", {"removed_blocks": ""}, {"removed_blocks": ()}),
        ("scan", {"metrics": "a,b", "sizes": "1,2"}, {"metrics": ("a", "b"), "sizes": (1, 2)}),
        ("scan", {"metrics": ["a"], "sizes": []}, {"metrics": ("a",), "sizes": ()}),
        ("adapter", {"chosen_on": "choose+heldout"}, {"chosen_on": ("choose", "heldout")}),
        ("dataset", {"name": "a,b"}, {"name": "a,b"}),
        ("release", {"name": "a,b", "version": 3}, {"name": "a,b", "version": 3}),
    ],
)
def test_facts_are_read_with_their_types(kind: str, stored: dict, read: dict[str, Fact]) -> None:
    assert read_facts(kind, stored) == read
    assert read_facts(kind, json.loads(json.dumps(read))) == read, "and written and read again"


def test_a_fact_is_plain_or_several_plain_ones() -> None:
    assert all(map(is_fact, (1, 0.5, "a", True, [1, 2], ["a"], (1, 2))))
    assert not any(map(is_fact, ({}, None, [[1]], [None])))
    assert (fact_text((1, 2)), fact_text(()), fact_text(3)) == ("1,2", "", "3")
    assert several({"removed_blocks": (3, 4)}, "removed_blocks") == (3, 4) and several({}, "removed_blocks") == ()


def test_an_artifact_has_the_same_facts_after_the_store(tmp_path: Path) -> None:
    def build(workdir: Path) -> ModelArtifact:
        (workdir / "content").mkdir(exist_ok=True)
        (workdir / "content" / "file").write_text("x")
        return ModelArtifact.at(workdir / "content", num_blocks=2, removed_blocks=(1, 3))

    store = Store(tmp_path)
    slot = Slot(stage="prune", version=1, config={}, inputs={}, expected_bytes=0)
    made = store.get_or_build(slot, ModelArtifact, "a" * 64, build).artifact
    assert made.facts == store.load("prune", "a" * 64).facts == {"num_blocks": 2, "removed_blocks": (1, 3)}
