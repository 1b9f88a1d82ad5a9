"""What the tests of ingest and licences and ingest rows share."""

from __future__ import annotations

from attar.registry.artifacts.handles import ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model


def ingest(store: Store, source: str, **options) -> ModelArtifact:
    return ingest_model.execute(IngestModelConfig(source=source, **options), NoInputs(), store).artifact
