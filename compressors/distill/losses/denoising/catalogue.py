"""The losses of denoisers by name. To add one: a file, a row."""

from __future__ import annotations

from typing import Any

from attar.compressors.distill.losses.denoising.endpoints import EndpointDistance
from attar.compressors.distill.losses.denoising.guidance import GuidedDistance
from attar.compressors.distill.losses.denoising.noise import Denoising
from attar.compressors.distill.losses.denoising.scores import FakeScore, ScoreDistillation
from attar.compressors.distill.losses.denoising.segments import SegmentConsistency
from attar.compressors.distill.losses.objective import Objective

DENOISING_LOSSES: dict[str, type[Objective[Any, Any]]] = {
    "denoising": Denoising,
    "endpoint_distance": EndpointDistance,
    "segment_consistency": SegmentConsistency,
    "score_distillation": ScoreDistillation,
    "fake_score": FakeScore,
    "guided_distance": GuidedDistance,
}
