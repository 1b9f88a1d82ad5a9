"""The calibration pass of `patch: refit`: lead every kept block back to the original's states, with progress and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attar.compressors.models.paging import twin
from attar.compressors.models.slots import pad_right
from attar.compressors.prune.depth.block_refit import Matches, refit_blocks
from attar.stages.runtime.progress import bar, metric, note

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def refit_result(
    result: PreTrainedModel,
    original: PreTrainedModel,
    samples: Sequence[Sequence[int]],
    matches: Matches,
    *,
    first: int,
    ridge: float,
    batch_size: int,
    channels: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Refit the blocks of `result`, already cut, from `first` on toward those of `original`, in place.

    The passes run in the dtype of `original`, through a copy of `result` where that is in another. `channels`: what a `result` with a
    narrower stream holds of the original's states.
    """
    student = result if result.dtype == original.dtype else twin(result, original.dtype, "student")
    batches = [pad_right(samples[at : at + batch_size], original.device) for at in range(0, len(samples), batch_size)]
    counter = bar("refitting", len(matches.was) - first, "blocks")
    fits = []
    options = {"ridge": ridge, "first": first, "result": result, "channels": channels}
    for fit in refit_blocks(original, student, batches, matches, **options):  # type: ignore[arg-type]
        metric("refit_residual_fraction", fit.residual_fraction, step=fit.block_index)
        fits.append(fit.residual_fraction)
        counter.advance()
    num_tokens = sum(map(len, samples))
    note(
        f"refitted blocks {first} to {first + len(fits) - 1} on {num_tokens:,} tokens, {fits[-1]:.1%} of the last one's error is left"
    )
