"""A small random encoder in the form of sentence-transformers, and data for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from attar.registry.artifacts.handles import DatasetArtifact, EncoderArtifact, EncoderGraphArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model

NAMES = (
    "sugar",
    "river",
    "garden",
    "engine",
    "winter",
    "letter",
    "bridge",
    "candle",
    "market",
    "forest",
    "island",
    "violin",
)
PAIRS = [
    {"a": f"the {first} is near", "b": f"a {second} stands near", "score": float((i * 7) % 5)}
    for i, (first, second) in enumerate(zip(NAMES, NAMES[1:] + NAMES[:1], strict=True))
]
CODE = [
    {"question": f"read the {name} of a file", "answer": f"def {name}(path): return open(path).{name}"}
    for name in NAMES
]


def ingested(store: Store, path: Path, records: list[dict[str, Any]], **config: Any) -> DatasetArtifact:
    with FileLock(f"{path}.lock"):
        if not path.exists():
            path.write_text("\n".join(map(json.dumps, records)))
    return ingest_data.execute(IngestDataConfig(source=f"jsonl:{path}", **config), NoInputs(), store).artifact


def encoder_of(store: Store, source: str, **options: Any) -> EncoderArtifact:
    config = IngestModelConfig(source=source, model={"kind": "encoder", **options})
    return ingest_model.execute(config, NoInputs(), store).artifact


@pytest.fixture(scope="session")
def encoder(shared_store: Store) -> EncoderArtifact:
    return encoder_of(shared_store, "random:bert?num_blocks=4&hidden_size=64", is_normalized=True, max_tokens=128)


@pytest.fixture(scope="session")
def pairs(shared_store: Store, session_folder: Path) -> DatasetArtifact:
    columns = {"question": "a", "answer": "b", "similarity": "score"}
    return ingested(shared_store, session_folder / "pairs.jsonl", PAIRS, columns=columns, heldout_fraction=0.0)


@pytest.fixture(scope="session")
def code(shared_store: Store, session_folder: Path) -> DatasetArtifact:
    return ingested(shared_store, session_folder / "code.jsonl", CODE, heldout_fraction=0.25, choose_fraction=0.25)


@pytest.fixture(scope="session")
def encoder_graph(shared_store: Store, encoder: EncoderArtifact, code: DatasetArtifact) -> EncoderGraphArtifact:
    from attar.stages.export.stage import ExportConfig, ExportInputs, export

    return export.execute(ExportConfig(num_prompts=8), ExportInputs(model=encoder, data=code), shared_store).artifact
