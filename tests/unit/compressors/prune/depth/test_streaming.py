"""What a scan and a fit of patches hold while text streams by: sums of one size, and of no batch its states."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.prune.depth.metrics import COSINE_METRICS
from attar.compressors.prune.depth.patch import PatchFit
from attar.compressors.prune.depth.scan import WindowScan
from attar.compressors.prune.depth.scores.patch_residual import PatchResidual
from attar.stages.ingest.tiny_model import random_model

NUM_BLOCKS, WIDTH = 5, 64
BYTES = 8  # of float64, in which all of them sum


def window_scan() -> WindowScan:
    return WindowScan({name: build(COSINE_METRICS, name) for name in ("angular_distance", "block_influence")})


# What streams, and how many numbers it sums: each pair of the L + 1 states under two metrics, and D x D twice a window, once for what
# comes in and once for what is wanted of it. The residual of a patch has a second fit beside each, whose errors are weighed otherwise.
STREAMS: dict[str, tuple[Callable[[], Any], int]] = {
    "scan": (window_scan, 2 * NUM_BLOCKS * (NUM_BLOCKS + 1) // 2),
    "patch of one window": (lambda: PatchFit(2, [2]), 2 * WIDTH**2),
    "patch of three windows": (lambda: PatchFit(2, [1, 2, 3], is_weighted=True), 3 * 2 * WIDTH**2),
    "residual of two sizes": (lambda: PatchResidual().start(NUM_BLOCKS, [3, 4]), (2 + 1) * 2 * 2 * WIDTH**2),
}


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor that a value holds, however deep."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from tensors_of(item)
    elif hasattr(value, "__dict__"):
        yield from tensors_of(vars(value))


def held_bytes(value: Any) -> int:
    """Return the bytes behind a value's tensors: of a view those of all it keeps alive."""
    return sum(
        {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors_of(value)
        }.values()
    )


@pytest.mark.parametrize("name", STREAMS)
def test_sums_are_of_one_size_whatever_the_number_of_tokens(name: str) -> None:
    start, num_sums = STREAMS[name]
    model, _ = random_model("llama", num_blocks=NUM_BLOCKS, hidden_size=WIDTH)
    generator = torch.Generator().manual_seed(0)
    stream, held = start(), []
    for length in (3, 40, 40, 7, 40, 40):
        ids = torch.randint(3, 250, (4, length), generator=generator)
        stream.update(model, ids, torch.ones_like(ids))
        held.append(held_bytes(stream))
    assert stream.num_tokens == 4 * 170
    assert held == [BYTES * num_sums] * 6


@pytest.mark.parametrize("name", STREAMS)
def test_no_state_of_a_batch_outlives_it(name: str) -> None:
    model, _ = random_model("llama", num_blocks=NUM_BLOCKS, hidden_size=WIDTH)
    states: list[weakref.ref] = []
    for block in decoder_blocks(model):
        block.register_forward_hook(lambda module, args, output: states.append(weakref.ref(output)))
        block.mlp.down_proj.register_forward_hook(lambda module, args, output: states.append(weakref.ref(output)))
    stream = STREAMS[name][0]()
    for num_batches in (1, 2, 3):
        ids = torch.arange(3, 43).reshape(2, 20)
        stream.update(model, ids, torch.ones_like(ids))
        gc.collect()
        assert len(states) == 2 * NUM_BLOCKS * num_batches
        assert not any(state() is not None for state in states)
