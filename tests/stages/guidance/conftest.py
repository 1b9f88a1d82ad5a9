"""Fixtures of this folder."""

from __future__ import annotations

import json
import random

import pytest

from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import save_model
from attar.stages.contract import NoInputs
from attar.stages.guidance.data.stage import GuideDataInputs, guide_data
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import random_model
from tests.stages.guidance.guided import DRAW, GUIDE, STYLES, learn, question, teach


@pytest.fixture(scope="module")
def taught(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[ModelArtifact]:
    """A model that follows its prompt, and the same model tuned a little further."""
    model, tokenizer = random_model("llama", num_blocks=2)
    models = []
    for seed, num_steps in ((0, 250), (1, 10)):
        teach(model.train(), tokenizer, num_steps, seed, 3e-3 if seed == 0 else 3e-4)
        folder = tmp_path_factory.mktemp("taught")
        save_model(model.eval(), folder)
        tokenizer.save_pretrained(folder)
        config = IngestModelConfig(source=f"folder:{folder}")
        models.append(ingest_model.execute(config, NoInputs(), shared_store).artifact)
    return models


@pytest.fixture(scope="module")
def guide_questions(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetArtifact:
    """Ninety-six questions, a quarter held out and, as before there were three parts, read by the evaluations too."""
    numbers = random.Random(0)
    rows = [{"question": question(i % STYLES, numbers.randrange(1000)), "answer": "?"} for i in range(96)]
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.25, choose_fraction=0.0)
    return ingest_data.execute(config, NoInputs(), shared_store).artifact


@pytest.fixture(scope="module")
def drawn(shared_store: Store, taught: list[ModelArtifact], guide_questions: DatasetArtifact) -> DatasetArtifact:
    return guide_data.execute(DRAW, GuideDataInputs(model=taught[0], data=guide_questions), shared_store).artifact


@pytest.fixture(scope="module")
def cross(shared_store: Store, taught: list[ModelArtifact], drawn: DatasetArtifact) -> AdapterArtifact:
    return learn(shared_store, GUIDE, taught, drawn)
