"""Fixtures of this folder."""

from __future__ import annotations

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.label.record import RecordConfig, RecordInputs, record
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from tests.stages.finetune.recovered import PROSE


@pytest.fixture(scope="module")
def pruned(shared_store: Store, model: ModelArtifact) -> ModelArtifact:
    return prune.execute(PruneConfig(blocks=[2]), PruneInputs(model=model), shared_store).artifact


@pytest.fixture(scope="module")
def prose(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetArtifact:
    path = tmp_path_factory.mktemp("prose") / "prose.txt"
    path.write_text(PROSE)
    return ingest_data.execute(IngestDataConfig(source=f"text:{path}"), NoInputs(), shared_store).artifact


@pytest.fixture(scope="module")
def mixed(prose: DatasetArtifact, questions: DatasetArtifact) -> tuple[DatasetArtifact, ...]:
    return prose, questions


@pytest.fixture(scope="module")
def recorded(shared_store: Store, model: ModelArtifact, prose: DatasetArtifact) -> DatasetArtifact:
    config = RecordConfig(num_recorded=259, max_tokens=64, rows_per_shard=8, precision="float32")
    return record.execute(config, RecordInputs(model=model, data=prose), shared_store).artifact
