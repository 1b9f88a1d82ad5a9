"""The calibration pass of `patch: refit`: lead every kept block back to the original's states, with progress and metrics."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressors.measure.likelihood import pad_right
from compressors.prune.block_refit import Matches, refit_blocks
from stages.device import Precision, pick_device, pick_dtype
from stages.model_folder import load_model
from stages.progress import bar, metric, note

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def refit_result(
    result: PreTrainedModel,
    original: Path,
    samples: Sequence[Sequence[int]],
    matches: Matches,
    *,
    first: int,
    ridge: float,
    batch_size: int,
    precision: Precision,
) -> None:
    """Refit the blocks of `result`, already cut, from `first` on toward those of the model in the folder `original`, in place.

    The passes run in `precision`, through a copy of `result` where that is not its dtype.
    """
    device = pick_device()
    dtype = pick_dtype(precision, device)
    teacher = load_model(original, dtype, device)
    student = result if result.dtype == dtype else copy.deepcopy(result).to(dtype)  # type: ignore[arg-type]
    batches = [pad_right(samples[at : at + batch_size], device) for at in range(0, len(samples), batch_size)]
    counter = bar("refitting", len(matches.was) - first, "blocks")
    fits = []
    for fit in refit_blocks(teacher, student, batches, matches, ridge=ridge, first=first, result=result):
        metric("refit_residual_fraction", fit.residual_fraction, step=fit.block_index)
        fits.append(fit.residual_fraction)
        counter.advance()
    num_tokens = sum(map(len, samples))
    note(
        f"refitted blocks {first} to {first + len(fits) - 1} on {num_tokens:,} tokens, {fits[-1]:.1%} of the last one's error is left"
    )
