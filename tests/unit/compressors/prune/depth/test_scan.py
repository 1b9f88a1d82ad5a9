"""The scan: a planted identity block is the one that both metrics choose, and windows are what they say."""

from __future__ import annotations

import math

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.prune.depth.calibration import Sample, batches
from attar.compressors.prune.depth.metrics import COSINE_METRICS
from attar.compressors.prune.depth.scan import CHUNK, WindowScan
from attar.stages.ingest.tiny_model import random_model

METRICS = {name: build(COSINE_METRICS, name) for name in COSINE_METRICS}


def scan_tiny(identity: int | None = None) -> WindowScan:
    model, _ = random_model("llama", num_blocks=5)
    if identity is not None:
        block = model.model.layers[identity]
        with torch.no_grad():  # both residual branches write nothing: the block passes its input on
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    scan = WindowScan(METRICS)
    ids = torch.randint(3, 250, (4, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    scan.update(model, ids, mask)
    return scan


@pytest.mark.parametrize("metric", COSINE_METRICS)
@pytest.mark.parametrize("planted", [0, 2, 4])
def test_planted_identity_block_scores_lowest(metric: str, planted: int) -> None:
    scores = scan_tiny(planted).scores(metric)
    assert min(range(5), key=lambda first: scores[first, 1]) == planted
    assert scores[planted, 1] == pytest.approx(0.0, abs=3e-4)  # acos near 1 in float32: sqrt(2 * 2e-7) / pi


def test_every_window_of_every_size_is_scored_once() -> None:
    scores = scan_tiny().scores("angular_distance")
    assert sorted(scores) == sorted((first, size) for first in range(5) for size in range(1, 6 - first))
    assert all(0.0 <= score <= 1.0 for score in scores.values())


def test_padding_does_not_count() -> None:
    assert scan_tiny().num_tokens == 3 * 12 + 7


def test_chunks_and_batches_add_up_to_one_mean_over_tokens() -> None:
    states = torch.randn(4, 2 * CHUNK + 7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    once, twice = WindowScan(METRICS), WindowScan(METRICS)
    once.add(list(states))
    twice.add([state[:5] for state in states])
    twice.add([state[5:] for state in states])
    cosine = torch.cosine_similarity(states[1], states[3], dim=-1)
    assert once.scores("block_influence")[1, 2] == pytest.approx(float((1 - cosine).mean()), abs=1e-6)
    for name in METRICS:
        assert once.scores(name) == pytest.approx(twice.scores(name), abs=1e-6)


def test_states_with_massive_activations_lose_no_digits() -> None:
    states = torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(0))
    states[:, 0] *= 1e4
    states[:, :, 5] += 1e3
    scan = WindowScan(METRICS)
    scan.add(list(states))
    cosine = torch.cosine_similarity(states[0].double(), states[2].double(), dim=-1)
    # near cos 1 the float32 product is off by about 1e-7; its square root is what acos shows
    assert scan.scores("angular_distance")[0, 2] == pytest.approx(float(cosine.arccos().mean() / math.pi), abs=2e-5)


def test_metrics_at_known_angles() -> None:
    cosine = torch.tensor([1.0, 0.0, -1.0, 1.0 + 1e-6])
    torch.testing.assert_close(METRICS["angular_distance"](cosine), torch.tensor([0.0, 0.5, 1.0, 0.0]))
    torch.testing.assert_close(METRICS["block_influence"](cosine)[:3], torch.tensor([0.0, 1.0, 2.0]))
    assert METRICS["angular_distance"](torch.tensor(0.5)).item() == pytest.approx(1 / 3, abs=1e-6)
    assert math.isfinite(METRICS["angular_distance"](torch.tensor(1.0000001)).item())


@pytest.mark.parametrize(
    ("tokens", "skip_first", "counted", "predicted"),
    [
        ("all", False, [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1]]),
        ("all", True, [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1]], [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1]]),
        ("last", False, [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]], [[0, 1, 1, 0, 0], [0, 1, 1, 1, 1]]),
        ("answer", False, [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]], [[0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]),
        ("answer", True, [[0, 1, 1, 0, 0], [0, 0, 0, 1, 1]], [[0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]),
    ],
)
def test_tokens_that_count(tokens, skip_first, counted, predicted) -> None:
    samples = [Sample([5, 6, 7]), Sample([5, 6, 7, 8, 9], answer_start=3)]
    [batch] = batches(samples, 8, torch.device("cpu"), tokens=tokens, skip_first=skip_first)
    assert batch.counted.int().tolist() == counted
    assert batch.predicted.int().tolist() == predicted
