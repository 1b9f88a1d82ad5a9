"""The losses of denoisers by name. To add one: a file, a row."""

from __future__ import annotations

from typing import Any

from attar.compressors.distill.losses.denoising.adversarial import Adversarial, Discriminator
from attar.compressors.distill.losses.denoising.divergences import DivergenceDistillation
from attar.compressors.distill.losses.denoising.endpoints import EndpointDistance
from attar.compressors.distill.losses.denoising.evaluation import SelfEvaluation
from attar.compressors.distill.losses.denoising.guidance import GuidedDistance
from attar.compressors.distill.losses.denoising.matching import TeacherMatching
from attar.compressors.distill.losses.denoising.noise import Denoising
from attar.compressors.distill.losses.denoising.scores import FakeScore, ScoreDistillation
from attar.compressors.distill.losses.denoising.segments import SegmentConsistency
from attar.compressors.distill.losses.objective import Objective

DENOISING_LOSSES: dict[str, type[Objective[Any, Any]]] = {
    "denoising": Denoising,
    "self_evaluation": SelfEvaluation,
    "teacher_matching": TeacherMatching,
    "endpoint_distance": EndpointDistance,
    "segment_consistency": SegmentConsistency,
    "score_distillation": ScoreDistillation,
    "fake_score": FakeScore,
    "divergence_distillation": DivergenceDistillation,
    "adversarial": Adversarial,
    "discriminator": Discriminator,
    "guided_distance": GuidedDistance,
}
