"""A small random tagger, texts with spans that a small model can learn, and a tagger that has learned them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from attar.registry.artifacts.handles import DatasetArtifact, TaggerArtifact, TaggerGraphArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from tests.stages.artifacts.classifier.conftest import SOURCE, taught

KINDS = ["Name", "Count"]
TAGS = ("O", "B-Name", "I-Name", "B-Count", "I-Count")
# A name begins with capitals, a count with digits: the first token of a word, a byte here, tells it, and the word before it where it begins.
NAMES = ("Ada", "Bo Cruz", "Dee", "Eli Fox", "Gus", "Hal Ito")
COUNTS = ("3", "12 8", "40", "7", "95 1", "6")
FORMS = ("ask {name} for {count} of it", "{count} are what {name} has", "of {name}, not {count}")
ROWS: list[dict[str, Any]] = [
    {
        "text": form.format(name=name, count=count),
        "spans": [{"label": "Name", "text": name}, {"label": "Count", "text": count}],
    }
    for form in FORMS
    for name in NAMES
    for count in COUNTS
]
LESSON: dict[str, Any] = {"schedule": {"num_epochs": 10, "learning_rate": 4e-3, "tokens_per_step": 256}}


def ingested_spans(store: Store, path: Path, records: list[dict[str, Any]], **config: Any) -> DatasetArtifact:
    with FileLock(f"{path}.lock"):
        if not path.exists():
            path.write_text("\n".join(map(json.dumps, records)))
    columns = config.pop("columns", {"question": "text", "spans": "spans"})
    given = IngestDataConfig(source=f"jsonl:{path}", columns=columns, **config)
    return ingest_data.execute(given, NoInputs(), store).artifact


def tagger_of(store: Store, source: str = SOURCE, **options: Any) -> TaggerArtifact:
    config = IngestModelConfig(source=source, model={"kind": "tagger", **options})
    return ingest_model.execute(config, NoInputs(), store).artifact


@pytest.fixture(scope="session")
def fresh(shared_store: Store) -> TaggerArtifact:
    return tagger_of(shared_store, labels=KINDS, max_tokens=64)


@pytest.fixture(scope="session")
def spans(shared_store: Store, session_folder: Path) -> DatasetArtifact:
    path = session_folder / "names.jsonl"
    return ingested_spans(shared_store, path, ROWS, heldout_fraction=0.3, choose_fraction=0.1)


@pytest.fixture(scope="session")
def tagger(shared_store: Store, fresh: TaggerArtifact, spans: DatasetArtifact) -> Any:
    return taught(shared_store, fresh, spans, **LESSON)


@pytest.fixture(scope="session")
def tagger_graph(shared_store: Store, tagger: TaggerArtifact, spans: DatasetArtifact) -> TaggerGraphArtifact:
    inputs = ExportInputs(model=tagger, data=spans)
    return export.execute(ExportConfig(num_prompts=8), inputs, shared_store).artifact  # type: ignore[return-value]
