"""Recorded numbers of a seeded model: they pin behaviour, the laws in unit/ and parity/ prove it.

Recorded with torch 2.13.0 (CPU, float32) by `python -m pytest tests/golden`; changing one is argued in the commit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.prune.depth.metrics import COSINE_METRICS
from attar.compressors.prune.depth.scan import WindowScan
from attar.stages.ingest.tiny_model import random_model

GOLDEN = json.loads((Path(__file__).parent / "tiny_llama.json").read_text())


@pytest.mark.parametrize("metric", COSINE_METRICS)
def test_scan_scores(metric: str) -> None:
    model, _ = random_model("llama")
    ids = torch.arange(3, 43).reshape(2, 20)
    scan = WindowScan({metric: build(COSINE_METRICS, metric)})
    scan.update(model, ids, torch.ones_like(ids))
    scores = {f"{first}+{size}": score for (first, size), score in scan.scores(metric).items()}
    # four decimals: float32 sums differ between processors beyond that
    assert scores == pytest.approx(GOLDEN["scan"][metric], abs=1e-4)


def test_greedy_text() -> None:
    model, _ = random_model("llama")
    [generation] = decode(TorchRunner(model), [[5, 6, 7, 8]], max_new_tokens=12, stop_ids=())
    assert generation.token_ids == GOLDEN["greedy"]
