"""The search for blocks through the stages: a scan that prune takes, resumed to the same gates, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.compressors.images.search import Search
from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.runtime.progress import hearing, listen
from attar.stages.scan.search_blocks import SearchBlocksConfig, SearchBlocksInputs, search_blocks
from attar.stages.scan.tables import TABLE, read_scores
from tests.stages.artifacts.images.conftest import classifier_of, ingested

SHORT: dict[str, Any] = {
    "num_steps": 4,
    "batch_size": 8,
    "checkpoint_every": 2,
    "voting": {"every": 1, "num_teachers": 2},
}


def metrics_of(path: Path) -> dict[str, list[float]]:
    curves: dict[str, list[float]] = {}
    for entry in map(json.loads, (path / "records" / "metrics.jsonl").read_text().splitlines()):
        curves.setdefault(entry["name"], []).append(entry["value"])
    return curves


def test_a_search_is_a_scan_that_prune_takes(
    shared_store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    inputs = SearchBlocksInputs(model=classifier, data=images)
    scan = search_blocks.execute(SearchBlocksConfig(**SHORT), inputs, shared_store).artifact
    scores = read_scores(scan.path / TABLE, "architecture")
    single = {first: score for (first, size), score in scores.items() if size == 1}
    can_go = {index for index, score in single.items() if score < float("inf")}
    assert can_go and can_go <= {*classifier.facts.removable_blocks}
    curves = metrics_of(scan.path)
    assert len(curves["voting_nats"]) == SHORT["num_steps"] and curves["voting_nats"][-1] > 0
    [gap] = curves["discretization_gap"]
    assert gap == pytest.approx(curves["supernet_accuracy"][0] - curves["discretized_accuracy"][0])
    config = PruneConfig(num_blocks=1, choice="free", metric="architecture")
    cut = prune.execute(config, PruneInputs(model=classifier, scan=scan), shared_store).artifact
    assert list(cut.facts.removed_blocks) == [min(can_go, key=lambda index: single[index])]


def test_a_search_that_stops_goes_on_to_the_same_gates(
    store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, config = SearchBlocksInputs(model=classifier, data=images), SearchBlocksConfig(**SHORT)
    expected = (search_blocks.execute(config, inputs, store).artifact.path / TABLE).read_bytes()
    advance = Search.advance

    def stopped(search: Search, *images: Any) -> dict[str, float]:
        if search.step == 3:
            raise KeyboardInterrupt
        return advance(search, *images)

    monkeypatch.setattr(Search, "advance", stopped)
    with pytest.raises(KeyboardInterrupt):
        search_blocks.execute(config, inputs, store, is_forced=True)
    monkeypatch.setattr(Search, "advance", advance)
    notes: list[str] = []
    with listen(hearing(note=lambda note: notes.append(note.text))):
        again = search_blocks.execute(config, inputs, store, is_forced=True).artifact
    assert (again.path / TABLE).read_bytes() == expected and "continuing at step 2 of 4" in notes


@pytest.mark.parametrize(
    ("config", "model", "data", "line"),
    [
        ({"num_removed": 3}, {"removable_blocks": (1, 3)}, {}, "num_removed is 3, but 2 blocks of the model can go"),
        ({}, {}, {"num_classes": 0}, "quarters has no classes to search by; accepted: images with labels"),
        ({}, {"num_channels": 3}, {}, "quarters has images of 1 channels, but the model reads 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(config: Any, model: Any, data: Any, line: str) -> None:
    facts = {"image_size": (16, 16), "num_channels": 1, "num_classes": 4}
    given = {"model": ({**facts, **model},), "data": ({**facts, "name": "quarters", **data},)}
    with pytest.raises(ValueError, match=line):
        search_blocks.forecast(SearchBlocksConfig(**{**SHORT, **config}), given)


def test_votes_that_come_too_late_are_refused() -> None:
    with pytest.raises(ValueError, match=r"voting.every is 10, but num_steps is 4, so that nobody ever votes"):
        SearchBlocksConfig(num_steps=4)
    assert SearchBlocksConfig(num_steps=4, voting={"weight": 0.0}).num_steps == 4


def test_data_without_images_to_choose_on_is_refused(
    store: Store, classifier: ImageClassifierArtifact, images: ImageDatasetArtifact
) -> None:
    alone = ingested(store, images.facts.source, heldout_fraction=0.0, choose_fraction=0.0)
    with pytest.raises(ValueError, match="has 96 training images and 0 for choices; accepted: some of both"):
        search_blocks.execute(SearchBlocksConfig(**SHORT), SearchBlocksInputs(model=classifier, data=alone), store)


def test_more_blocks_than_can_go_together_are_refused_before_the_search(
    store: Store, images: ImageDatasetArtifact
) -> None:
    """Each block of a transformer can go, but not all of them."""
    net = classifier_of(store, "random:vit?num_blocks=3&hidden_size=32&image_size=16&num_channels=1&num_classes=4")
    config = SearchBlocksConfig(**{**SHORT, "num_removed": 3})
    with pytest.raises(ValueError, match="num_removed is 3, but 2 blocks can go together; accepted: up to as many"):
        search_blocks.execute(config, SearchBlocksInputs(model=net, data=images), store)
    assert not list((store.root / "work").glob("*/search*")), "nothing was searched"
