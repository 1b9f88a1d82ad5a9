"""How often a scan runs the model: once over the calibration text for all windows of every cosine metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attar.compressors.models.blocks import decoder_blocks
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.samples import calibration_samples
from attar.stages.artifacts.model import placement
from attar.stages.artifacts.model.folder import load_model
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan
from attar.stages.scan.tables import read_scores

METRICS = ["angular_distance", "block_influence"]


class Passes:
    """Counts the runs of a model and of each of its blocks, and keeps the tokens that it was given."""

    def __init__(self) -> None:
        self.tokens: list[list[int]] = []
        self.num_block_runs = [0, 0, 0, 0]

    def load(self, path: Path, *args: Any) -> nn.Module:
        """Load a model whose runs are counted."""
        model = load_model(path, *args)
        model.register_forward_pre_hook(self._count_model, with_kwargs=True)
        for index, block in enumerate(decoder_blocks(model)):
            block.register_forward_pre_hook(lambda module, args, index=index: self._count_block(index))
        return model

    def _count_model(self, module: nn.Module, args: tuple, kwargs: dict[str, torch.Tensor]) -> None:
        rows = zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True)
        self.tokens.append([int(token) for ids, mask in rows for token in ids[mask.bool()]])

    def _count_block(self, index: int) -> None:
        self.num_block_runs[index] += 1


@pytest.mark.parametrize(("num_samples", "num_batches"), [(2, 1), (5, 3), (7, 4)])
@pytest.mark.parametrize("metrics", [METRICS, METRICS[:1]], ids=len)
def test_every_window_is_scored_from_one_pass_over_the_text(
    store: Store,
    model: ModelArtifact,
    questions: DatasetArtifact,
    monkeypatch: pytest.MonkeyPatch,
    metrics: list[str],
    num_samples: int,
    num_batches: int,
) -> None:
    passes = Passes()
    monkeypatch.setattr(placement, "load_model", passes.load)
    config = ScanConfig(
        metrics=metrics,
        calibration={"num_samples": num_samples, "batch_size": 2, "max_tokens": 64, "precision": "float32"},
    )
    scanned = scan.execute(config, ScanInputs(model=model, data=questions), store).artifact
    assert len(passes.tokens) == num_batches
    assert passes.num_block_runs == [num_batches] * 4, "blocks are run by the model's passes alone"
    samples = calibration_samples(model.path, questions, num_samples, 64)
    assert [token for batch in passes.tokens for token in batch] == [
        token for sample in samples for token in sample.ids
    ], "each text once, in order"
    for name in metrics:
        assert len(read_scores(scanned.path / "windows.csv", name)) == 10, "4 windows of one block, 3 of two, 2, 1"
