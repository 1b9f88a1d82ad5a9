"""An encoder is gated by what it is measured by, registered with its graphs, and pulled as the folder that sentence-transformers reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from attar.compressors.encode.encoder import encoded
from attar.registry.artifacts.handles import DatasetArtifact, EncoderArtifact, EncoderGraphArtifact
from attar.registry.artifacts.store import Store
from attar.registry.release.pull import download_model
from attar.stages.artifacts.encoder.folder import load_encoder
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.register.config import RegisterConfig
from attar.stages.register.encoder import check_gate
from attar.stages.register.stage import RegisterInputs, register
from tests.databases import copy_database
from tests.stages.artifacts.encoder.conftest import encoder_of


def test_an_encoder_is_registered_and_pulled(
    store: Store,
    mlflow_database: Path,
    encoder: EncoderArtifact,
    encoder_graph: EncoderGraphArtifact,
    pairs: DatasetArtifact,
    code: DatasetArtifact,
    tmp_path: Path,
) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    copy_database(mlflow_database, store.root / "mlflow.db")
    inputs = EvaluateInputs(model=encoder, tasks=(pairs, code))
    scores = evaluate.execute(EvaluateConfig(), inputs, store).artifact
    graph_scores = evaluate.execute(
        EvaluateConfig(), EvaluateInputs(model=encoder_graph, tasks=(pairs, code), beside=encoder), store
    ).artifact
    gate = {"min_spearman_retention": 0.9, "min_mrr_retention": 0.9, "max_size_ratio": 1.0}
    given = RegisterInputs(
        model=encoder, evaluation=scores, baseline=scores, onnx=(encoder_graph,), onnx_evaluation=(graph_scores,)
    )
    made = register.execute(RegisterConfig(name="vectors", gate=gate), given, store).artifact
    checks = json.loads((made.path / "release.json").read_text())["checks"]
    assert made.facts.is_champion and {check["name"] for check in checks} == {
        "spearman_ratio",
        "mrr_ratio",
        "num_parameters_ratio",
    }
    folder = download_model("vectors", tmp_path / "pulled")
    vectors = [encoded(load_encoder(path), [[5, 6, 7], [9, 8]]) for path in (encoder.path, folder / "model")]
    assert torch.equal(*vectors) and (folder / "onnx" / "model.onnx").exists()
    assert (folder / "onnx" / "modules.json").exists()
    card = (folder / "README.md").read_text()
    assert "library_name: sentence-transformers" in card and "A sentence encoder of 4 blocks" in card
    again = encoder_of(store, "models:/vectors@champion")
    assert again.facts.is_normalized and again.facts.max_tokens == 128


def test_a_gate_asks_what_is_measured() -> None:
    for gate, is_encoder in (({"max_perplexity_ratio": 1.1}, True), ({"min_mrr_retention": 0.9}, False)):
        with pytest.raises(ValueError, match="is not measured of"):
            check_gate(gate, is_encoder=is_encoder)
    check_gate({"max_size_ratio": 0.9, "min_spearman_retention": 0.9}, is_encoder=True)
    check_gate({"max_size_ratio": 0.9, "min_accuracy_retention": 0.9}, is_encoder=False)
