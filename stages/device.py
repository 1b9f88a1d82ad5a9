"""Where tensors live and in what precision, decided once per stage process and said aloud."""

from __future__ import annotations

from typing import Literal

import torch

from registry.environment import has_bf16_matrix_unit
from stages.progress import note

Precision = Literal["auto", "float32", "bfloat16"]


def pick_device() -> torch.device:
    """Return the accelerator torch sees, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def pick_dtype(precision: Precision = "auto", device: torch.device | None = None) -> torch.dtype:
    """Return the dtype to compute in and log the reason.

    `auto`: bfloat16 where the hardware multiplies bfloat16 matrices (a GPU that supports it, a CPU with AMX), else float32.
    """
    device = device or pick_device()
    if precision != "auto":
        dtype, reason = getattr(torch, precision), "asked for"
    elif device.type == "cuda":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        reason = "bf16 support of the GPU"
    elif device.type == "cpu" and has_bf16_matrix_unit():
        dtype, reason = torch.bfloat16, "the processor has bf16 matrix instructions"
    else:
        dtype, reason = torch.float32, "no bf16 matrix instructions here"
    note(f"computing in {str(dtype).removeprefix('torch.')} on {device} ({reason}), {torch.get_num_threads()} threads")
    return dtype
