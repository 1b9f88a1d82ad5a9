"""Prove that a written denoiser is what was made. It loads whole in diffusers, and predicts what the one in memory did."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from attar.compressors.diffusion.net import predictor
from attar.compressors.measure.same_logits import SAME_KERNELS, difference
from attar.stages.artifacts.denoiser.folder import Denoiser, load_denoiser
from attar.stages.artifacts.model.load_report import one_line
from attar.stages.runtime.free_memory import give_back
from attar.stages.runtime.progress import metric, note

NUM_PROBES = 4


@torch.no_grad()
def probe_predictions(denoiser: Denoiser, what: str) -> Tensor:
    """Return what a denoiser in memory predicts of noise, always the same. Raises ValueError in one line when it does not run."""
    device = next(denoiser.net.parameters()).device
    states = torch.randn(NUM_PROBES, *denoiser.shape, generator=torch.Generator().manual_seed(0)).to(device)
    times = torch.linspace(0, denoiser.process.num_timesteps - 1, NUM_PROBES, device=device).long()
    classes = torch.arange(NUM_PROBES, device=device) % denoiser.num_labels
    try:
        return predictor(denoiser.net)(states, times, classes).float().cpu()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{what}: {type(denoiser.net).__name__} does not run: {one_line(error)}") from error


def prove_denoiser(folder: Path, expected: Tensor, what: str, device: torch.device | None = None) -> None:
    """Load a written denoiser as anyone would and hold its predictions to `expected`. Raises ValueError in one line."""
    give_back()
    error = difference(expected, probe_predictions(load_denoiser(folder, device), what))
    if not error <= SAME_KERNELS[torch.float32]:
        raise ValueError(
            f"{what}: the written denoiser predicts something else than the one in memory, {error:.2g} of the largest number apart"
        )
    metric("proof_prediction_error", error)
    note(f"proved: the written denoiser loads whole, and predicts what the one in memory does to {error:.1e}")
