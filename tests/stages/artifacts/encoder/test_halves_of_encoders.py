"""Encoders' graphs in 16 bits: their vectors are torch's to fewer digits, their bytes half."""

from __future__ import annotations

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, EncoderArtifact, EncoderGraphArtifact
from attar.registry.artifacts.store import Store
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export


@pytest.mark.parametrize("precision", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_an_encoder_in_16_bits_has_half_the_bytes(
    store: Store,
    encoder: EncoderArtifact,
    encoder_graph: EncoderGraphArtifact,
    code: DatasetArtifact,
    precision: str,
) -> None:
    config = ExportConfig(format={"kind": "onnx", "precision": precision}, num_prompts=8)  # type: ignore[arg-type]
    half = export.execute(config, ExportInputs(model=encoder, data=code), store).artifact
    assert half.facts["precision"] == precision and float(half.facts["max_vector_difference"]) > 1e-6  # type: ignore[arg-type]
    sizes = [(folder / "model.onnx_data").stat().st_size for folder in (half.path, encoder_graph.path)]
    assert 0.45 < sizes[0] / sizes[1] < 0.6
