"""Prove that a written model is what was made. It loads whole in plain transformers, and gives the vectors or logits of the one in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.compressors.measure.same_logits import OTHER_ORDER, SAME_KERNELS, difference, probe_ids
from attar.stages.artifacts.encoder.folder import load_encoder
from attar.stages.artifacts.model.load_report import one_line
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import metric, note

# Columns that the rows of the probe hide at their end: padding must count for nothing.
HIDDEN_TOKENS = (0, 3, 9)


@torch.no_grad()
def probe_vectors(encoder: Any, what: str) -> Tensor:
    """Return the vectors or logits of a model in memory on the probe, some rows padded. Raises ValueError when it does not run."""
    ids = probe_ids(encoder.model.config.vocab_size, encoder.device)
    mask = torch.ones_like(ids)
    for row, count in enumerate(HIDDEN_TOKENS):
        mask[row, ids.shape[1] - count :] = 0
    try:
        return encoder(ids, mask).float().cpu()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{what}: {type(encoder.model).__name__} does not run: {one_line(error)}") from error


def check_kept(encoder: Any, expected: Tensor, what: str) -> None:
    """Raise ValueError unless an encoder cut in memory gives the vectors that its kept blocks gave by hand."""
    error = difference(expected, probe_vectors(encoder, what))
    if not error <= OTHER_ORDER.get(encoder.model.dtype, 5e-2):
        raise ValueError(
            f"{what}: {type(encoder.model).__name__} computes something else than its kept blocks, {error:.2g} of the largest number apart"
        )


def prove_encoder(
    folder: Path, expected: Tensor, what: str, device: torch.device, load: Callable[..., Any] = load_encoder
) -> None:
    """Load a written model as anyone would and hold its vectors or logits to `expected`, those in memory. Raises ValueError in one line."""
    give_back()
    encoder = load(folder, "auto", device)
    error = difference(expected, probe_vectors(encoder, what))
    if not error <= SAME_KERNELS.get(encoder.model.dtype, 1e-2):
        raise ValueError(
            f"{what}: the written {type(encoder.model).__name__} gives other numbers than the one in memory, "
            f"{error:.2g} of the largest number apart"
        )
    metric("proof_vector_error", error)
    note(
        f"proved: the written {type(encoder.model).__name__} loads whole, and gives what it gave in memory to {error:.1e}"
    )
