"""A tagger through the stages: it learns its spans, is scanned, cut, taught by the whole one, exported, quantized, measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.compressors.data.spans import spans_of, word_locations
from attar.compressors.distill.examples.sentences import Sentence, collated
from attar.compressors.encode.encoder import token_rows
from attar.registry.artifacts.handles import DatasetArtifact, TaggerArtifact, TaggerGraphArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.classifier.folder import load_classifier
from attar.stages.artifacts.dataset.rows import read_rows, split_rows
from attar.stages.artifacts.encoder.texts import TextReader, asked_texts
from attar.stages.evaluate.classes.tagger import predicted_tags, read_tagged
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.paired_evaluations import evaluation_of, paired_ratios
from attar.stages.evaluate.stage import evaluate
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.quantize.config import QuantizeConfig, QuantizeInputs
from attar.stages.quantize.stage import quantize
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan
from attar.stages.scan.tables import TABLE, read_scores
from tests.stages.artifacts.classifier.conftest import taught
from tests.stages.artifacts.tagger.conftest import KINDS, LESSON, TAGS, ingested_spans, tagger_of

TEACHER = {"kind": "input", "run_once": True}
SOFT = {"taught": {"divergence": "forward_kl", "temperature": 2.0}}
FLOAT = EvaluateConfig(precision="float32")


def logits_of(artifact: Any, data: DatasetArtifact) -> torch.Tensor:
    """Of the words, whose first tokens alone are taught."""
    texts = asked_texts(split_rows(read_rows(data.path / "rows.jsonl"), "heldout"))
    aligned = list(TextReader.of(artifact).aligned(texts, [word_locations(text) for text in texts]))
    rows = token_rows(load_classifier(artifact.path), [ids for ids, _ in aligned])
    return torch.cat([own[firsts] for own, (_, firsts) in zip(rows, aligned, strict=True)])


def nats(teacher: torch.Tensor, student: torch.Tensor) -> float:
    before, after = teacher.log_softmax(-1), student.log_softmax(-1)
    return float((before.exp() * (before - after)).sum(-1).mean())


def test_a_batch_of_tagged_texts_learns_the_first_tokens_of_words() -> None:
    batch = collated(
        [
            Sentence([1, 2, 3], positions=(0, 2), tags=(4, 0), teacher=torch.tensor([[1.0, 0.0], [0.0, 1.0]])),
            Sentence([5], positions=(0,), tags=(-1,), teacher=torch.tensor([[0.5, 0.5]])),
        ]
    )
    assert batch.words is not None and batch.words.tolist() == [[0, 0, 1], [0, 2, 0]]
    assert batch.labels is not None and batch.labels.tolist() == [4, 0, -1] and len(batch.facts) == 3
    assert batch.num_positions == batch.num_taught == 3 and batch.num_labelled == 2
    assert batch.teacher is not None and batch.teacher.shape == (3, 2)


def test_a_tagger_learns_its_spans_and_is_measured(
    store: Store, fresh: TaggerArtifact, tagger: TaggerArtifact, spans: DatasetArtifact
) -> None:
    inputs = EvaluateInputs(model=tagger, tasks=(spans,), beside=fresh)
    measured = evaluate.execute(FLOAT, inputs, store).artifact
    content, facts = evaluation_of(measured), measured.facts
    task = read_tagged(spans, "names", TAGS, 0, "heldout")
    predicted = predicted_tags(load_classifier(tagger.path), TextReader.of(tagger), task, TAGS, 8, "names")
    right = [float(own == list(there)) for own, there in zip(predicted, task.tags, strict=True)]
    assert content["right"]["names"] == right and len(right) > 20
    assert facts["accuracy"] == pytest.approx(sum(right) / len(right))
    hits, every = 0, 0
    for own, there in zip(predicted, task.tags, strict=True):
        hits += len({*spans_of(own)} & {*spans_of(there)})
        every += len(spans_of(own)) + len(spans_of(there))
    assert facts["span_f1"] == pytest.approx(2 * hits / every) and facts["span_f1"] > 0.8
    assert facts["span_f1_low"] < facts["span_f1"] <= facts["span_f1_high"]
    assert 0 < facts["span_precision"] <= 1 and 0 < facts["span_recall"] <= 1 and facts["token_accuracy"] > 0.9
    before = evaluate.execute(FLOAT, EvaluateInputs(model=fresh, tasks=(spans,)), store).artifact
    assert before.facts["span_f1"] < 0.3
    ratios = paired_ratios(content, evaluation_of(measured))
    assert ratios["span_f1"].value == 1.0 and ratios["span_f1"].low is not None and "macro_f1" not in ratios


def test_words_behind_the_cut_are_outside_and_not_learned(store: Store, tagger: TaggerArtifact, tmp_path: Path) -> None:
    text = "ask Ada for it"
    data = ingested_spans(
        store,
        tmp_path / "long.jsonl",
        [{"text": text, "spans": [{"label": "Name", "text": "Ada"}]}],
        heldout_fraction=0.0,
    )
    reader = TextReader(tagger.path, 6)
    ((ids, firsts),) = reader.aligned([text], [word_locations(text)])
    assert len(ids) <= 6 and firsts[0] >= 0 and firsts[2:] == [-1, -1]
    predicted = predicted_tags(
        load_classifier(tagger.path), reader, read_tagged(data, "long", TAGS, 0, "train"), TAGS, 8, "long"
    )
    assert predicted[0][2:] == ["O", "O"]


def test_a_cut_tagger_is_its_kept_blocks_and_is_taught_by_the_whole_one(
    store: Store, tagger: TaggerArtifact, spans: DatasetArtifact
) -> None:
    config = ScanConfig(
        metrics=["block_influence"], calibration={"num_samples": 8, "max_tokens": 32, "precision": "float32"}
    )
    scores = scan.execute(config, ScanInputs(model=tagger, data=spans), store).artifact
    assert scores.facts.num_blocks == 3 and read_scores(scores.path / TABLE, "block_influence")
    cut = prune.execute(
        PruneConfig(num_blocks=1, metric="block_influence", choice="free"),
        PruneInputs(model=tagger, scan=scores),
        store,
    ).artifact
    assert isinstance(cut, TaggerArtifact) and cut.facts.labels == TAGS and cut.facts.reads_words
    assert cut.facts.num_blocks == 2 and len(cut.facts.removed_blocks) == 1
    short = {"objectives": SOFT, **LESSON, "schedule": {**LESSON["schedule"], "num_epochs": 2}}
    healed = taught(store, cut, spans, tagger, teacher=TEACHER, **short)
    assert healed.facts.removed_blocks == cut.facts.removed_blocks
    goal = logits_of(tagger, spans)
    before, after = (nats(goal, logits_of(model, spans)) for model in (cut, healed))
    assert after < 0.6 * before


def test_a_teacher_run_once_teaches_as_a_live_one(store: Store, tagger: TaggerArtifact, spans: DatasetArtifact) -> None:
    student = tagger_of(store, labels=KINDS, max_tokens=64, seed=1)
    short = {"objectives": {"own": {"divergence": "forward_kl"}}, "schedule": {"max_steps": 2, "tokens_per_step": 256}}
    made = [
        logits_of(taught(store, student, spans, tagger, teacher={**TEACHER, "run_once": run_once}, **short), spans)
        for run_once in (True, False)
    ]
    assert torch.allclose(*made, atol=1e-4) and not torch.allclose(made[0], logits_of(student, spans), atol=1e-3)


def test_the_graph_gives_the_tags_and_in_integers_nearly(
    store: Store, tagger: TaggerArtifact, tagger_graph: TaggerGraphArtifact, spans: DatasetArtifact
) -> None:
    import onnxruntime

    assert tagger_graph.facts.max_logprob_difference < 1e-4 and tagger_graph.facts.labels == TAGS
    session = onnxruntime.InferenceSession(str(tagger_graph.path / "model.onnx"))
    (output,) = session.get_outputs()
    assert output.name == "logits" and output.shape == ["batch_size", "sequence_length", len(TAGS)]
    config = json.loads((tagger_graph.path / "config.json").read_text())
    assert config["id2label"]["1"] == "B-Name" and config["architectures"] == ["BertForTokenClassification"]
    limits = {"kind": "classes", "max_kl_nats": 0.1, "min_agreement": 0.8}
    dynamic = {"kind": "dynamic", "block_size": 64}
    inputs = QuantizeInputs(model=tagger_graph, data=spans)
    small = quantize.execute(QuantizeConfig(limits=limits, weights=dynamic), inputs, store).artifact
    assert isinstance(small, TaggerGraphArtifact) and small.facts.quantization == "dynamic int8"
    assert 0 < small.facts.kl_nats < 0.1 and small.facts.size_fraction < 0.7
    scores = evaluate.execute(EvaluateConfig(), EvaluateInputs(model=small, tasks=(spans,)), store).artifact
    assert scores.facts["span_f1"] > 0.7
    with pytest.raises(ValueError, match="the quantized tagger loses too much: KL"):
        quantize.execute(QuantizeConfig(limits={**limits, "max_kl_nats": 1e-12}, weights=dynamic), inputs, store)
