"""Prune an image classifier: remove blocks that hand on an image of their own shape. What is left loads in plain transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attar.compressors.images.layout import check_image_cut, image_blocks, remove_image_blocks, without_blocks
from attar.compressors.images.search import SEARCHED
from attar.registry.artifacts.handles import ImageClassifierArtifact
from attar.registry.artifacts.subjects import IMAGES
from attar.stages.artifacts.images.folder import load_classifier, save_classifier
from attar.stages.artifacts.images.proof import check_kept, probe_logits, prove_classifier
from attar.stages.prune.config import PruneConfig
from attar.stages.prune.encoder import check_whole_prune
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import bar, note

# What a scan of an image classifier scores blocks by, and what a search does.
METRICS = ("block_influence", SEARCHED)


def check_image_prune(config: PruneConfig) -> None:
    """Raise ValueError for a repair, a plan or a budget that knows causal models alone."""
    check_whole_prune(config, IMAGES)
    if not config.blocks and (config.choice != "free" or config.metric not in METRICS):
        given = f"choice is {config.choice!r}" if config.choice != "free" else f"metric is {config.metric!r}"
        raise ValueError(
            f"{given}; accepted for an image classifier: choice free with metric {' or '.join(METRICS)}, or blocks"
        )


def prune_classifier(model: ImageClassifierArtifact, removed: Sequence[int], content: Path) -> ImageClassifierArtifact:
    """Remove blocks of a classifier. Raises ValueError for blocks that change width or size, and when the proof fails.

    What is left must first give the logits of the whole net whose removed blocks hand on what they read, and give them again when it is
    loaded as written.
    """
    steps = bar("pruning", 3, "steps")
    check_image_cut(model.facts.num_blocks, model.facts.removable_blocks, removed)
    device = pick_device()
    classifier = load_classifier(model.path, "auto", device)
    steps.advance()
    with without_blocks(classifier.model, removed):
        expected = probe_logits(classifier, model.facts, "prune")
    remove_image_blocks(classifier.model, removed)
    check_kept(expected, classifier, model.facts, "prune")
    note(f"removed blocks {', '.join(map(str, removed))}; {len(image_blocks(classifier.model))} are left")
    steps.advance()
    artifact = save_classifier(classifier, content, model.path)
    steps.advance()
    del classifier
    prove_classifier(content, expected, model.facts, "prune", device)
    carried = {"license": model.facts["license"]} if "license" in model.facts else {}
    return ImageClassifierArtifact.at(content, artifact.facts | {"removed_blocks": tuple(removed), **carried})
