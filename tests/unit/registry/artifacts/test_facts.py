"""Facts come back from a manifest with the types of their kind, whichever version wrote them."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from attar.registry.artifacts.facts import Fact, UnknownFactError, fact_text, is_fact, several
from attar.registry.artifacts.handles import KINDS, EvaluationArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.kinds.kind_facts import EvaluationFacts, ModelFacts
from attar.registry.artifacts.store import Slot, Store


def read_facts(kind: str, stored: Mapping[str, Fact]) -> Mapping[str, Fact]:
    """Return the facts of a manifest as its kind's handle reads them."""
    return KINDS[kind](Path(), stored).facts  # type: ignore[arg-type]


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


def test_facts_are_read_by_attribute_and_by_name() -> None:
    facts = ModelArtifact.at(Path(), ModelFacts(num_blocks=4, removed_blocks=(1, 3), license="mit"), colour="red").facts
    assert (facts.num_blocks, facts.removed_blocks, facts.license) == (4, (1, 3), "mit")
    assert dict(facts) == {"num_blocks": 4, "license": "mit", "removed_blocks": (1, 3), "colour": "red"}
    assert "dtype" not in facts and facts.get("dtype") is None and len(facts) == 4
    with pytest.raises(KeyError, match="dtype"):
        facts["dtype"]
    assert repr(facts) == "ModelFacts(num_blocks=4, license='mit', removed_blocks=(1, 3), colour='red')"


def test_a_fact_that_is_not_known_is_told_in_a_line_where_all_of_its_kind_have_it() -> None:
    """A manifest of a version that knew less: what it lacks is refused by name, or is nothing where some lack it."""
    facts = ModelArtifact.at(Path(), {"hidden_size": 64}).facts
    message = "^the model's record does not say num_blocks: an earlier version made it; make it anew$"
    with pytest.raises(UnknownFactError, match=message):
        _ = facts.num_blocks
    assert facts.removed_blocks == () and "removed_blocks" not in facts
    assert facts.license is None and "license" not in facts


def test_facts_of_another_version_and_names_made_at_work_are_kept() -> None:
    """Nothing that a manifest says is lost on its way through a handle."""
    stored = {"format": "onnx", "accuracy_arc": 0.5, "shades": [1, 2], "num_questions": 9}
    facts = EvaluationArtifact(Path(), stored).facts  # type: ignore[arg-type]
    assert facts.format == "onnx" and facts.others == {"accuracy_arc": 0.5, "shades": (1, 2), "num_questions": 9}
    assert facts == {**stored, "shades": (1, 2)}
    assert EvaluationFacts.of(facts) == facts


def test_facts_are_frozen_and_changed_by_a_copy() -> None:
    facts = ModelFacts(num_blocks=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        facts.num_blocks = 5  # type: ignore[misc]
    changed = facts | {"removed_blocks": [0], "num_blocks": 3}
    assert (changed.num_blocks, changed.removed_blocks) == (3, (0,)) and facts == {"num_blocks": 4}


def test_facts_are_the_same_in_another_process() -> None:
    """What is not known stays so: a copy that is sent to a worker has no other facts."""
    facts = ModelFacts(num_blocks=4, others={"colour": "red"})
    again = pickle.loads(pickle.dumps(facts))
    assert again == facts and "num_parameters" not in again and again.removed_blocks == ()


def test_a_graph_takes_what_it_shares_with_its_model() -> None:
    facts = OnnxArtifact.at(Path(), {"num_blocks": 4, "format": "onnx"}, token_agreement=1.0).facts
    assert (facts.num_blocks, facts.format, facts.token_agreement, facts.quantization) == (4, "onnx", 1.0, None)


# Folders in a runtime's own form, of which the same is known.
SHARED_FACTS = {
    **dict.fromkeys(("openvino", "ctranslate2"), "RuntimeFormFacts"),
    "tagger": "ClassifierFacts",
    "tagger_onnx": "ClassifierGraphFacts",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_declares_its_facts(kind: str) -> None:
    """With no fact known, nothing counts by name, and each field's default says what reading it does."""
    facts = KINDS[kind](Path()).facts
    own = SHARED_FACTS.get(kind, f"{KINDS[kind].__name__.removesuffix('Artifact')}Facts")
    assert len(facts) == 0 and type(facts).__name__ == own
