"""The scan: a planted identity block is the one that both metrics choose, and windows are what they say."""

from __future__ import annotations

import math

import pytest
import torch

from compressors.catalogue import build
from compressors.prune.metrics import BLOCK_METRICS
from compressors.prune.scan import WindowScan, best_window
from stages.tiny_model import random_model


def scan_tiny(identity: int | None = None, tokens: str = "all") -> WindowScan:
    model, _ = random_model("llama", num_blocks=5)
    if identity is not None:
        block = model.model.layers[identity]
        with torch.no_grad():  # both residual branches write nothing: the block passes its input on
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    scan = WindowScan({name: build(BLOCK_METRICS, name) for name in BLOCK_METRICS}, tokens=tokens)  # type: ignore[arg-type]
    ids = torch.randint(3, 250, (4, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    scan.update(model, ids, mask)
    return scan


@pytest.mark.parametrize("metric", BLOCK_METRICS)
@pytest.mark.parametrize("planted", [0, 2, 4])
def test_planted_identity_block_is_chosen(metric: str, planted: int) -> None:
    scores = scan_tiny(planted).scores(metric)
    assert best_window(scores, 1) == planted
    assert scores[planted, 1] == pytest.approx(0.0, abs=2e-4)  # acos near 1 in float32: sqrt(2 * 1e-7) / pi


def test_every_window_of_every_size_is_scored_once() -> None:
    scores = scan_tiny().scores("angular_distance")
    assert sorted(scores) == sorted((first, size) for first in range(5) for size in range(1, 6 - first))
    assert all(0.0 <= score <= 1.0 for score in scores.values())


def test_padding_does_not_count() -> None:
    assert scan_tiny().num_tokens == 3 * 12 + 7
    assert scan_tiny(tokens="last").num_tokens == 4


def test_batches_add_up_to_one_pass() -> None:
    states = torch.randn(4, 20, 8, generator=torch.Generator().manual_seed(0))
    metrics = {name: build(BLOCK_METRICS, name) for name in BLOCK_METRICS}
    once, twice = WindowScan(metrics), WindowScan(metrics)
    once.add(states)
    twice.add(states[:, :5])
    twice.add(states[:, 5:])
    for name in BLOCK_METRICS:
        assert once.scores(name) == pytest.approx(twice.scores(name), abs=1e-6)


def test_metrics_at_known_angles() -> None:
    cosine = torch.tensor([1.0, 0.0, -1.0, 1.0 + 1e-6])
    torch.testing.assert_close(build(BLOCK_METRICS, "angular_distance")(cosine), torch.tensor([0.0, 0.5, 1.0, 0.0]))
    torch.testing.assert_close(build(BLOCK_METRICS, "block_influence")(cosine)[:3], torch.tensor([0.0, 1.0, 2.0]))
    assert build(BLOCK_METRICS, "angular_distance")(torch.tensor(0.5)).item() == pytest.approx(1 / 3, abs=1e-6)
    assert math.isfinite(build(BLOCK_METRICS, "angular_distance")(torch.tensor(1.0000001)).item())


def test_window_larger_than_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no window of 9 blocks: the largest has 5"):
        best_window(scan_tiny().scores("angular_distance"), 9)
