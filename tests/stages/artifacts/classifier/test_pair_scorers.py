"""Scorers of pairs, and an encoder and a scorer that teach each other: labels of pairs, a scorer of them, an encoder of its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertTokenizerFast

from attar.compressors.distill.examples.sentences import Sentence, collated
from attar.compressors.distill.losses.embeddings.pairs import PairDistance
from attar.compressors.distill.losses.embeddings.views import EmbeddingViews
from attar.compressors.encode.classifier import segments
from attar.compressors.encode.encoder import encoded
from attar.registry.artifacts.handles import (
    ClassifierArtifact,
    ClassifierGraphArtifact,
    DatasetArtifact,
    EncoderArtifact,
)
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.classifier.folder import load_classifier
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.label.pair_labels import LabelPairsConfig, LabelPairsInputs, label_pairs
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from tests.stages.artifacts.classifier.conftest import LABELS, SOURCE, WORDS, classifier_of, taught
from tests.stages.artifacts.encoder.conftest import encoder_of, ingested

PAIRS: list[dict[str, Any]] = [
    {"a": f"a {first}", "b": f"{cue} {second}", "score": score}
    for first, second in zip(WORDS["fruit"], WORDS["tool"], strict=True)
    for cue, score in (("like", 1.0), ("unlike", 0.0), ("likely", 0.9), ("not", 0.1))
]
COLUMNS = {"question": "a", "answer": "b", "similarity": "score"}
FLOAT = LabelPairsConfig(precision="float32")


@pytest.fixture(scope="session")
def pairs(shared_store: Store, session_folder: Path) -> DatasetArtifact:
    path = session_folder / "kinds_of_pairs.jsonl"
    return ingested(shared_store, path, PAIRS, columns=COLUMNS, heldout_fraction=0.25, choose_fraction=0.1)


@pytest.fixture(scope="session")
def encoder(shared_store: Store) -> EncoderArtifact:
    return encoder_of(shared_store, SOURCE, max_tokens=64)


@pytest.fixture(scope="session")
def scorer(shared_store: Store) -> ClassifierArtifact:
    config = {"kind": "pair_scorer", "max_tokens": 64}
    return classifier_of(shared_store, **config)


def labels_of(store: Store, data: DatasetArtifact, *models: Any) -> dict[str, Row]:
    made = label_pairs.execute(FLOAT, LabelPairsInputs(models=models, data=data), store).artifact
    return {row.id: row for row in read_rows(made.path / "rows.jsonl")}


def test_a_scorer_has_one_output_and_reads_both_texts(scorer: ClassifierArtifact) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(scorer.path).eval()
    assert model.config.num_labels == 1 and scorer.facts.reads_pairs and scorer.facts.labels == ("apart", "alike")
    ids = TextReader.of(scorer)([("a plum", "one saw"), ("a plum", "one vice")])
    logits = encoded(load_classifier(scorer.path), ids)
    with torch.no_grad():
        own = [float(model(torch.tensor([some])).logits) for some in ids]
    assert torch.allclose(logits[:, 1], torch.tensor(own), atol=1e-6) and not logits[:, 0].any()


def test_a_scorer_whose_tokenizer_parts_no_texts_is_refused(store: Store, scorer: ClassifierArtifact) -> None:
    # a stranger's segments would be others than ours
    with pytest.raises(
        ValueError, match="the tokenizer has no sep_token, by which a bert tells the texts of a pair apart"
    ):
        classifier_of(store, f"folder:{scorer.path}", kind="pair_scorer")


def test_segments_are_those_of_a_tokenizer_of_pairs(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt"))
    made = tokenizer(["a b", "a"], ["c", "b c a"], padding=True, return_tensors="pt")
    shown = segments(made.input_ids, tokenizer.sep_token_id) * made.attention_mask
    assert torch.equal(shown, made.token_type_ids)


def test_labels_are_what_the_models_say_and_the_same_in_both_orders(
    store: Store, encoder: EncoderArtifact, scorer: ClassifierArtifact, pairs: DatasetArtifact
) -> None:
    rows = {row.id: row for row in read_rows(pairs.path / "rows.jsonl")}
    by_encoder, by_scorer = labels_of(store, pairs, encoder), labels_of(store, pairs, scorer)
    both = labels_of(store, pairs, encoder, scorer)
    again = labels_of(store, pairs, scorer, scorer)
    reader, classifier = TextReader.of(scorer), load_classifier(scorer.path)
    for name, row in rows.items():
        if row.split == "heldout":
            assert by_scorer[name].similarity == row.similarity
            continue
        orders = [(row.question, row.answer), (row.answer, row.question)]
        expected = float(encoded(classifier, reader(orders)).softmax(-1)[:, 1].mean())
        assert by_scorer[name].similarity == pytest.approx(expected, abs=1e-5)
        assert 0 <= by_encoder[name].similarity <= 1  # type: ignore[operator]
        mean = (by_encoder[name].similarity + by_scorer[name].similarity) / 2  # type: ignore[operator]
        assert both[name].similarity == pytest.approx(mean, abs=1e-6)
        assert again[name].similarity == pytest.approx(by_scorer[name].similarity, abs=1e-6)


def test_an_encoder_that_gave_the_labels_has_nothing_to_learn_of_them() -> None:
    vectors = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    cosines = torch.cosine_similarity(vectors[0::2], vectors[1::2], dim=-1)
    student = vectors.clone().requires_grad_()
    loss = PairDistance().terms(EmbeddingViews(student, similarities=cosines)).values.sum()
    loss.backward()
    assert float(loss) == pytest.approx(0.0, abs=1e-9) and student.grad is not None
    assert float(student.grad.abs().max()) < 1e-5
    goal = torch.tensor([0.9, 0.1, 0.5])
    values = PairDistance().terms(EmbeddingViews(vectors, similarities=goal)).values
    assert torch.allclose(values, (cosines - goal).square(), atol=1e-6)
    batch = collated([Sentence([1, 2], other=[3], similarity=0.5), Sentence([4], other=[5, 6, 7], similarity=1.0)])
    assert batch.input_ids.tolist() == [[1, 2, 0], [3, 0, 0], [4, 0, 0], [5, 6, 7]]
    assert PairDistance().num_terms(batch) == 2 and PairDistance().num_terms(collated([Sentence([1])])) == 0


def test_a_scorer_learns_labels_and_an_encoder_learns_of_the_scorer(
    store: Store, encoder: EncoderArtifact, scorer: ClassifierArtifact, pairs: DatasetArtifact
) -> None:
    learns = {"scores": {"divergence": "cross_entropy"}}
    learned = taught(store, scorer, pairs, objectives=learns, teacher={"kind": "recorded"})
    before, after = (
        evaluate.execute(
            EvaluateConfig(precision="float32"), EvaluateInputs(model=model, tasks=(pairs,)), store
        ).artifact
        for model in (scorer, learned)
    )
    assert after.facts["spearman"] > max(0.3, before.facts["spearman"]) and after.facts["num_pairs"] >= 8
    labelled = label_pairs.execute(FLOAT, LabelPairsInputs(models=(learned,), data=pairs), store).artifact
    student = taught(store, encoder, labelled, objectives={"pair_distance": 1.0})
    start, end = (
        evaluate.execute(
            EvaluateConfig(precision="float32"), EvaluateInputs(model=model, tasks=(pairs,)), store
        ).artifact
        for model in (encoder, student)
    )
    assert end.facts["spearman"] > start.facts["spearman"]
    cut = prune.execute(PruneConfig(blocks=[1]), PruneInputs(model=learned), store).artifact
    assert cut.facts.reads_pairs and cut.facts.num_blocks == 2
    graph = export.execute(ExportConfig(num_prompts=4), ExportInputs(model=cut, data=pairs), store).artifact
    assert isinstance(graph, ClassifierGraphArtifact) and graph.facts.max_logprob_difference < 1e-4
    scores = evaluate.execute(EvaluateConfig(), EvaluateInputs(model=graph, tasks=(pairs,)), store).artifact
    assert -1 <= scores.facts["spearman"] <= 1


def test_what_does_not_fit_is_refused_in_a_line(
    store: Store, scorer: ClassifierArtifact, pairs: DatasetArtifact, tmp_path: Path
) -> None:
    for config, message in (
        ({"kind": "classifier"}, "has a head of one output, which scores pairs; accepted: pair_scorer"),
        ({"kind": "classifier", "labels": LABELS}, "accepted: pair_scorer"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier_of(store, f"folder:{scorer.path}", **config)
    wide = [{**row, "score": 5 * row["score"]} for row in PAIRS]
    graded = ingested(store, tmp_path / "wide.jsonl", wide, columns=COLUMNS)
    config = FinetuneConfig(
        adapt={"kind": "full"}, objectives={"own": {"divergence": "cross_entropy"}}, teacher={"kind": "recorded"}
    )
    with pytest.raises(ValueError, match="has similarity 5.0, learned as a share; accepted: 0 to 1"):
        finetune.execute(config, FinetuneInputs(model=scorer, data=(graded,)), store)
    facts: dict[str, Any] = {"labels": ("a", "b"), "num_subclasses": 1, "max_tokens": 64}
    with pytest.raises(ValueError, match="which reads no pairs; accepted: encoders, pair scorers"):
        label_pairs.forecast(FLOAT, {"models": (facts,), "data": ({},)})
    mixed = FinetuneConfig(adapt={"kind": "full"}, objectives={"pair_distance": 1.0, "similarity_rows": 1.0})
    encoder_facts = {"pooling": "mean", "is_normalized": True, "max_tokens": 64}
    with pytest.raises(ValueError, match="objectives.similarity_rows reads single texts"):
        finetune.forecast(mixed, {"model": (encoder_facts,), "data": ({},)})
