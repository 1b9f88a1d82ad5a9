"""What images and classifiers say of each other by their facts, before anything is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.subjects import DENOISER, IMAGES, form_of, subject_of
from attar.stages.artifacts.model.size_forecast import exported


def refuse_other_data(model: Facts, data: Iterable[Facts]) -> None:
    """Raise ValueError where data and model are not both of images or both of texts, or do not fit."""
    subject = subject_of(model)
    wants_images = subject in (IMAGES, DENOISER)
    for some in data:
        has_images = subject_of(some) is IMAGES
        if has_images != wants_images:
            given, accepted = ("images", "rows of ingest_data") if has_images else ("texts", "images of ingest_images")
            raise ValueError(f"input data is of {given}, but the model is {subject.words}; accepted: {accepted}")
        if subject is IMAGES:
            _refuse_unfit(model, some)


def graph_facts(model: Facts, quantization: str = "none") -> dict[str, Any]:
    """Return the facts of a classifier's graph that follow from the model's."""
    own = {name: model[name] for name in ("num_products",) if name in model}
    return {**exported(model, quantization), **form_of(model), **own}


def _refuse_unfit(model: Facts, data: Facts) -> None:
    name = data.get("name", "data")
    if data.get("num_classes", 0) > model.get("num_classes", float("inf")):
        raise ValueError(
            f"{name} has {data['num_classes']} classes, but the model's head {model['num_classes']}; accepted: at most as many "
            "(ingest_model's model.classes gives a new head)"
        )
    if "num_channels" in model:
        refuse_other_channels(model["num_channels"], data)


def refuse_other_channels(num_channels: int, data: Facts) -> None:
    """Raise ValueError for images of another number of channels than a model reads. Decoding would make up or drop colors without a word."""
    given = data.get("num_channels", num_channels)
    if given != num_channels:
        raise ValueError(
            f"{data.get('name', 'data')} has images of {given} channels, but the model reads {num_channels}; accepted: ingest_images with "
            f"channels: {num_channels}"
        )
