"""An encoder is gated by what it is measured by, registered with its graphs, and pulled as the folder that sentence-transformers reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.compressors.encode.encoder import encoded
from attar.registry.artifacts.handles import DatasetArtifact, EncoderArtifact, EncoderGraphArtifact
from attar.registry.artifacts.store import Store
from attar.registry.artifacts.subjects import CAUSAL, ENCODER
from attar.registry.release.pull import download_model
from attar.stages.artifacts.encoder.folder import load_encoder
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.config import ExportConfig
from attar.stages.export.formats.gguf import GgufFormat
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.stage import finetune
from attar.stages.register.config import IntervalGate, RegisterConfig
from attar.stages.register.stage import RegisterInputs, register
from attar.stages.register.subjects import check_gate
from tests.databases import copy_database
from tests.stages.artifacts.encoder.conftest import encoder_of

FACTS: dict[str, Any] = {
    "pooling": "mean",
    "is_normalized": True,
    "max_tokens": 128,
    "num_blocks": 4,
    "vocab_size": 259,
}


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
    for gate, subject in (({"max_perplexity_ratio": 1.1}, ENCODER), ({"min_mrr_retention": 0.9}, CAUSAL)):
        with pytest.raises(ValueError, match="is not measured of"):
            check_gate(gate, subject)
    on_intervals = [
        IntervalGate(checks=({"measure": name, "limit": 0.9},))  # type: ignore[arg-type] - as a recipe writes it
        for name in ("bytes_ratio", "accuracy_retention")
    ]
    for gate in on_intervals:
        check_gate(gate, CAUSAL)
    check_gate(on_intervals[0], ENCODER)
    with pytest.raises(ValueError, match="accuracy_retention is not measured of an encoder"):
        check_gate(on_intervals[1], ENCODER)
    check_gate({"max_size_ratio": 0.9, "min_spearman_retention": 0.9}, ENCODER)
    check_gate({"max_size_ratio": 0.9, "min_accuracy_retention": 0.9}, CAUSAL)


@pytest.mark.parametrize(
    ("stage", "config", "inputs", "message"),
    [
        (export, ExportConfig(format=GgufFormat()), {"data": {}}, "format.kind is 'gguf', but the model is an encoder"),
        (export, ExportConfig(), {"data": {}, "text": {}}, "input text is for causal language models"),
        (export, ExportConfig(num_new_tokens=8), {"data": {}}, "accepted: format.opset, num_prompts"),
        (export, ExportConfig(max_tie_logits=0.1), {"data": {}}, "accepted: format.opset, num_prompts"),
        (evaluate, EvaluateConfig(), {"tasks": {}, "baseline": {}}, "input baseline is read by stop alone"),
        (
            finetune,
            FinetuneConfig(
                objectives={"similarity_rows": 1.0},
                adapt={"kind": "full"},
                compute={"num_shards": 2},
                teacher={"kind": "input"},
            ),
            {"data": {}, "teacher": FACTS},
            "num_shards is 2, but the model is an encoder",
        ),
    ],
)
def test_what_only_causal_models_have_is_refused(stage: Any, config: Any, inputs: dict[str, Any], message: str) -> None:
    facts = {slot: (entry,) for slot, entry in {"model": FACTS, **inputs}.items()}
    with pytest.raises(ValueError, match=message):
        stage.forecast(config, facts)
