"""Fixtures of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from tests.stages.self_data.rewritten import all_verified_by_nothing


@pytest.fixture
def open_questions(questions: DatasetArtifact, tmp_path: Path) -> DatasetArtifact:
    return all_verified_by_nothing(questions, tmp_path / "open")


@pytest.fixture
def quick_to_stop(model: ModelArtifact, shared_store: Store, tmp_path: Path) -> ModelArtifact:
    """The random model with every second token it likes as a stop token: its answers end by themselves."""
    from transformers import GenerationConfig

    folder = tmp_path / "stopper"
    shutil.copytree(model.path, folder)
    GenerationConfig(eos_token_id=[2, *range(100, 259)]).save_pretrained(folder)
    return ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), shared_store).artifact
