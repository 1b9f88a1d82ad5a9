"""A tagger is gated by what it is measured by, registered with its graph, pulled as the folder that transformers reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.registry.artifacts.handles import DatasetArtifact, TaggerArtifact, TaggerGraphArtifact
from attar.registry.artifacts.store import Store
from attar.registry.artifacts.subjects import CAUSAL, CLASSIFIER, TAGGER
from attar.registry.release.pull import download_model
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.register.config import RegisterConfig
from attar.stages.register.stage import RegisterInputs, register
from attar.stages.register.subjects import check_gate
from tests.databases import copy_database
from tests.stages.artifacts.tagger.conftest import TAGS, tagger_of


def test_a_tagger_is_registered_and_pulled(
    store: Store,
    mlflow_database: Path,
    tagger: TaggerArtifact,
    tagger_graph: TaggerGraphArtifact,
    spans: DatasetArtifact,
    tmp_path: Path,
) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    copy_database(mlflow_database, store.root / "mlflow.db")
    scores, graph_scores = (
        evaluate.execute(EvaluateConfig(), EvaluateInputs(model=model, tasks=(spans,)), store).artifact
        for model in (tagger, tagger_graph)
    )
    gate = {"min_accuracy_retention": 0.6, "min_span_f1_retention": 0.6, "max_size_ratio": 1.0}
    given = RegisterInputs(
        model=tagger, evaluation=scores, baseline=scores, onnx=(tagger_graph,), onnx_evaluation=(graph_scores,)
    )
    made = register.execute(RegisterConfig(name="names", gate=gate), given, store).artifact
    checks = json.loads((made.path / "release.json").read_text())["checks"]
    assert made.facts.is_champion and {check["name"] for check in checks} == {
        "accuracy_ratio",
        "span_f1_ratio",
        "num_parameters_ratio",
    }
    folder = download_model("names", tmp_path / "pulled")
    from transformers import pipeline

    predicted = pipeline("token-classification", model=str(folder / "model"), aggregation_strategy="first")(
        "of Ada, not 3"
    )
    assert {entry["entity_group"] for entry in predicted} <= {"Name", "Count"}
    assert (folder / "onnx" / "model.onnx").exists()
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card and "A tagger of words of 3 blocks" in card
    assert tagger_of(store, "models:/names@champion").facts.labels == TAGS


def test_a_gate_asks_what_is_measured() -> None:
    check_gate({"min_span_f1_retention": 0.9, "min_accuracy_retention": 0.9, "max_batch_latency_ratio": 1}, TAGGER)
    for gate, subject in (
        ({"min_macro_f1_retention": 0.9}, TAGGER),
        ({"max_perplexity_ratio": 1.1}, TAGGER),
        ({"min_span_f1_retention": 0.9}, CAUSAL),
        ({"min_span_f1_retention": 0.9}, CLASSIFIER),
    ):
        with pytest.raises(ValueError, match="is not measured of"):
            check_gate(gate, subject)
