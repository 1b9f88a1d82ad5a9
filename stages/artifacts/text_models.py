"""Models that read whole texts, encoders, classifiers and taggers, as stages take them: loaded, run, and written again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attar.compressors.encode.encoder import TOKENS_PER_BATCH, EmbeddingRunner, SentenceEncoder, encoded, token_rows
from attar.compressors.encode.session import LOGITS, VECTORS, GraphEncoder
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Artifact, EncoderArtifact
from attar.registry.artifacts.subjects import CLASSIFIER, ENCODER, TAGGER, Subject
from attar.stages.artifacts.classifier.folder import load_classifier, save_classifier
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.encoder.folder import load_encoder, save_encoder
from attar.stages.artifacts.encoder.modules_file import read_form
from attar.stages.artifacts.encoder.texts import asked_texts, pair_texts, texts_of
from attar.stages.artifacts.onnx_session import open_session

# What a model that was cut or trained keeps of the facts of the one before it.
KEPT_FACTS = ("license", "num_tokens_without_row")


@dataclass(frozen=True)
class TextModels:
    """How models of a subject lie on disk. `load`: from (folder, dtype, device). `save`: to a folder, with what lies beside another's weights.

    `output`: of a graph, the rows that it gives. `texts`: what of a data set's rows they read. `rows`: of a runner and texts as token ids, what it
    makes of them, a row a text or a token.
    """

    load: Callable[[Path, torch.dtype | str, torch.device | None], Any]
    save: Callable[[Any, Path, Path], Artifact[Any]]
    output: str
    texts: Callable[[Facts, Iterable[Row]], list[Any]]
    rows: Callable[..., torch.Tensor] = encoded


def _save_encoder(encoder: SentenceEncoder, content: Path, source: Path) -> EncoderArtifact:
    form = read_form(source)
    assert form is not None, "an encoder's folder says its form"
    return save_encoder(encoder, content, form, tokenizer_from=source)


def classified_texts(facts: Facts, rows: Iterable[Row]) -> list[Any]:
    """Return what of rows a classifier reads: texts, or pairs of them."""
    return pair_texts(rows) if facts.get("reads_pairs") else asked_texts(rows)


def _every_token(
    runner: EmbeddingRunner,
    texts: Sequence[Sequence[int]],
    tokens_per_batch: int = TOKENS_PER_BATCH,
    on_batch: Callable[[int], None] = lambda count: None,
) -> torch.Tensor:
    """Return the logits of every token of texts."""
    return torch.cat(token_rows(runner, texts, tokens_per_batch, on_batch))


TEXT_MODELS: dict[Subject, TextModels] = {
    ENCODER: TextModels(load_encoder, _save_encoder, VECTORS, lambda facts, rows: texts_of(rows)),
    CLASSIFIER: TextModels(load_classifier, save_classifier, LOGITS, classified_texts),
    TAGGER: TextModels(load_classifier, save_classifier, LOGITS, classified_texts, _every_token),
}


def opened(model: Any, provider: str, dtype: torch.dtype | str, device: torch.device) -> EmbeddingRunner:
    """Return a model or its graph, ready to run: a row a text."""
    models = TEXT_MODELS[model.subject]
    if model.is_graph:
        return GraphEncoder(open_session(model.path, provider), provider, models.output)
    return models.load(model.path, dtype, device)


def kept_facts(model: Any, *more: str) -> dict[str, Any]:
    """Return the facts of a model that one made of it keeps."""
    return {name: model.facts[name] for name in (*KEPT_FACTS, *more) if name in model.facts}
