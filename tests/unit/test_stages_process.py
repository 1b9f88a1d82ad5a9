"""The process of a stage: what its allocator does with freed tensors."""

from __future__ import annotations

import multiprocessing
import platform
import resource

import pytest
import torch

from stages.process import keep_freed_memory

NUM_TENSORS, NUM_FLOATS = 8, 10 * 2**20


def page_faults(is_kept: bool) -> int:
    """Return how many pages the kernel hands out while tensors of 40 MiB come and go, the first apart."""
    if is_kept:
        keep_freed_memory()
    counts = []
    for _ in range(NUM_TENSORS):
        torch.ones(NUM_FLOATS)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return counts[-1] - counts[0]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_a_freed_tensor_is_used_again() -> None:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        plain, kept = pool.map(page_faults, [False, True], chunksize=1)
    assert plain >= NUM_TENSORS - 1, "nothing to save here: pages are not handed out one tensor at a time"
    assert kept < plain / 5
