"""A classifier through the stages: it learns its classes, is scanned, cut, taught by the whole one, exported, quantized, measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attar.compressors.encode.encoder import encoded
from attar.registry.artifacts.handles import ClassifierArtifact, ClassifierGraphArtifact, DatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.classifier.folder import load_classifier
from attar.stages.artifacts.dataset.rows import read_rows, split_rows
from attar.stages.artifacts.encoder.texts import TextReader, asked_texts
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.paired_evaluations import evaluation_of, paired_ratios
from attar.stages.evaluate.stage import evaluate
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.kept_weights import WEIGHTS_FILE
from attar.stages.finetune.stage import finetune
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.quantize.config import QuantizeConfig, QuantizeInputs
from attar.stages.quantize.stage import quantize
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan
from attar.stages.scan.tables import TABLE, read_scores
from tests.stages.artifacts.classifier.conftest import LABELS, LEARNED, classifier_of, taught

TEACHER = {"kind": "input", "run_once": True}
SOFT = {"taught": {"divergence": "forward_kl", "temperature": 2.0}}


def logits_of(artifact: ClassifierArtifact, data: DatasetArtifact, part: Any = "heldout") -> torch.Tensor:
    texts = asked_texts(split_rows(read_rows(data.path / "rows.jsonl"), part))
    return encoded(load_classifier(artifact.path), TextReader.of(artifact)(texts))


def nats(teacher: torch.Tensor, student: torch.Tensor) -> float:
    before, after = teacher.log_softmax(-1), student.log_softmax(-1)
    return float((before.exp() * (before - after)).sum(-1).mean())


def test_a_classifier_learns_its_labels_and_is_measured(
    store: Store, fresh: ClassifierArtifact, classifier: ClassifierArtifact, labelled: DatasetArtifact
) -> None:
    inputs = EvaluateInputs(model=classifier, tasks=(labelled,), beside=fresh)
    measured = evaluate.execute(EvaluateConfig(precision="float32"), inputs, store).artifact
    content, facts = evaluation_of(measured), measured.facts
    rows = split_rows(read_rows(labelled.path / "rows.jsonl"), "heldout")
    logits = logits_of(classifier, labelled)
    right = [float(LABELS[int(row.argmax())] == question.answer) for row, question in zip(logits, rows, strict=True)]
    assert content["right"]["goods"] == right and len(right) > 8
    assert facts["accuracy"] == pytest.approx(sum(right) / len(right)) and facts["accuracy"] > 0.75
    assert facts["accuracy_low"] < facts["accuracy"] <= facts["accuracy_high"] and 0 < facts["macro_f1"] <= 1
    expected = float(
        torch.nn.functional.cross_entropy(logits.double(), torch.tensor([LABELS.index(r.answer) for r in rows]))
    )
    assert facts["label_nats"] == pytest.approx(expected, rel=1e-4)
    assert 0 <= facts["calibration_error"] <= 1 and facts["embed_seconds"] > 0 and facts["embed_seconds_32"] > 0
    assert content["latency"]["beside"]["model_fingerprint"] == fresh.fingerprint
    before = evaluate.execute(
        EvaluateConfig(precision="float32"), EvaluateInputs(model=fresh, tasks=(labelled,)), store
    )
    ratios = paired_ratios(content, evaluation_of(before.artifact))
    start, end = (load_classifier(artifact.path).model.state_dict() for artifact in (fresh, classifier))
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert {"classifier.weight", "bert.pooler.dense.weight"} < moved
    assert "bert.embeddings.word_embeddings.weight" not in moved
    assert ratios["accuracy"].value > 1 and ratios["macro_f1"].value > 1 and ratios["macro_f1"].low is not None


def test_a_cut_classifier_is_its_kept_blocks_and_is_taught_by_the_whole_one(
    store: Store, classifier: ClassifierArtifact, labelled: DatasetArtifact
) -> None:
    config = ScanConfig(
        metrics=["block_influence"], calibration={"num_samples": 8, "max_tokens": 32, "precision": "float32"}
    )
    scores = scan.execute(config, ScanInputs(model=classifier, data=labelled), store).artifact
    assert scores.facts.num_blocks == 3 and read_scores(scores.path / TABLE, "block_influence")
    cut = prune.execute(
        PruneConfig(num_blocks=1, metric="block_influence", choice="free"),
        PruneInputs(model=classifier, scan=scores),
        store,
    ).artifact
    assert isinstance(cut, ClassifierArtifact) and cut.facts.labels == tuple(LABELS) and cut.facts.max_tokens == 64
    assert cut.facts.num_blocks == 2 and len(cut.facts.removed_blocks) == 1
    whole, smaller = load_classifier(classifier.path).model, load_classifier(cut.path).model
    assert torch.equal(whole.classifier.weight, smaller.classifier.weight)
    healed = taught(store, cut, labelled, classifier, objectives=SOFT, teacher=TEACHER)
    assert healed.facts.removed_blocks == cut.facts.removed_blocks
    goal = logits_of(classifier, labelled)
    before, after = (nats(goal, logits_of(model, labelled)) for model in (cut, healed))
    assert after < 0.5 * before


@pytest.mark.parametrize("divergence", ["reverse_kl", "jensen_shannon"])
def test_a_teacher_run_once_teaches_as_a_live_one(
    store: Store, classifier: ClassifierArtifact, labelled: DatasetArtifact, divergence: str
) -> None:
    student = classifier_of(store, labels=LABELS, max_tokens=64, seed=1)
    short = {"objectives": {"own": {"divergence": divergence}}, "schedule": {"max_steps": 2, "tokens_per_step": 256}}
    made = [
        logits_of(
            taught(store, student, labelled, classifier, teacher={**TEACHER, "run_once": run_once}, **short), labelled
        )
        for run_once in (True, False)
    ]
    assert torch.allclose(*made, atol=1e-4) and not torch.allclose(made[0], logits_of(student, labelled), atol=1e-3)


def test_a_random_teacher_is_a_control_of_the_same_recipe(
    store: Store, classifier: ClassifierArtifact, labelled: DatasetArtifact
) -> None:
    recipe = FinetuneConfig(
        **{**LEARNED, "objectives": SOFT, "teacher": TEACHER, "schedule": {"max_steps": 2, "tokens_per_step": 256}}
    )
    control = recipe.with_random_teacher()
    assert control is not None and control.teacher.kind == "random"
    student = classifier_of(store, labels=LABELS, max_tokens=64, seed=1)
    inputs = FinetuneInputs(model=student, data=(labelled,), teacher=classifier)
    weights = [
        load_file(finetune.execute(config, inputs, store).artifact.path / WEIGHTS_FILE) for config in (recipe, control)
    ]
    assert not torch.equal(*(some["classifier.weight"] for some in weights))


def test_the_graph_gives_the_classes_and_in_integers_nearly(
    store: Store, classifier: ClassifierArtifact, classifier_graph: ClassifierGraphArtifact, labelled: DatasetArtifact
) -> None:
    import onnxruntime

    assert classifier_graph.facts.max_logprob_difference < 1e-4 and classifier_graph.facts.labels == tuple(LABELS)
    session = onnxruntime.InferenceSession(str(classifier_graph.path / "model.onnx"))
    assert [entry.name for entry in session.get_outputs()] == ["logits"]
    config = json.loads((classifier_graph.path / "config.json").read_text())
    assert config["id2label"] == {"0": "fruit", "1": "tool"} and config["architectures"] == [
        "BertForSequenceClassification"
    ]
    limits = {"kind": "classes", "max_kl_nats": 0.1, "min_agreement": 0.8}
    dynamic = {"kind": "dynamic", "block_size": 64}
    inputs = QuantizeInputs(model=classifier_graph, data=labelled)
    small = quantize.execute(QuantizeConfig(limits=limits, weights=dynamic), inputs, store).artifact
    assert isinstance(small, ClassifierGraphArtifact) and small.facts.quantization == "dynamic int8"
    assert 0 < small.facts.kl_nats < 0.1 and small.facts.size_fraction < 0.7
    scores = evaluate.execute(EvaluateConfig(), EvaluateInputs(model=small, tasks=(labelled,)), store).artifact
    assert scores.facts["accuracy"] > 0.7
    with pytest.raises(ValueError, match="the quantized classifier loses too much: KL"):
        quantize.execute(QuantizeConfig(limits={**limits, "max_kl_nats": 1e-12}, weights=dynamic), inputs, store)
