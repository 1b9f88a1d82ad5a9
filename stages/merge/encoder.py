"""Put trained weights into a model that reads whole texts: one model, proved by what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attar.registry.artifacts.facts import several
from attar.registry.artifacts.handles import AdapterArtifact, AnyModel, ModelArtifact
from attar.stages.artifacts.encoder.elastic import space_facts, space_of
from attar.stages.artifacts.encoder.proof import probe_vectors, prove_encoder
from attar.stages.artifacts.text_models import TEXT_MODELS, kept_facts
from attar.stages.merge.whole_weights import fold_weights, trained_on_base
from attar.stages.runtime.device import pick_device


def fold_encoder(base: AnyModel, students: Sequence[AdapterArtifact | ModelArtifact], content: Path) -> Any:
    """Write the base with a student's trained weights. Raises ValueError for weights of another base, and when the proof fails."""
    weights = trained_on_base(base, students)
    device, models = pick_device(), TEXT_MODELS[base.subject]
    encoder = models.load(base.path, "auto", device)
    expected = fold_weights(
        encoder.model,
        weights,
        students[0].path,
        partial(probe_vectors, encoder, "merge"),
        figure="fold_max_vector_change",
        what="a number of its rows",
    )
    artifact = models.save(encoder, content, base.path)
    del encoder
    prove_encoder(content, expected, "merge", device, models.load)
    exits = several(students[0].facts, "exits")
    learned = {"exits": exits} if exits else space_facts(space_of(students[0].facts))
    return type(base).at(content, artifact.facts | kept_facts(base, "removed_blocks") | learned)
