"""A small random classifier, data with classes that a small model can learn, and a classifier that has learned them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from attar.registry.artifacts.handles import ClassifierArtifact, ClassifierGraphArtifact, DatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge

LABELS = ["fruit", "tool"]
WORDS = {
    "fruit": ("apple", "plum", "grape", "melon", "peach", "lemon", "mango", "olive"),
    "tool": ("saw", "drill", "wrench", "pliers", "chisel", "rasp", "vice", "awl"),
}
FORMS = {"fruit": ("ripe {}", "peel the {}", "eat one {}"), "tool": ("sharp {}", "hold the {}", "use one {}")}
ROWS = [
    {"text": form.format(word), "label": label}
    for label, words in WORDS.items()
    for word in words
    for form in FORMS[label]
]
SOURCE = "random:bert?num_blocks=3&hidden_size=32"
LEARNED: dict[str, Any] = {
    "adapt": {"kind": "full"},
    "objectives": {"labels": 1.0},
    "schedule": {"num_epochs": 12, "learning_rate": 3e-3, "tokens_per_step": 128},
    "compute": {"tokens_per_micro_batch": 512, "precision": "float32"},
    "heldout": {"every": 12},
}


def ingested(store: Store, path: Path, records: list[dict[str, Any]], **config: Any) -> DatasetArtifact:
    with FileLock(f"{path}.lock"):
        if not path.exists():
            path.write_text("\n".join(map(json.dumps, records)))
    columns = {"question": "text", "answer": "label"}
    return ingest_data.execute(
        IngestDataConfig(source=f"jsonl:{path}", columns=columns, **config), NoInputs(), store
    ).artifact


def classifier_of(store: Store, source: str = SOURCE, **options: Any) -> ClassifierArtifact:
    config = IngestModelConfig(source=source, model={"kind": "classifier", **options})
    return ingest_model.execute(config, NoInputs(), store).artifact


def taught(store: Store, model: Any, data: DatasetArtifact, by: Any = None, **changes: Any) -> ClassifierArtifact:
    config = FinetuneConfig(**{**LEARNED, **changes})
    inputs = FinetuneInputs(model=model, data=(data,), teacher=by)
    student = finetune.execute(config, inputs, store).artifact
    return merge.execute(MergeConfig(), MergeInputs(base=model, students=(student,)), store).artifact


@pytest.fixture(scope="session")
def fresh(shared_store: Store) -> ClassifierArtifact:
    return classifier_of(shared_store, labels=LABELS, max_tokens=64)


@pytest.fixture(scope="session")
def labelled(shared_store: Store, session_folder: Path) -> DatasetArtifact:
    return ingested(shared_store, session_folder / "goods.jsonl", ROWS, heldout_fraction=0.3, choose_fraction=0.1)


@pytest.fixture(scope="session")
def classifier(shared_store: Store, fresh: ClassifierArtifact, labelled: DatasetArtifact) -> ClassifierArtifact:
    return taught(shared_store, fresh, labelled)


@pytest.fixture(scope="session")
def classifier_graph(
    shared_store: Store, classifier: ClassifierArtifact, labelled: DatasetArtifact
) -> ClassifierGraphArtifact:
    inputs = ExportInputs(model=classifier, data=labelled)
    return export.execute(ExportConfig(num_prompts=8), inputs, shared_store).artifact
