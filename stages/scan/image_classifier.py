"""Scan an image classifier: how little each block that can go changes an image, over training images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.images.layout import Block, image_blocks
from attar.compressors.measure.cost import num_parameters
from attar.compressors.prune.depth.block_cost import Costs
from attar.compressors.prune.depth.scan import Scores
from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact, ScanArtifact
from attar.registry.artifacts.subjects import IMAGES
from attar.stages.artifacts.images.dataset import ImageBytes, read_image_rows
from attar.stages.artifacts.images.folder import load_classifier
from attar.stages.artifacts.images.pixels import PixelReader, pixel_batches
from attar.stages.artifacts.mixed_subjects import refuse_causal_fields
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import bar, metric
from attar.stages.scan.config import ScanConfig, scan_facts
from attar.stages.scan.encoder import refuse_causal_scan
from attar.stages.scan.tables import COST_TABLE, TABLE, write_costs, write_scores

METRICS = ("block_influence",)
CAUSAL_FIELDS = ("tokens", "prepend_bos", "skip_first", "num_loss_samples", "max_tokens", "precision")


def check_image_scan(config: ScanConfig) -> None:
    """Raise ValueError for what is asked that an image classifier does not have: tokens, a cache, windows of blocks."""
    if others := [name for name in config.metrics if name not in METRICS]:
        raise ValueError(f"metrics has {others[0]!r}; accepted for an image classifier: {', '.join(METRICS)}")
    refuse_causal_scan(config, IMAGES)
    refuse_causal_fields(IMAGES, sorted(config.calibration.model_fields_set), CAUSAL_FIELDS, "num_samples, batch_size")


@torch.inference_mode()
def scan_classifier(
    config: ScanConfig, model: ImageClassifierArtifact, data: ImageDatasetArtifact, content: Path
) -> ScanArtifact:
    """Score every block: 1 - cosine of what it hands on to what it reads, a mean over images. A block that must stay scores infinity.

    Windows score the sum of their blocks. Raises ValueError for data without training images.
    """
    classifier = load_classifier(model.path, torch.float32, pick_device())
    reader, stored = PixelReader(model.path, model.facts.num_channels), ImageBytes(data)
    rows = [row for row in read_image_rows(data.path) if row.split == "train"][: config.calibration.num_samples]
    if not rows:
        raise ValueError("the data set has no training images to calibrate on")
    blocks = image_blocks(classifier.model)
    counter = bar("scanning", len(rows), "images")
    with _influences(blocks) as sums:
        for pixels in pixel_batches([reader.stored(data, row, stored) for row in rows], config.calibration.batch_size):
            classifier(pixels)
            counter.advance(len(pixels))
    lowest = write_block_scores(content, classifier, "block_influence", [total / len(rows) for total in sums])
    metric("lowest_block_influence_of_one_block", lowest)
    return ScanArtifact.at(content, scan_facts(config), num_blocks=len(blocks), num_tokens=len(rows))


def write_block_scores(content: Path, classifier: ImageClassifier, name: str, values: list[float]) -> float:
    """Write a score of each block, of windows their sums, and what blocks weigh. Return the lowest of a block that can go."""
    blocks = image_blocks(classifier.model)
    single = that_can_go(blocks, values)
    scores: Scores = {
        (first, size): sum(single[first : first + size])
        for first in range(len(blocks))
        for size in range(1, len(blocks) - first + 1)
    }
    write_scores(content / TABLE, len(blocks), {name: scores})
    sizes = tuple(float(sum(p.numel() for p in block.module.parameters())) for block in blocks)
    write_costs(content / COST_TABLE, {"parameters": Costs(sizes, num_parameters(classifier.model) - sum(sizes))})
    return min(single)


def that_can_go(blocks: list[Block], values: list[float]) -> list[float]:
    """Return the scores, infinite where a block must stay. It changes width or size, or does most of a stage whose blocks all could go."""
    scores = [value if block.can_go else float("inf") for block, value in zip(blocks, values, strict=True)]
    for stage in {block.stage for block in blocks}:
        own = [index for index, block in enumerate(blocks) if block.stage == stage]
        if all(blocks[index].can_go for index in own):
            scores[max(own, key=lambda index: values[index])] = float("inf")
    return scores


@contextmanager
def _influences(blocks: list[Block]) -> Iterator[list[float]]:
    """Sum 1 - cosine over images, block by block, while the net runs inside."""
    sums = [0.0] * len(blocks)

    def watch(index: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            made = output[0] if isinstance(output, tuple) else output
            flat = [states.float().flatten(start_dim=1) for states in (before.pop(), made)]
            sums[index] += float((1.0 - nn.functional.cosine_similarity(*flat, dim=-1)).sum())

        return hook

    before: list[Tensor] = []
    # copied: some families add in place
    handles = [
        handle
        for index, block in enumerate(blocks)
        if block.can_go
        for handle in (
            block.module.register_forward_pre_hook(lambda module, inputs: before.append(inputs[0].clone())),
            block.module.register_forward_hook(watch(index)),
        )
    ]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()
