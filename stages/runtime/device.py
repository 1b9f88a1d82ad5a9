"""Where tensors live and in what precision, decided once per stage process and said aloud."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch

from attar.registry.artifacts.environment import has_bf16_products
from attar.stages.runtime.progress import note

Precision = Literal["auto", "float32", "bfloat16"]
# From here on bfloat16 pays: what is between the products gains nothing from it, and its digits are fewer.
MIN_BF16_GAIN = 1.3


def pick_device() -> torch.device:
    """Return the accelerator torch sees, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def pick_dtype(precision: Precision = "auto", device: torch.device | None = None) -> torch.dtype:
    """Return the dtype to compute in and log the reason.

    `auto`: bfloat16 where the hardware multiplies bfloat16 matrices faster (a GPU that supports it, a CPU that says so and is measured
    at 1.3 times float32's speed or more), else float32.
    """
    device = device or pick_device()
    if precision != "auto":
        dtype, reason = getattr(torch, precision), "asked for"
    elif device.type == "cuda":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        reason = "bf16 support of the GPU"
    elif device.type == "cpu" and has_bf16_products():
        dtype = torch.bfloat16 if bf16_gain() >= MIN_BF16_GAIN else torch.float32
        reason = f"its products are {bf16_gain():.1f} times as fast in bfloat16"
    else:
        dtype, reason = torch.float32, "no bf16 instructions here"
    note(f"computing in {str(dtype).removeprefix('torch.')} on {device} ({reason}), {torch.get_num_threads()} threads")
    return dtype


@cache
def bf16_gain() -> float:
    """Return how many times as fast this CPU multiplies bfloat16 matrices as float32 ones, with the threads of now. Measured once."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        tries = []
        for _ in range(24):  # the shortest counts: the first plans the product, and others may share the processor
            start = time.perf_counter()
            torch.mm(left, right)
            tries.append(time.perf_counter() - start)
        seconds[dtype] = min(tries)
    return seconds[torch.float32] / seconds[torch.bfloat16]
