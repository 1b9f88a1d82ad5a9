"""What a release says by its subject. What its gate may ask, which libraries read it, and what its card calls it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attar.registry.artifacts.subjects import CAUSAL, CLASSIFIER, DENOISER, ENCODER, IMAGES, TAGGER, Subject
from attar.registry.release.gate import (
    CLASSIFIER_METRICS,
    DENOISER_METRICS,
    ENCODER_METRICS,
    IMAGE_METRICS,
    TAGGER_METRICS,
    THRESHOLDS,
)
from attar.registry.release.measures import MEASURES
from attar.stages.artifacts.classifier.folder import load_classifier
from attar.stages.artifacts.denoiser.folder import load_denoiser
from attar.stages.artifacts.encoder.folder import load_encoder
from attar.stages.artifacts.images.folder import load_classifier as load_image_classifier
from attar.stages.artifacts.images.pixels import load_processor
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.model.older_form import readers_of
from attar.stages.register.config import IntervalGate, Thresholds

# Thresholds on what every model has.
SHARED_THRESHOLDS = {"max_size_ratio"}


def _thresholds(metrics: Collection[str]) -> set[str]:
    """Return the thresholds on figures of these names, with those on what every model has."""
    return SHARED_THRESHOLDS | {name for name, (metric, _) in THRESHOLDS.items() if metric in metrics}


# Those that no causal model is measured by.
OTHERS = (
    _thresholds({*ENCODER_METRICS, *CLASSIFIER_METRICS, *TAGGER_METRICS, *IMAGE_METRICS, *DENOISER_METRICS})
    - SHARED_THRESHOLDS
    - {"min_accuracy_retention"}
)
# Checks on intervals of models that tell classes.
CLASS_CHECKS = ("accuracy_drop", "accuracy_retention", "bytes_ratio", "parameters_ratio")
# Checks on intervals of what denoisers alone are measured by.
DENOISER_CHECKS = ("frechet_ratio", "recall_retention", "forwards_ratio")


@dataclass(frozen=True)
class Wording:
    """What a release of a subject is called, and what reads it. `library` and `hub_task` are words of model hubs, `task` is MLflow's."""

    noun: str
    blocks: str
    folder: str
    library: str
    hub_task: str
    task: str
    # what a form is and what runs it
    forms: Mapping[str, str]
    # what no evaluation looks at
    unmeasured: str = "Other languages, long contexts and safety behaviour"


@dataclass(frozen=True)
class Releases:
    """How models of a subject are released. `checks`: those on intervals that their evaluations hold what is needed for."""

    wording: Wording
    thresholds: set[str]
    checks: tuple[str, ...]
    load: Callable[[Path], Any] = field(repr=False)
    # what turns texts or images into what the model reads, by transformers' word for it; empty: the model reads neither
    reader: str = "tokenizer"
    load_reader: Callable[[Path], Any] = field(default=load_tokenizer, repr=False)
    # which versions of which library read the folder
    readers: Callable[[Path], str] = field(default=readers_of, repr=False)

    def components(self, folder: Path) -> dict[str, Any]:
        """Return what MLflow's flavor of transformers writes of a model; nothing of one that transformers does not read.

        Raises ValueError for a folder that is not whole.
        """
        model = self.load(folder)
        return {"model": model, self.reader: self.load_reader(folder)} if self.reader else {}


