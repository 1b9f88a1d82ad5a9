"""The losses of image classifiers with heads of their own, by name. To add one: a file, a row."""

from __future__ import annotations

from typing import Any

from attar.compressors.distill.heads.experts import DiverseExperts
from attar.compressors.distill.heads.label_augmentation import LabelAugmentation
from attar.compressors.distill.heads.stages import StageHeads
from attar.compressors.distill.losses.objective import Objective

IMAGE_LOSSES: dict[str, type[Objective[Any, Any]]] = {
    "label_augmentation": LabelAugmentation,
    "diverse_experts": DiverseExperts,
    "stage_heads": StageHeads,
}
