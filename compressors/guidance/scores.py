"""The guided distribution: what two passes say together."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def guided_scores(
    conditional: Float[Tensor, "... V"], unguided: Float[Tensor, "... V"], scale: float | Float[Tensor, "..."]
) -> Float[Tensor, "... V"]:
    """Return l_u + w (l_c - l_u) on log-softmax scores in float32, not normalised again. https://arxiv.org/abs/2306.17806

    w = 1 gives the conditional branch, 0 the unguided one, above 1 moves away from what the model would say anyway. The scores are
    logits of the guided distribution.
    """
    log_c, log_u = conditional.float().log_softmax(dim=-1), unguided.float().log_softmax(dim=-1)
    # transformers' order of operations: an argmax between near ties falls the same way
    weight = scale[..., None] if isinstance(scale, Tensor) else scale
    return weight * (log_c - log_u) + log_u