RELEASES: dict[Subject, Releases] = {
    CAUSAL: Releases(
        Wording(
            noun="causal language model",
            blocks="decoder blocks",
            folder="Hugging Face folder",
            library="transformers",
            hub_task="text-generation",
            task="text-generation",
            forms={
                "onnx": "ONNX graph with a KV cache: onnxruntime, tokenizers",
                "gguf": "GGUF file with its Modelfile: llama.cpp, Ollama, LM Studio, OpenVINO GenAI",
                "openvino": "OpenVINO folder with the cache inside: OpenVINO GenAI, optimum-intel",
                "ctranslate2": "CTranslate2 folder: ctranslate2, tokenizers",
            },
        ),
        thresholds=set(THRESHOLDS) - OTHERS,
        checks=tuple(name for name in MEASURES if name not in DENOISER_CHECKS),
        load=lambda folder: load_model(folder, "auto"),
    ),
    ENCODER: Releases(
        Wording(
            noun="sentence encoder",
            blocks="blocks",
            folder="sentence-transformers folder",
            library="sentence-transformers",
            hub_task="sentence-similarity",
            task="feature-extraction",
            forms={"onnx": "ONNX graph, pooling inside: onnxruntime, tokenizers"},
        ),
        thresholds=_thresholds(ENCODER_METRICS),
        load=lambda folder: load_encoder(folder).model,
        checks=("bytes_ratio", "parameters_ratio"),
    ),
    CLASSIFIER: Releases(
        Wording(
            noun="classifier of texts",
            blocks="blocks",
            folder="Hugging Face folder",
            library="transformers",
            hub_task="text-classification",
            task="text-classification",
            forms={"onnx": "ONNX graph, a logit a class: onnxruntime, tokenizers"},
        ),
        thresholds=_thresholds(CLASSIFIER_METRICS),
        load=lambda folder: load_classifier(folder).model,
        checks=CLASS_CHECKS,
    ),
    TAGGER: Releases(
        Wording(
            noun="tagger of words",
            blocks="blocks",
            folder="Hugging Face folder",
            library="transformers",
            hub_task="token-classification",
            task="token-classification",
            forms={"onnx": "ONNX graph, a logit a tag for each token: onnxruntime, tokenizers"},
        ),
        thresholds=_thresholds(TAGGER_METRICS),
        load=lambda folder: load_classifier(folder).model,
        checks=CLASS_CHECKS,
    ),
    IMAGES: Releases(
        Wording(
            noun="image classifier",
            blocks="blocks",
            folder="transformers folder",
            library="transformers",
            hub_task="image-classification",
            task="image-classification",
            forms={"onnx": "ONNX graph from pixels to logits: onnxruntime, and what `preprocessor_config.json` says"},
            unmeasured="Images of other sources, other light and other cameras",
        ),
        thresholds=_thresholds(IMAGE_METRICS),
        load=lambda folder: load_image_classifier(folder).model,
        reader="image_processor",
        load_reader=load_processor,
        checks=CLASS_CHECKS,
    ),
    DENOISER: Releases(
        Wording(
            noun="denoiser of images",
            blocks="blocks",
            folder="diffusers folder",
            library="diffusers",
            hub_task="unconditional-image-generation",
            task="",
            forms={"onnx": "ONNX graph of the whole sampler, noise and classes in, images out: onnxruntime"},
            unmeasured="Likeness to single training images, and what a small classifier's features do not tell apart,",
        ),
        thresholds=_thresholds(DENOISER_METRICS),
        load=load_denoiser,
        reader="",
        readers=lambda folder: "diffusers",
        checks=(*DENOISER_CHECKS, "bytes_ratio", "parameters_ratio"),
    ),
}


def check_gate(gate: Thresholds | IntervalGate, subject: Subject) -> None:
    """Raise ValueError for a limit on what models of another subject are measured by."""
    releases = RELEASES[subject]
    if isinstance(gate, dict):
        if unmeasured := [name for name in gate if name not in releases.thresholds]:
            raise ValueError(
                f"gate.{unmeasured[0]} is not measured of {subject.words}; accepted: {', '.join(sorted(releases.thresholds))}"
            )
        return
    others = [check.measure for check in gate.checks if check.measure not in releases.checks]
    if others:
        raise ValueError(
            f"gate.checks: {others[0]} is not measured of {subject.words}; accepted: {', '.join(releases.checks)}, or thresholds"
        )
