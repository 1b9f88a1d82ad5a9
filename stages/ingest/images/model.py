"""An image classifier as it comes in. A transformers folder, a state dict of a known net, or a random net."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from attar.compressors.images.classifier import ImageClassifier, with_classes
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Artifact, ImageClassifierArtifact
from attar.registry.artifacts.kinds.classifier_facts import ImageClassifierFacts
from attar.stages.artifacts.images.folder import class_names, folder_facts, load_classifier, save_classifier
from attar.stages.artifacts.images.pixels import MAX_SIDE, PROCESSOR, load_processor
from attar.stages.artifacts.images.proof import probe_logits, prove_classifier
from attar.stages.artifacts.model.folder import quiet_transformers
from attar.stages.contract import StageConfig
from attar.stages.ingest.images.resolution import check_resolution, facts_at, set_resolution
from attar.stages.ingest.images.state_dict import lite_classifier, read_state_dict, write_reading
from attar.stages.ingest.images.tiny import SIZES, check_sizes, random_classifier, write_random_reading
from attar.stages.ingest.source_line import FORMS, ModelSource, random_options, source_folder, wheel_member
from attar.stages.runtime.progress import note

STATE_DICT = ".pth"


class ImageClassifierModel(StageConfig):
    """A net that says which class an image is of."""

    kind: Literal["image_classifier"] = "image_classifier"
    """A net that says which class an image is of."""

    classes: list[str] = []
    """Names of new classes, in the order of their labels: the last layer begins anew, all zeros, to be trained; empty: the model's own."""

    image_size: int = Field(default=0, ge=0, le=MAX_SIDE)
    """Side in pixels that images are read at, such as 384: a multiple of the net's patches; of a transformer the embeddings of positions
    are interpolated. 0: the source's own."""

    state_dict_of: Literal["", "efficientnet_lite0"] = ""
    """Of a wheel's .pth file: the net that its tensors are of. Read without running anything of it. Empty: the source is no such file."""

    artifact: ClassVar[type[Artifact[Any]]] = ImageClassifierArtifact

    @field_validator("classes")
    @classmethod
    def _differ(cls, value: list[str]) -> list[str]:
        if len(value) == 1 or len(set(value)) != len(value):
            raise ValueError(f"classes are {value}; accepted: two or more, each once")
        return value


def check_image_source(source: ModelSource, config: ImageClassifierModel, strip_from_names: Sequence[str]) -> None:
    """Raise ValueError for a source that no image classifier comes from."""
    is_state_dict = source.scheme == "wheel" and source.rest.endswith(STATE_DICT)
    is_folder = source.scheme in ("folder", "hub", "models") or (source.scheme == "wheel" and source.rest.endswith("/"))
    if not (is_folder or is_state_dict or source.scheme == "random"):
        accepted = ", ".join(FORMS[name] for name in ("folder", "hub", "models"))
        raise ValueError(
            f"source is a {source.scheme}: file, but model.kind is 'image_classifier'; accepted: {accepted}, wheel:PROJECT==VERSION/FOLDER/, "
            "a wheel's .pth, random:resnet"
        )
    if is_state_dict != bool(config.state_dict_of):
        given = f"model.state_dict_of is {config.state_dict_of!r}"
        raise ValueError(f"{given}, but source is {'a' if is_state_dict else 'no'} .pth; accepted: both or neither")
    sizes = random_options_of(source) if source.scheme == "random" else {}
    if config.image_size:
        check_resolution(source, config.image_size, sizes)
    if strip_from_names:
        raise ValueError("strip_from_names is for causal models; accepted with model.kind 'image_classifier': none")


def random_options_of(source: ModelSource) -> dict[str, int]:
    """Return the options of a random classifier. Raises ValueError for one that it does not have, and for sizes that make no net."""
    options = random_options(source, SIZES)
    check_sizes(source.parts["family"], options)
    return options


def image_forecast(source: ModelSource, config: ImageClassifierModel) -> Facts:
    """Return the facts that can be known before fetching. That it is an image classifier is one of them."""
    known: dict[str, Any] = {"image_size": (0, 0)}
    if source.scheme == "random":
        sizes = {**SIZES, **random_options_of(source)}
        known = {"image_size": (sizes["image_size"],) * 2, "num_channels": sizes["num_channels"]}
        known |= {"num_classes": sizes["num_classes"], "num_blocks": sizes["num_blocks"], "dtype": "float32"}
    elif source.scheme == "folder":
        known = dict(folder_facts(source.path))
    elif config.state_dict_of:
        known = {"image_size": (224, 224), "num_channels": 3, "num_classes": 1000, "num_blocks": 16, "dtype": "float32"}
    known = dict(facts_at(known, config.image_size))
    return known | ({"num_classes": len(config.classes)} if config.classes else {})


def ingest_image_classifier(
    source: ModelSource, config: ImageClassifierModel, sha256: str, scratch: Path, content: Path
) -> ImageClassifierArtifact:
    """Write the classifier of a source as transformers lays it out, and prove it. Raises ValueError as `load_classifier` does."""
    quiet_transformers()
    reading = scratch / "reading"
    reading.mkdir(parents=True, exist_ok=True)
    classifier = _fetched(source, config, sha256, scratch, reading)
    if config.image_size:
        set_resolution(classifier, reading, config.image_size)
    if config.classes:
        before = classifier.model.config.num_labels
        with_classes(classifier.model, tuple(config.classes))
        note(f"a new last layer for {len(config.classes)} classes in place of {before}: to be trained")
    artifact = save_classifier(classifier, content, reading)
    facts: ImageClassifierFacts = artifact.facts
    expected = probe_logits(classifier, facts, "ingest_model")
    names = class_names(classifier.model)
    del classifier
    prove_classifier(content, expected, facts, "ingest_model", torch.device("cpu"))
    size = " x ".join(map(str, facts.image_size))
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    note(f"an image classifier: {facts.num_channels} x {size} to {facts.num_classes} classes ({shown})")
    return artifact


def _fetched(
    source: ModelSource, config: ImageClassifierModel, sha256: str, scratch: Path, reading: Path
) -> ImageClassifier:
    """Return a source's classifier, with how it reads images written into a folder."""
    if source.scheme == "random":
        options = random_options_of(source)
        write_random_reading(reading, **options)
        return ImageClassifier(random_classifier(source.parts["family"], **options)).eval()
    if config.state_dict_of:
        write_reading(reading)
        return ImageClassifier(lite_classifier(read_state_dict(wheel_member(source, scratch, sha256)))).eval()
    folder = source_folder(source, sha256, scratch)
    assert folder is not None, "check_image_source refuses other sources"
    classifier = load_classifier(folder)
    load_processor(folder)
    shutil.copy2(folder / PROCESSOR, reading / PROCESSOR)
    return classifier
