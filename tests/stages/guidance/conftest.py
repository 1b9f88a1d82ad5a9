"""Fixtures of this folder."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from filelock import FileLock

from attar.registry.artifacts.handles import AdapterArtifact, DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import save_model
from attar.stages.contract import NoInputs
from attar.stages.guidance.data.stage import GuideDataInputs, guide_data
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import random_model
from tests.stages.guidance.guided import DRAW, GUIDE, STYLES, learn, question, teach


@pytest.fixture(scope="session")
def taught(shared_store: Store, session_folder: Path) -> list[ModelArtifact]:
    """A model that follows its prompt, and the same model tuned a little further; trained once, whichever worker asks first."""
    home = session_folder / "taught"
    with FileLock(f"{home}.lock"):
        if not home.exists():
            train_both(unfinished := session_folder / "taught.unfinished")
            unfinished.rename(home)
    configs = [IngestModelConfig(source=f"folder:{home / name}") for name in ("first", "second")]
    return [ingest_model.execute(config, NoInputs(), shared_store).artifact for config in configs]


def train_both(home: Path) -> None:
    model, tokenizer = random_model("llama", num_blocks=2)
    for name, seed, num_steps, learning_rate in (("first", 0, 250, 3e-3), ("second", 1, 10, 3e-4)):
        teach(model.train(), tokenizer, num_steps, seed, learning_rate)
        (home / name).mkdir(parents=True)
        save_model(model.eval(), home / name)
        tokenizer.save_pretrained(home / name)


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
