"""A model of a folder's shape whose weights are drawn anew: what distillation must beat to have taught anything.

https://arxiv.org/abs/2302.12091
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from attar.stages.artifacts.model.load_report import read_skeleton

if TYPE_CHECKING:
    import transformers


def draw_weights(folder: Path, dtype: torch.dtype, device: torch.device, seed: int) -> transformers.PreTrainedModel:
    """Return the model that the folder's config describes, in evaluation mode, initialised as its family is before training.

    The same seed gives the same weights, and the caller's random numbers stay as they were. Raises ValueError as a load does.
    """
    skeleton = read_skeleton(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(skeleton)._from_config(skeleton.config, dtype=torch.float32)
    return model.to(device=device, dtype=dtype).eval()  # type: ignore[call-arg]
