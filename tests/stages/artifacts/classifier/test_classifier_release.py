"""A classifier is gated by what it is measured by, registered with its graph, pulled as the folder that transformers reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from attar.compressors.encode.encoder import encoded
from attar.registry.artifacts.handles import ClassifierArtifact, ClassifierGraphArtifact, DatasetArtifact
from attar.registry.artifacts.store import Store
from attar.registry.artifacts.subjects import CAUSAL, CLASSIFIER, ENCODER
from attar.registry.release.pull import download_model
from attar.stages.artifacts.classifier.folder import load_classifier
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.register.config import RegisterConfig
from attar.stages.register.stage import RegisterInputs, register
from attar.stages.register.subjects import check_gate
from tests.databases import copy_database
from tests.stages.artifacts.classifier.conftest import LABELS, classifier_of


def test_a_classifier_is_registered_and_pulled(
    store: Store,
    mlflow_database: Path,
    classifier: ClassifierArtifact,
    classifier_graph: ClassifierGraphArtifact,
    labelled: DatasetArtifact,
    tmp_path: Path,
) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    copy_database(mlflow_database, store.root / "mlflow.db")
    scores, graph_scores = (
        evaluate.execute(EvaluateConfig(), EvaluateInputs(model=model, tasks=(labelled,)), store).artifact
        for model in (classifier, classifier_graph)
    )
    gate = {"min_accuracy_retention": 0.6, "min_macro_f1_retention": 0.6, "max_size_ratio": 1.0}
    given = RegisterInputs(
        model=classifier, evaluation=scores, baseline=scores, onnx=(classifier_graph,), onnx_evaluation=(graph_scores,)
    )
    made = register.execute(RegisterConfig(name="goods", gate=gate), given, store).artifact
    checks = json.loads((made.path / "release.json").read_text())["checks"]
    assert made.facts.is_champion and {check["name"] for check in checks} == {
        "accuracy_ratio",
        "macro_f1_ratio",
        "num_parameters_ratio",
    }
    folder = download_model("goods", tmp_path / "pulled")
    logits = [encoded(load_classifier(path), [[5, 6, 7], [9, 8]]) for path in (classifier.path, folder / "model")]
    assert torch.equal(*logits) and (folder / "onnx" / "model.onnx").exists()
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card and "A classifier of texts of 3 blocks" in card
    assert classifier_of(store, "models:/goods@champion").facts.labels == tuple(LABELS)


def test_a_gate_asks_what_is_measured() -> None:
    check_gate({"min_macro_f1_retention": 0.9, "min_accuracy_retention": 0.9, "max_batch_latency_ratio": 1}, CLASSIFIER)
    for gate, subject in (
        ({"min_mrr_retention": 0.9}, CLASSIFIER),
        ({"max_perplexity_ratio": 1.1}, CLASSIFIER),
        ({"min_macro_f1_retention": 0.9}, CAUSAL),
        ({"min_macro_f1_retention": 0.9}, ENCODER),
    ):
        with pytest.raises(ValueError, match="is not measured of"):
            check_gate(gate, subject)
