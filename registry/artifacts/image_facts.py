"""The facts of an image classifier, of its graph, and of a data set of images."""

from __future__ import annotations

from dataclasses import dataclass

from attar.registry.artifacts.facts import NOT_KNOWN, ArtifactFacts


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ImageClassifierFacts(ArtifactFacts):
    """Of an image classifier: its sizes, what it reads and how many classes it tells apart.

    `image_size`: height and width that its processor makes of any image. `removable_blocks`: those that hand on an image of the same shape.
    """

    image_size: tuple[int, ...] = NOT_KNOWN
    num_channels: int = NOT_KNOWN
    num_classes: int = NOT_KNOWN
    num_blocks: int = NOT_KNOWN
    removable_blocks: tuple[int, ...] = NOT_KNOWN
    architecture: str = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    num_block_parameters: int | None = None
    # multiplications with weights that a single image takes
    num_products: int | None = None
    dtype: str = NOT_KNOWN
    companion_bytes: int | None = None
    license: str | None = None
    removed_blocks: tuple[int, ...] = NOT_KNOWN


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ImageGraphFacts(ArtifactFacts):
    """Of an image classifier's graph: the sizes of its model, its parity, what quantizing cost."""

    image_size: tuple[int, ...] = NOT_KNOWN
    num_channels: int = NOT_KNOWN
    num_classes: int = NOT_KNOWN
    num_blocks: int = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    num_products: int | None = None
    companion_bytes: int | None = None
    format: str = NOT_KNOWN
    quantization: str | None = None
    weight_bytes: float | None = None
    # largest difference of a log-probability to torch's, in nats
    max_logprob_difference: float | None = None
    # of the graph before it, over held-out images: KL in nats, and the share of images that both put into one class
    kl_nats: float | None = None
    agreement: float | None = None
    size_fraction: float | None = None


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
