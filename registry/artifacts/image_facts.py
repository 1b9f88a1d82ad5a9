"""The facts of a data set of images."""

from __future__ import annotations

from dataclasses import dataclass

from attar.registry.artifacts.facts import NOT_KNOWN, ArtifactFacts


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ImageDatasetFacts(ArtifactFacts):
    """Of images with their classes: how many in which part, and what they look like. `image_size`: of the largest, height and width."""

    image_size: tuple[int, ...] = NOT_KNOWN
    num_channels: int = NOT_KNOWN
    num_classes: int = NOT_KNOWN
    name: str | None = None
    num_rows: int | None = None
    num_heldout: int | None = None
    num_choose: int | None = None
    source: str | None = None
