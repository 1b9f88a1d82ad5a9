"""Compare the order of classes by their names. Labels of images go by number, between data and model, and between two models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attar.stages.artifacts.classifier.class_form import outputs_of
from attar.stages.artifacts.model.safe_folder import read_object


def stored_names(folder: Path) -> list[str]:
    """Return the names of a classifier's or graph's classes in the order of its logits. None where its config.json has none."""
    named = read_object(folder / "config.json").get("id2label")
    return outputs_of(folder, named) if isinstance(named, dict) else []


def refuse_other_order(folder: Path, names: Sequence[str], who: str) -> None:
    """Raise ValueError where a class of `who` bears the name of another class of the model.

    Names that the model does not know say nothing: a data set may call its classes by other words, or by their numbers.
    """
    own = [_plain(name) for name in stored_names(folder)]
    for index, name in enumerate(names):
        given = _plain(name)
        if index < len(own) and own[index] != given and given in own:
            raise ValueError(
                f"{who}: class {index} is {name[:60]!r}, which is class {own.index(given)} of the model; accepted: the classes in the "
                "model's order (ingest_images' columns and classes say them)"
            )


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
