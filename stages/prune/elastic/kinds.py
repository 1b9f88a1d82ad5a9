"""How encoders and image classifiers are read, run and written where sub-networks of them are compared and taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from attar.compressors.distill.losses.divergences.kullback import kl
from attar.compressors.distill.losses.embeddings.taught import SimilarityRows
from attar.compressors.distill.losses.embeddings.views import EmbeddingViews
from attar.compressors.encode.encoder import SentenceEncoder, encoded
from attar.compressors.images.classifier import ImageClassifier
from attar.registry.artifacts.handles import AnyData, AnyModel
from attar.registry.artifacts.kinds.classifier_facts import ImageClassifierFacts
from attar.registry.artifacts.subjects import ENCODER, IMAGES, Subject
from attar.stages.artifacts.dataset.partition import choosing_part, shared_rows_note
from attar.stages.artifacts.dataset.rows import read_rows, split_rows
from attar.stages.artifacts.encoder import proof as encoder_proof
from attar.stages.artifacts.encoder.texts import TextReader, texts_of
from attar.stages.artifacts.images import proof as image_proof
from attar.stages.artifacts.images.dataset import ImageBytes, part_rows, read_image_rows
from attar.stages.artifacts.images.folder import load_classifier, save_classifier
from attar.stages.artifacts.images.pixels import PixelReader
from attar.stages.artifacts.text_models import TEXT_MODELS
from attar.stages.runtime.progress import note

IMAGES_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class ElasticKind:
    """What an extraction asks of a subject.

    `wrap`: a model under what the whole has around its own. `read`: examples that choices are made on, as a model reads them; `outputs`: what it
    makes of them, a row each; `distance`: of two models' rows, in nats. `probe`, `check` and `prove` as every cut is proved.
    """

    load: Callable[[Path, torch.device], Any]
    wrap: Callable[[Any, Any], Any]
    read: Callable[[AnyModel, Sequence[AnyData], int, int], list[Any]]
    outputs: Callable[[Any, Sequence[Any]], Tensor]
    distance: Callable[[Tensor, Tensor], float]
    probe: Callable[[Any, AnyModel], Tensor]
    check: Callable[[Any, Tensor, AnyModel], None]
    save: Callable[[Any, Path, Path], Any]
    prove: Callable[[Path, Tensor, AnyModel, torch.device], None]


def similarity_distance(vectors: Tensor, target: Tensor) -> float:
    """Return the mean KL of each text's similarities to the others from the teacher's, in nats; widths may differ."""
    return float(SimilarityRows().terms(EmbeddingViews(vectors, target)).values.mean())


def class_distance(logits: Tensor, target: Tensor) -> float:
    """Return the mean KL of each image's classes from the teacher's, in nats."""
    return float(kl(target.log_softmax(dim=-1), logits.log_softmax(dim=-1)).mean())


def _image_facts(model: AnyModel) -> ImageClassifierFacts:
    return cast("ImageClassifierFacts", model.facts)


def _texts(model: AnyModel, data: Sequence[Any], num_samples: int, max_tokens: int) -> list[Any]:
    rows = []
    for number, dataset in enumerate(data, start=1):
        every = read_rows(dataset.path / "rows.jsonl")
        part = choosing_part(every)
        if part == "heldout":
            note(shared_rows_note(dataset.facts.name or f"data {number}", "choose a sub-network"))
        rows += split_rows(every, part)
    texts = texts_of(rows)[:num_samples]
    return TextReader.of(model, max_tokens)(texts) if texts else []


def _images(model: Any, data: Sequence[Any], num_samples: int, max_tokens: int) -> list[Any]:
    reader, images = PixelReader(model.path, model.facts.num_channels), []
    for dataset in data:
        stored = ImageBytes(dataset)
        rows = [row for row in part_rows(read_image_rows(dataset.path), "choose") if row.split != "train"]
        images += [reader.stored(dataset, row, stored) for row in rows]
    return [image() for image in images[:num_samples]]


@torch.inference_mode()
def _logits(classifier: Any, images: Sequence[Tensor]) -> Tensor:
    parts = [
        torch.stack(list(images[start : start + IMAGES_AT_ONCE])) for start in range(0, len(images), IMAGES_AT_ONCE)
    ]
    return torch.cat([classifier(pixels).float().cpu() for pixels in parts])


_TEXTS = TEXT_MODELS[ENCODER]
KINDS: dict[Subject, ElasticKind] = {
    ENCODER: ElasticKind(
        load=lambda folder, device: _TEXTS.load(folder, "auto", device),
        wrap=lambda model, whole: SentenceEncoder(model, whole.pooling),
        read=_texts,
        outputs=encoded,
        distance=similarity_distance,
        probe=lambda encoder, model: encoder_proof.probe_vectors(encoder, "prune"),
        check=lambda encoder, expected, model: encoder_proof.check_kept(encoder, expected, "prune"),
        save=_TEXTS.save,
        prove=lambda folder, expected, model, device: encoder_proof.prove_encoder(folder, expected, "prune", device),
    ),
    IMAGES: ElasticKind(
        load=lambda folder, device: load_classifier(folder, "auto", device),
        wrap=lambda model, whole: ImageClassifier(model),
        read=_images,
        outputs=_logits,
        distance=class_distance,
        probe=lambda classifier, model: image_proof.probe_logits(classifier, _image_facts(model), "prune"),
        check=lambda classifier, expected, model: image_proof.check_kept(
            expected, classifier, _image_facts(model), "prune"
        ),
        save=save_classifier,
        prove=lambda folder, expected, model, device: image_proof.prove_classifier(
            folder, expected, _image_facts(model), "prune", device
        ),
    ),
}
