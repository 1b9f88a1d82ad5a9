"""Our scan against the definitions published with PruneMe and ShortGPT, written again from their papers and scripts.

Where those are right we agree; where they are not, the test shows by how much: the last window read after the final norm, the first
block never considered, padding counted.
"""

from __future__ import annotations

import math

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.prune.depth.calibration import Sample, batches
from attar.compressors.prune.depth.metrics import COSINE_METRICS
from attar.compressors.prune.depth.scan import WindowScan, residual_stream
from attar.compressors.prune.depth.select import Saving, choose_window
from attar.stages.ingest.tiny_model import random_model

NUM_BLOCKS = 5
LENGTHS = [8, 12, 12, 19]
CPU = torch.device("cpu")


def samples() -> list[Sample]:
    generator = torch.Generator().manual_seed(5)
    return [Sample(torch.randint(3, 250, (length,), generator=generator).tolist()) for length in LENGTHS]


def ours(model, tokens: str) -> WindowScan:
    scan = WindowScan({name: build(COSINE_METRICS, name) for name in COSINE_METRICS})
    for batch in batches(samples(), 2, CPU, tokens=tokens, skip_first=False):  # type: ignore[arg-type]
        scan.update(model, batch.input_ids, batch.attention_mask, batch.counted)
    return scan


@torch.no_grad()
def prune_me(model, size: int) -> dict[int, float]:
    """Angular distance between the last real tokens of transformers' hidden states `size` apart, without the embeddings: by first block.

    As the published script does: states 1 to L, the last of them after the final norm.
    """
    distances: dict[int, list[float]] = {}
    for sample in samples():
        hidden = model(input_ids=torch.tensor([sample.ids]), output_hidden_states=True).hidden_states[1:]
        for index in range(len(hidden) - size):
            before, after = hidden[index][0, -1], hidden[index + size][0, -1]
            cosine = (before / before.norm()) @ (after / after.norm())
            distances.setdefault(index + 1, []).append(float(cosine.clamp(-1, 1).arccos()) / math.pi)
    return {first: sum(values) / len(values) for first, values in distances.items()}


@torch.no_grad()
def short_gpt(model, states: str) -> list[float]:
    """Block influence, 1 - E[cos(X_i, X_i+1)] over all tokens, from `hidden` (transformers' output) or `residual` (before the norm)."""
    sums = torch.zeros(NUM_BLOCKS, dtype=torch.float64)
    for sample in samples():
        with residual_stream(model) as residual:
            hidden = model(input_ids=torch.tensor([sample.ids]), output_hidden_states=True).hidden_states
        read = hidden if states == "hidden" else residual
        for index in range(NUM_BLOCKS):
            x, y = read[index][0].double(), read[index + 1][0].double()
            sums[index] += (1 - (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))).sum()
    return (sums / sum(LENGTHS)).tolist()


@pytest.mark.parametrize("size", [1, 2, 3])
def test_prune_me_agrees_but_for_the_ends(size: int) -> None:
    model, _ = random_model("llama", num_blocks=NUM_BLOCKS)
    with torch.no_grad():  # a trained model's final norm is no identity
        model.model.norm.weight.copy_(torch.linspace(0.1, 4.0, 64))
    scores, published = ours(model, "last").scores("angular_distance"), prune_me(model, size)
    last = NUM_BLOCKS - size
    for first in range(1, last):
        assert scores[first, size] == pytest.approx(published[first], abs=2e-4)
    assert abs(scores[last, size] - published[last]) > 0.02, "theirs compares the last state after the norm"
    assert 0 not in published and (0, size) in scores, "theirs never considers a window at the first block"


def test_a_window_at_the_first_block_that_does_nothing_is_found() -> None:
    model, _ = random_model("llama", num_blocks=NUM_BLOCKS)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
    scores, published = ours(model, "last").scores("angular_distance"), prune_me(model, 1)
    saving = [Saving.of_count(1, NUM_BLOCKS)]
    assert choose_window(scores, saving) == [0]
    assert min(published, key=lambda first: published[first]) != 0


def test_a_last_window_that_does_nothing_is_found() -> None:
    """The final norm bends the last state, so that an idle last block looks busy to a script that reads it there."""
    model, _ = random_model("llama", num_blocks=NUM_BLOCKS)
    with torch.no_grad():
        model.model.layers[-1].self_attn.o_proj.weight.zero_()
        model.model.layers[-1].mlp.down_proj.weight.zero_()
        model.model.norm.weight.copy_(torch.linspace(0.1, 4.0, 64))
    scores, published = ours(model, "last").scores("angular_distance"), prune_me(model, 1)
    assert scores[NUM_BLOCKS - 1, 1] == pytest.approx(0.0, abs=3e-4)
    assert published[NUM_BLOCKS - 1] > 0.1


def test_short_gpt_agrees_and_padding_never_counts() -> None:
    model, _ = random_model("llama", num_blocks=NUM_BLOCKS)
    with torch.no_grad():
        model.model.norm.weight.copy_(torch.linspace(0.1, 4.0, 64))
    scores = ours(model, "all").scores("block_influence")
    right, after_norm = short_gpt(model, "residual"), short_gpt(model, "hidden")
    assert [scores[index, 1] for index in range(NUM_BLOCKS)] == pytest.approx(right, abs=1e-5)
    assert right[:-1] == pytest.approx(after_norm[:-1], abs=1e-6)
    assert abs(right[-1] - after_norm[-1]) > 0.02, "what scripts on transformers' hidden states read for the last block"
