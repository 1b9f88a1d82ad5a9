"""Taggers come in as transformers lays them out, or of an encoder and kinds of spans; what is not one is refused in a line, before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from attar.compressors.encode.encoder import token_rows
from attar.folder_inputs import slot_value
from attar.registry.artifacts.handles import DatasetArtifact, TaggerArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.classifier.folder import load_classifier
from attar.stages.contract import NoInputs
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import ENCODER_FAMILIES
from attar.stages.quantize.config import QuantizeConfig
from attar.stages.quantize.stage import quantize
from attar.stages.scan.stage import scan
from tests.stages.artifacts.classifier.conftest import LEARNED, ROWS, classifier_of, ingested
from tests.stages.artifacts.tagger.conftest import TAGS, ingested_spans, tagger_of


def with_config(source: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_transformers_reads_the_folder_and_gives_the_same_logits(fresh: TaggerArtifact) -> None:
    model = AutoModelForTokenClassification.from_pretrained(fresh.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(fresh.path)
    assert model.config.id2label == dict(enumerate(TAGS)) and tokenizer.model_max_length == 64
    texts = ["Ada has 3", "of Bo Cruz, not 12 8"]
    own = token_rows(load_classifier(fresh.path), [tokenizer(text).input_ids for text in texts])
    for text, rows in zip(texts, own, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0]
        assert torch.allclose(rows, logits, atol=1e-6)
    assert fresh.facts.labels == TAGS and fresh.facts.reads_words and fresh.kind == "tagger"
    assert fresh.facts.num_parameters == sum(parameter.numel() for parameter in model.parameters())


# those left out are roberta by another name
@pytest.mark.parametrize(
    "family", [family for family in ENCODER_FAMILIES if family not in ("xlm-roberta", "camembert")]
)
def test_an_encoder_of_every_family_gets_a_head_over_tags(store: Store, family: str) -> None:
    made = tagger_of(store, f"random:{family}?num_blocks=2&hidden_size=32", labels=["Drug"])
    config = IngestModelConfig(source=f"folder:{made.path}", model={"kind": "tagger"})
    assert made.facts.labels == ("O", "B-Drug", "I-Drug") == ingest_model.forecast(config, {}).facts["labels"]
    again = ingest_model.execute(config, NoInputs(), store).artifact
    weights = [load_classifier(artifact.path).model.state_dict() for artifact in (made, again)]
    assert again.facts.labels == made.facts.labels and again.facts.num_parameters == made.facts.num_parameters
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_folder_is_taken_by_its_head_where_a_person_names_it(
    store: Store, fresh: TaggerArtifact, tmp_path: Path
) -> None:
    shutil.copytree(fresh.path, tmp_path / "folder", ignore=shutil.ignore_patterns("records"))
    assert slot_value(scan.slots["model"], str(tmp_path / "folder"), store, "scan").facts.labels == TAGS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"id2label": {str(index): f"LABEL_{index}" for index in range(5)}},
            "config.json has no labels .LABEL_0, LABEL_1., and model.labels names none; accepted: 5 names",
        ),
        ({"id2label": None}, "config.json has no labels"),
        (
            {"id2label": dict(enumerate(["O", "B-A", "I-A", "E-A", "S-A"]))},
            "its head over words has 'E-A'; accepted: O, and B-KIND",
        ),
        ({"id2label": dict(enumerate("ABCDE"))}, "its head over words has 'A'; accepted"),
        ({"architectures": ["BertModel"]}, "model.labels is empty, but .* has no head over tags of words"),
        (
            {"architectures": ["BertForSequenceClassification"]},
            "model.kind is 'tagger', but .* has a head over classes; accepted: classifier",
        ),
        ({"model_type": "gpt2"}, "as a classifier are accepted: bert"),
    ],
)
def test_a_folder_without_tags_is_refused_in_a_line(
    fresh: TaggerArtifact, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = with_config(fresh.path, tmp_path / "folder", **changes)
    config = IngestModelConfig(source=f"folder:{folder}", model={"kind": "tagger"})
    with pytest.raises(ValueError, match=message) as refusal:
        ingest_model.forecast(config, {})
    assert "\n" not in str(refusal.value)


def test_names_that_do_not_fit_are_refused_while_the_recipe_loads(store: Store, fresh: TaggerArtifact) -> None:
    for labels, message in (
        (["O", "Drug"], "labels has 'Drug'; accepted: O, and B-KIND and I-KIND"),
        (["B-Drug", "I-Drug"], "labels has no 'O'"),
        (["Drug", "Drug"], "labels has 'B-Drug' twice"),
    ):
        with pytest.raises(ValueError, match=message):
            IngestModelConfig(source="random:bert", model={"kind": "tagger", "labels": labels})
    with pytest.raises(ValueError, match="accepted: a kind of span at least"):
        IngestModelConfig(source="random:bert", model={"kind": "tagger"})
    with pytest.raises(
        ValueError, match="model.kind is 'classifier', but .* a head over tags of words; accepted: tagger"
    ):
        classifier_of(store, f"folder:{fresh.path}")
    with pytest.raises(ValueError, match=r"a tagger of words comes in with model \{kind: tagger\}"):
        ingest_model.execute(IngestModelConfig(source=f"folder:{fresh.path}"), NoInputs(), store)


def test_what_a_tagger_has_not_is_refused_before_any_work(
    store: Store, fresh: TaggerArtifact, spans: DatasetArtifact, tmp_path: Path
) -> None:
    facts, other = {"reads_words": True, "labels": TAGS}, {"reads_words": True, "labels": ("O", "B-X", "I-X")}
    for changes, given, message in (
        (
            {"objectives": {"next_token": 1.0}},
            {},
            "objectives.next_token reads a next token, and the model is a tagger",
        ),
        ({"objectives": {"similarity_rows": 1.0}}, {}, "and the model is a tagger; accepted: labels, forward_kl"),
        (
            {"objectives": {"forward_kl": 1.0}},
            {},
            "what a tagger learns from is not recorded; accepted: that input, or kind self",
        ),
        (
            {
                "objectives": {"forward_kl": 1.0},
                "teacher": {"kind": "input", "run_once": True, "split": {"by": "directions"}},
            },
            {"teacher": (facts,)},
            "teacher.split splits classes of texts",
        ),
        (
            {"objectives": {"forward_kl": 1.0}, "teacher": {"kind": "input"}},
            {"teacher": (other,)},
            "input teacher tells O, B-X, I-X, but model tells O, B-Name",
        ),
        (
            {"objectives": {"forward_kl": 1.0}, "teacher": {"kind": "input"}},
            {"teacher": ({"labels": TAGS},)},
            "input teacher is a classifier, but model is a tagger; accepted: two of a kind",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            finetune.forecast(FinetuneConfig(**{**LEARNED, **changes}), {"model": (facts,), "data": ({},), **given})
    limits = QuantizeConfig(limits={"kind": "vectors", "max_cosine_distance": 0.1})
    with pytest.raises(ValueError, match="the input is the graph of a tagger; accepted: classes"):
        quantize.forecast(limits, {"model": (facts,), "data": ({},)})
    strange = ingested_spans(
        store,
        tmp_path / "strange.jsonl",
        [{"text": "a b", "spans": [{"label": "Location", "text": "a"}]}],
        heldout_fraction=0.0,
    )
    with pytest.raises(ValueError, match="row 000000 has a span of kind 'Location', which the model does not have"):
        finetune.execute(FinetuneConfig(**LEARNED), FinetuneInputs(model=fresh, data=(strange,)), store)


def test_rows_without_spans_are_told(store: Store, fresh: TaggerArtifact, tmp_path: Path) -> None:
    labelled = ingested(store, tmp_path / "labelled.jsonl", ROWS[:12])
    with pytest.raises(ValueError, match="has no spans, but the model is a tagger; set columns.spans or columns.tags"):
        evaluate.execute(EvaluateConfig(), EvaluateInputs(model=fresh, tasks=(labelled,)), store)
    with pytest.raises(ValueError, match="no training row has spans; set columns.spans or columns.tags in ingest_data"):
        finetune.execute(FinetuneConfig(**LEARNED), FinetuneInputs(model=fresh, data=(labelled,)), store)
    texts = [{"text": f"a b {number}", "spans": []} for number in range(4)]
    bare = ingested_spans(store, tmp_path / "bare.jsonl", texts, heldout_fraction=0.0)
    with pytest.raises(ValueError, match="none of the 4 texts has a span, so that F1 says nothing"):
        evaluate.execute(EvaluateConfig(), EvaluateInputs(model=fresh, tasks=(bare,)), store)
