"""A classifier at another resolution: how its images are read, and what of its net goes with their size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.images.resolution import check_patches, set_image_size
from attar.registry.artifacts.facts import Facts
from attar.stages.artifacts.images.pixels import PROCESSOR, PixelReader
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.ingest.images.state_dict import write_reading
from attar.stages.ingest.images.tiny import random_patch
from attar.stages.ingest.source_line import ModelSource

# Facts that another size changes, and that are known once the net has run at it.
OF_SIZE = ("num_products", "num_parameters", "num_block_parameters")


def check_resolution(source: ModelSource, side: int, sizes: dict[str, int]) -> None:
    """Raise ValueError for a side that the net's patches do not divide, as far as its source tells. `sizes`: of a random one."""
    if source.scheme == "random":
        check_patches(side, random_patch(source.parts["family"], **sizes))
    elif source.scheme == "folder" and (source.path / "config.json").is_file():
        check_patches(side, read_object(source.path / "config.json").get("patch_size"))


def facts_at(known: Facts, side: int) -> Facts:
    """Return what can be known before fetching of a classifier at another resolution; 0: at its own."""
    if not side or known.get("image_size") == (side, side):
        return known
    return {name: value for name, value in known.items() if name not in OF_SIZE} | {"image_size": (side, side)}


def set_resolution(classifier: ImageClassifier, reading: Path, side: int) -> None:
    """Let a classifier, and the processor in `reading`, take images at another resolution.

    Raises ValueError for a side that patches do not divide, and for a processor that makes another size of it.
    """
    set_image_size(classifier.model, side)
    write_reading(reading, resized(read_object(reading / PROCESSOR), side))
    made = PixelReader(reading, int(classifier.model.config.num_channels)).size
    if made != (side, side):
        raise ValueError(
            f"model.image_size is {side}, but {PROCESSOR} makes images of {made[0]} x {made[1]} of it; accepted: a processor that resizes to "
            "height and width or to the shortest edge"
        )


def resized(reading: Facts, side: int) -> dict[str, Any]:
    """Return how images are read at another resolution. Where edges are cut off after resizing, the same share of an image is."""
    size, cut = reading.get("size"), _side(reading.get("crop_size"))
    made: dict[str, Any] = {**reading, "do_resize": True}
    if reading.get("do_center_crop") and cut:
        made["crop_size"] = {"height": side, "width": side}
        made["size"] = _scaled(size, side / cut)
    else:
        made["size"] = _scaled(size, side / _side(size)) if _side(size) else {"height": side, "width": side}
    return made


def _scaled(size: Any, factor: float) -> Any:
    """Return a size in its own words, each side times a factor."""
    if isinstance(size, dict):
        return {name: _scaled(value, factor) for name, value in size.items()}
    return max(1, round(size * factor)) if isinstance(size, int | float) else size


def _side(size: Any) -> int:
    """Return the shorter side that a size names, or 0 for none."""
    sides = size.values() if isinstance(size, dict) else [size]
    return min((int(side) for side in sides if isinstance(side, int | float)), default=0)
