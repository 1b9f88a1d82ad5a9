"""Prove that a written classifier is what was made. It loads whole in plain transformers, and gives the logits in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from attar.compressors.images.classifier import ImageClassifier
from attar.compressors.measure.same_logits import OTHER_ORDER, SAME_KERNELS, difference
from attar.registry.artifacts.kinds.classifier_facts import ImageClassifierFacts
from attar.stages.artifacts.images.folder import load_classifier
from attar.stages.artifacts.model.load_report import one_line
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import metric, note

NUM_PROBES = 3


@torch.no_grad()
def probe_logits(classifier: ImageClassifier, facts: ImageClassifierFacts, what: str) -> Tensor:
    """Return the logits of a classifier in memory on images of noise, always the same. Raises ValueError in one line when it does not run."""
    shape = (NUM_PROBES, facts.num_channels, *facts.image_size)
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        return classifier(pixels).float().cpu()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{what}: {type(classifier.model).__name__} does not run: {one_line(error)}") from error


def check_kept(expected: Tensor, classifier: ImageClassifier, facts: ImageClassifierFacts, what: str) -> None:
    """Raise ValueError unless a classifier cut in memory gives the logits that were computed by hand."""
    error = difference(expected, probe_logits(classifier, facts, what))
    if not error <= OTHER_ORDER.get(classifier.model.dtype, 5e-2):
        raise ValueError(
            f"{what}: {type(classifier.model).__name__} computes something else than what is kept of it, {error:.2g} of the largest logit apart"
        )


def prove_classifier(
    folder: Path, expected: Tensor, facts: ImageClassifierFacts, what: str, device: torch.device
) -> None:
    """Load a written classifier as anyone would and hold its logits to `expected`, those in memory. Raises ValueError in one line."""
    give_back()
    classifier = load_classifier(folder, "auto", device)
    error = difference(expected, probe_logits(classifier, facts, what))
    if not error <= SAME_KERNELS.get(classifier.model.dtype, 1e-2):
        raise ValueError(
            f"{what}: the written {type(classifier.model).__name__} gives other logits than the classifier in memory, "
            f"{error:.2g} of the largest logit apart"
        )
    metric("proof_logit_error", error)
    note(f"proved: the written classifier loads whole, and its logits are those in memory to {error:.1e}")
