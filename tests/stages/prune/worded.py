"""A tiny model whose tokenizer has words, rows in its language, and both with a cut vocabulary: what trimming is tested on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.prune.vocabulary.config import TrimVocabularyConfig, TrimVocabularyInputs
from attar.stages.prune.vocabulary.stage import trim_vocabulary
from tests.trained_tokenizers import byte_level, worded_model

# A template that writes words of its own, as SmolLM2's and Llama 3's do.
ENGLISH = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def ingested(store: Store, folder: Path, tokenizer: Any = None, **options: Any) -> ModelArtifact:
    """Ingest a random model for a tokenizer, by default one of 480 byte-level tokens."""
    tokenizer = tokenizer or byte_level()
    worded_model(tokenizer, **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ingest_model.execute(IngestModelConfig(source=f"folder:{folder}"), NoInputs(), store).artifact


def rows_of(store: Store, path: Path, rows: list[dict[str, Any]], **options: Any) -> DatasetArtifact:
    """Ingest rows from a file of their own."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = IngestDataConfig(source=f"jsonl:{path}", **{"heldout_fraction": 0.0, **options})
    return ingest_data.execute(config, NoInputs(), store).artifact


def sums(store: Store, path: Path) -> DatasetArtifact:
    """Ingest questions of which a quarter is held out."""
    pairs = [(number, number * 2) for number in range(3, 27)]
    rows = [{"question": f"What is {a} plus {b}?", "answer": f"The sum of {a} and {b} is {a + b}."} for a, b in pairs]
    return rows_of(store, path, rows, heldout_fraction=0.25)


def trimmed(store: Store, model: ModelArtifact, *data: DatasetArtifact, **config: Any) -> ModelArtifact:
    """Trim a model's vocabulary to some data."""
    inputs = TrimVocabularyInputs(model=model, data=data)
    return trim_vocabulary.execute(TrimVocabularyConfig(**config), inputs, store).artifact
