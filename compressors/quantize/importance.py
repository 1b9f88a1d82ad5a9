"""How much each input channel of a model's products carries: the importance matrix by which llama.cpp's types round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.quantize.block_walk import TokenBatch
from attar.compressors.quantize.shared_inputs import Watched

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def input_powers(model: PreTrainedModel, batches: Sequence[TokenBatch]) -> dict[str, Float[Tensor, "K"]]:
    """Return E[x^2] of what each product reads over all tokens that are no padding, by the product's name. One pass of the batches.

    Products that no token reaches are left out. Raises ValueError for inputs that are not finite.
    """
    watched = Watched(
        {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}, "powers"
    )
    for ids, mask in batches:
        with watched.listening(mask.bool().flatten(), {}):
            model(input_ids=ids, attention_mask=mask, use_cache=False)
    return {
        name: power for group in watched.groups.values() if (power := group.mean()) is not None for name in group.names
    }
