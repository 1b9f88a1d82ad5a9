"""Put the weights that were trained on a denoiser into it: one denoiser, proved by what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attar.compressors.distill.teachers.denoiser import BESIDE
from attar.registry.artifacts.handles import Artifact, DenoiserArtifact
from attar.stages.artifacts.denoiser.folder import load_denoiser, save_denoiser
from attar.stages.artifacts.denoiser.proof import probe_predictions, prove_denoiser
from attar.stages.merge.whole_weights import fold_weights, trained_on_base
from attar.stages.runtime.device import pick_device


def fold_denoiser(base: Any, students: Sequence[Artifact[Any]], content: Path) -> DenoiserArtifact:
    """Write the base with a student's trained weights. Raises ValueError for weights of another base, and when the proof fails."""
    weights = {name: value for name, value in trained_on_base(base, students).items() if not name.startswith(BESIDE)}
    device = pick_device()
    denoiser = load_denoiser(base.path, device)
    expected = fold_weights(
        denoiser.net,
        weights,
        students[0].path,
        partial(probe_predictions, denoiser, "merge"),
        figure="fold_max_prediction_change",
        what="a predicted number",
    )
    artifact = save_denoiser(denoiser, content)
    prove_denoiser(content, expected, "merge", device)
    carried = {"license": base.facts["license"]} if "license" in base.facts else {}
    return DenoiserArtifact.at(content, artifact.facts | carried)
