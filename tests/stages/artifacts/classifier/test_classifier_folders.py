"""Classifiers come in as transformers lays them out, or of an encoder and names; what is not one is refused in a line, before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from attar.compressors.encode.encoder import encoded
from attar.registry.artifacts.handles import ClassifierArtifact, DatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.classifier.folder import load_classifier
from attar.stages.artifacts.classifier.row_classes import class_of
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.contract import NoInputs
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import ENCODER_FAMILIES
from attar.stages.quantize.config import QuantizeConfig
from attar.stages.quantize.stage import quantize
from tests.stages.artifacts.classifier.conftest import LABELS, LEARNED, ROWS, classifier_of, ingested, taught
from tests.stages.artifacts.encoder.conftest import encoder_of


def with_config(source: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_transformers_reads_the_folder_and_gives_the_same_logits(fresh: ClassifierArtifact) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(fresh.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(fresh.path)
    assert model.config.id2label == {0: "fruit", 1: "tool"} and tokenizer.model_max_length == 64
    batch = tokenizer(["a plum", "the longest saw"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    own = encoded(load_classifier(fresh.path), [tokenizer(text).input_ids for text in ("a plum", "the longest saw")])
    assert torch.allclose(own, logits, atol=1e-6)
    assert fresh.facts.labels == tuple(LABELS) and fresh.facts.num_subclasses == 1
    assert fresh.facts.num_parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("family", ENCODER_FAMILIES)
def test_an_encoder_of_every_family_gets_a_head_drawn_by_its_seed(store: Store, family: str) -> None:
    source = f"random:{family}?num_blocks=2&hidden_size=32"
    made = [classifier_of(store, source, labels=["a", "b", "c"], seed=seed) for seed in (0, 1)]
    heads = [load_classifier(artifact.path).model for artifact in made]
    states = [head.state_dict() for head in heads]
    differing = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert differing and all(not name.startswith(f"{heads[0].base_model_prefix}.enc") for name in differing)
    assert made[0].facts.labels == ("a", "b", "c") and heads[0].config.num_labels == 3


def test_a_folder_of_sentence_transformers_becomes_a_classifier_with_its_own_length(
    store: Store, tmp_path: Path
) -> None:
    encoder = encoder_of(store, "random:bert?num_blocks=2&hidden_size=32", max_tokens=48)
    config = IngestModelConfig(source=f"folder:{encoder.path}", model={"kind": "classifier", "labels": LABELS})
    forecast = ingest_model.forecast(config, {}).facts
    made = ingest_model.execute(config, NoInputs(), store).artifact
    assert (
        made.facts.max_tokens == forecast["max_tokens"] == 48
        and forecast["num_parameters"] == made.facts.num_parameters
    )
    again = classifier_of(store, f"folder:{made.path}")
    assert again.facts.labels == tuple(LABELS) and again.facts.max_tokens == 48
    weights = [load_classifier(artifact.path).model.state_dict() for artifact in (made, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_student_of_several_outputs_a_class_learns_what_classes_hide(
    store: Store, classifier: ClassifierArtifact, labelled: DatasetArtifact
) -> None:
    wide = classifier_of(store, labels=LABELS, max_tokens=64, num_subclasses=3, seed=2)
    names = [f"{label}#{index}" for label in LABELS for index in range(3)]
    assert list(json.loads((wide.path / "config.json").read_text())["id2label"].values()) == names
    teacher = {"kind": "input", "run_once": True, "split": {"by": "directions"}}
    student = taught(store, wide, labelled, classifier, objectives={"forward_kl": 1.0}, teacher=teacher)
    assert student.facts.num_subclasses == 3 and student.facts.labels == tuple(LABELS)
    inputs = EvaluateInputs(model=student, tasks=(labelled,))
    scores = evaluate.execute(EvaluateConfig(precision="float32"), inputs, store).artifact
    assert scores.facts["accuracy"] > 0.75
    # labels teach such a student too: outputs of a class are summed
    by_labels = taught(store, wide, labelled)
    assert by_labels.fingerprint != wide.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}},
            "config.json has no labels .LABEL_0, LABEL_1., and model.labels names none",
        ),
        ({"id2label": None}, "config.json has no labels"),
        ({"problem_type": "multi_label_classification"}, "problem_type is 'multi_label_classification'; accepted"),
        ({"architectures": ["BertModel"]}, "model.labels is empty, but .* has no head over classes"),
        (
            {"architectures": ["BertForSequenceClassification"], "model_type": "gpt2"},
            "as a classifier are accepted: bert",
        ),
        ({"id2label": {"0": "fruit"}}, "has a head of one output, which scores pairs; accepted: pair_scorer"),
        (
            {"id2label": {"1": "fruit", "2": "tool"}},
            "id2label of config.json has a class of number '2'; accepted: each from 0 to 1",
        ),
        ({"id2label": {"x": "fruit", "0": "tool"}}, "id2label of config.json has a class of number 'x'"),
        ({"id2label": {"0": "fruit", "1": None}}, "id2label of config.json names class 1 'None'; accepted: a word"),
        ({"id2label": {"0": ["fruit"], "1": "tool"}}, "names class 0 .* accepted: a word"),
    ],
)
def test_a_folder_without_classes_is_refused_in_a_line(
    fresh: ClassifierArtifact, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = with_config(fresh.path, tmp_path / "folder", **changes)
    config = IngestModelConfig(source=f"folder:{folder}", model={"kind": "classifier"})
    with pytest.raises(ValueError, match=message) as refusal:
        ingest_model.forecast(config, {})
    assert "\n" not in str(refusal.value)


def test_names_stand_in_for_those_of_a_folder_that_has_none(
    store: Store, fresh: ClassifierArtifact, tmp_path: Path
) -> None:
    unnamed = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    folder = with_config(fresh.path, tmp_path / "folder", **unnamed)
    assert classifier_of(store, f"folder:{folder}", labels=["no", "yes"]).facts.labels == ("no", "yes")
    for labels, message in ((["a", "b", "c"], "model.labels has 3 names"), (["no"], "two classes at least")):
        with pytest.raises(ValueError, match=message):
            classifier_of(store, f"folder:{folder}", labels=labels)
    with pytest.raises(ValueError, match="model.labels is no, yes, but .* has a head over fruit, tool"):
        classifier_of(store, f"folder:{fresh.path}", labels=["no", "yes"])
    with pytest.raises(ValueError, match="a random: model has no labels of its own"):
        IngestModelConfig(source="random:bert", model={"kind": "classifier"})


FACTS: dict[str, Any] = {
    "labels": ("a", "b"),
    "num_subclasses": 1,
    "max_tokens": 64,
    "num_blocks": 4,
    "vocab_size": 259,
}
CAUSAL: dict[str, Any] = {"num_blocks": 4, "vocab_size": 259}
TAUGHT: dict[str, Any] = {**LEARNED, "objectives": {"forward_kl": 1.0}, "teacher": {"kind": "input", "run_once": True}}
SPLIT = {"kind": "input", "run_once": True, "split": {"by": "directions"}}


@pytest.mark.parametrize(
    ("stage", "config", "inputs", "message"),
    [
        (
            finetune,
            FinetuneConfig(adapt={"kind": "full"}),
            {"model": FACTS},
            "objectives.next_token reads a next token",
        ),
        (
            finetune,
            FinetuneConfig(objectives={"similarity_rows": 1}),
            {"model": FACTS},
            "reads embeddings of a language",
        ),
        (finetune, FinetuneConfig(**LEARNED), {"model": CAUSAL}, "objectives.labels reads the class of each row"),
        (finetune, FinetuneConfig(objectives={"forward_kl": 1}), {"model": FACTS}, "no input `teacher`"),
        (finetune, FinetuneConfig(**TAUGHT), {"model": FACTS, "teacher": CAUSAL}, "input teacher is a causal"),
        (
            finetune,
            FinetuneConfig(**TAUGHT),
            {"model": FACTS, "teacher": {**FACTS, "labels": ("b", "a")}},
            "input teacher tells b, a, but model tells a, b",
        ),
        (
            finetune,
            FinetuneConfig(**{**LEARNED, "teacher": SPLIT}),
            {"model": FACTS, "teacher": FACTS},
            "reads labels, which do not tell subclasses",
        ),
        (
            finetune,
            FinetuneConfig(**{**TAUGHT, "teacher": {**SPLIT, "run_once": False}}),
            {"model": FACTS, "teacher": FACTS},
            "teacher.run_once is false; accepted: true",
        ),
        (
            finetune,
            FinetuneConfig(objectives={"labels": 1}),
            {"model": FACTS},
            "adapt.kind is 'lora', but the model is a",
        ),
        (evaluate, EvaluateConfig(), {"model": FACTS}, "texts with the names of their classes as answers"),
        (evaluate, EvaluateConfig(), {"model": FACTS, "tasks": {}, "text": {}}, "input text is a corpus"),
        (
            quantize,
            QuantizeConfig(limits={"kind": "vectors", "max_cosine_distance": 1.0}),
            {"model": {**FACTS, "format": "onnx"}},
            "limits.kind is 'vectors', but the input is the graph of a classifier; accepted: classes",
        ),
    ],
)
def test_what_a_classifier_has_not_is_refused_before_any_work(
    stage: Any, config: Any, inputs: dict[str, Any], message: str
) -> None:
    facts = {slot: (entry,) for slot, entry in ({"data": {}} | inputs if stage is not evaluate else inputs).items()}
    with pytest.raises(ValueError, match=message) as refusal:
        stage.forecast(config, facts)
    assert "\n" not in str(refusal.value)


def test_rows_of_a_single_class_teach_nothing(store: Store, fresh: ClassifierArtifact, tmp_path: Path) -> None:
    alike = [row for row in ROWS if row["label"] == ROWS[0]["label"]]
    data = ingested(store, tmp_path / "alike.jsonl", alike, heldout_fraction=0.0)
    with pytest.raises(ValueError, match="every training row with a class is of .* accepted: two classes or more"):
        finetune.execute(FinetuneConfig(**LEARNED), FinetuneInputs(model=fresh, data=(data,)), store)


def test_a_name_of_two_classes_names_neither() -> None:
    with pytest.raises(ValueError, match="data: row 1 is of class 'crane', which names two of the model's"):
        class_of(Row("1", "a bird", "crane"), ("crane", "heron", "crane"), "data")
    assert class_of(Row("1", "a bird", "heron"), ("crane", "heron", "crane"), "data") == 1


def test_a_class_that_the_model_does_not_have_is_named(store: Store, fresh: ClassifierArtifact, tmp_path: Path) -> None:
    strange = ingested(store, tmp_path / "strange.jsonl", [*ROWS[:3], {"text": "a fig", "label": "fruits"}])
    message = "of class 'fruits', which the model does not have. Did you mean 'fruit'"
    inputs = FinetuneInputs(model=fresh, data=(strange,))
    with pytest.raises(ValueError, match=message):
        finetune.execute(FinetuneConfig(**LEARNED), inputs, store)
    whole = ingested(store, tmp_path / "whole.jsonl", [{"text": "a fig", "label": "fruits"}], heldout_fraction=0.0)
    with pytest.raises(ValueError, match=message):
        evaluate.execute(EvaluateConfig(), EvaluateInputs(model=fresh, tasks=(whole,)), store)
    numbered = [{"text": row["text"], "label": LABELS.index(row["label"])} for row in ROWS[::9]]
    by_number = ingested(store, tmp_path / "numbered.jsonl", numbered, heldout_fraction=0.0)
    inputs = EvaluateInputs(model=fresh, tasks=(by_number,))
    assert evaluate.execute(EvaluateConfig(), inputs, store).artifact.facts["num_questions"] == len(numbered)
