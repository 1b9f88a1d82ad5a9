"""Let an image classifier read images of another size than it was made for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_patches(size: Any, patch: Any) -> None:
    """Raise ValueError for a side, or one of two, that patches do not divide. What is over at its edges would go unread."""
    sides = size if isinstance(size, list | tuple) else [size]
    if isinstance(patch, int) and patch > 0 and any(isinstance(side, int) and side % patch for side in sides):
        raise ValueError(
            f"image_size is {size}, which patch_size {patch} does not divide; accepted: a multiple of {patch}"
        )


@torch.no_grad()
def set_image_size(model: PreTrainedModel, side: int) -> None:
    """Set the side of the images that a classifier reads. Raises ValueError for one that its patches do not divide.

    Convolutions take any size; where a transformer has an embedding a patch, those of the new patches are interpolated between the old.
    """
    config: Any = model.config
    patch = getattr(config, "patch_size", None)
    check_patches(side, patch)
    if hasattr(config, "image_size"):
        config.image_size = side
    for module in list(model.modules()):
        if hasattr(module, "position_embeddings") and hasattr(module, "patch_embeddings"):
            embeddings: Any = module
            made = interpolated(embeddings.position_embeddings, side // config.patch_size)
            embeddings.position_embeddings = nn.Parameter(made)
            embeddings.image_size = embeddings.patch_embeddings.image_size = (side, side)
            embeddings.patch_embeddings.num_patches = made.shape[1] - 1


def interpolated(positions: Float[Tensor, "1 1+P D"], num_across: int) -> Float[Tensor, "1 1+Q D"]:
    """Return position embeddings for a square of so many patches across, bicubic, that of the class token as it is.

    https://arxiv.org/abs/2010.11929, section 3.2
    """
    first, rest = positions[:, :1], positions[:, 1:]
    before = round(rest.shape[1] ** 0.5)
    if before == num_across:
        return positions.clone()
    grid = rest.unflatten(1, (before, before)).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(num_across, num_across), mode="bicubic", align_corners=False)
    return torch.cat([first, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
