"""What batch norms know of images, measured anew and folded into scale and shift. And gates that are always open, left out.

Training leaves the statistics of batch norms as they are: a step is then the same however it is split, and a resumed one bit for bit. What
a cut or other data change of them is measured once, before the first step. Since a norm is y = g (x - m) / sqrt(v + e) + b, other statistics
(m', v') are the same as another scale and shift under the old ones, g' = g sqrt((v + e) / (v' + e)) and b' = b + g' (m - m') / sqrt(v + e):
parameters, which are saved, averaged and folded like any other.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.images.classifier import ImageClassifier

# A channel that never moves would be divided by nothing: its variance counts as no less than this share of the one that the norm knows.
LEAST_VARIANCE = 1e-3


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the batch norms with statistics, scale and shift, in the order of the net."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [norm for norm in norms if norm.affine and norm.running_mean is not None]


@torch.no_grad()
def measure_anew(classifier: ImageClassifier, batches: Iterable[Float[Tensor, "N C H W"]]) -> int:
    """Fold the statistics of these images into the batch norms, in place. Return how many norms there are.

    Every norm is measured on what the ones before it, already measured, hand on: all in one pass, each batch by its own statistics, means
    over batches. The norms' own statistics stay.
    """
    norms = batch_norms(classifier)
    before = [(norm, norm.running_mean.clone(), norm.running_var.clone(), norm.momentum) for norm in norms]  # type: ignore[union-attr]
    num_batches = 0
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    for pixels in batches:
        classifier(pixels)
        num_batches += 1
    for norm, mean, variance, momentum in before:
        measured = (norm.running_mean.clone(), norm.running_var.clone())  # type: ignore[union-attr]
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
        norm.num_batches_tracked.zero_()  # type: ignore[union-attr]
        norm.momentum = momentum
        norm.eval()
        if num_batches:
            _fold(norm, *measured)
    return len(norms)


def _fold(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None and norm.running_var is not None, "batch_norms gives those with statistics"
    own = norm.running_var + norm.eps
    other = torch.maximum(variance, LEAST_VARIANCE * norm.running_var) + norm.eps
    norm.weight.mul_((own / other).sqrt())
    norm.bias.add_(norm.weight * (norm.running_mean - mean) / own.sqrt())


def without_open_gates(model: nn.Module) -> int:
    """Let squeeze-and-excite gates that are 1 for every image be passed by, in place. Return how many.

    A net without such gates is written with them where its family's config always has some: their matrices are zero and their shift is so
    large that a sigmoid of it is 1 in float32. The result is the same to the last digit.
    """
    count = 0
    for module in list(model.modules()):
        gate = getattr(module, "squeeze_excite", None)
        if gate is not None and not isinstance(gate, nn.Identity) and is_open(gate):
            module.squeeze_excite = nn.Identity()
            count += 1
    return count


def is_open(gate: nn.Module) -> bool:
    """Say whether a squeeze-and-excite gate multiplies by 1 whatever it reads."""
    expand = getattr(gate, "expand", None)
    if not isinstance(expand, nn.Conv2d) or expand.bias is None:
        return False
    return not bool(expand.weight.any()) and bool((expand.bias.float().sigmoid() == 1.0).all())
