"""Latent tokens of an encoder: words, rows and prompts of its folder, kept by every stage, and taught by a reasoning."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.compressors.encode.encoder import encoded
from attar.registry.artifacts.handles import DatasetArtifact, EncoderArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.rows import Row, read_rows
from attar.stages.artifacts.encoder.folder import load_encoder
from attar.stages.artifacts.encoder.latent_tokens import latent_names
from attar.stages.artifacts.encoder.modules_file import read_form
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.finetune.subjects.reasoned import ReasonedReader, answered, steps_of
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.merge.config import MergeConfig, MergeInputs
from attar.stages.merge.stage import merge
from tests.stages.artifacts.encoder.conftest import NAMES, encoder_of, ingested
from tests.stages.artifacts.encoder.test_encoder_stages import TAUGHT, cut

SOURCE = "random:bert?num_blocks=2&hidden_size=32"
LATENT = {"num_tokens": 3}
NAMED = "".join(latent_names(3))
RIDDLES = [
    {
        "question": f"where is the {name}",
        "answer": f"shelf {number} holds it",
        "steps": [f"a {name} is thing {number}", f"thing {number} is on shelf {number}"],
    }
    for number, name in enumerate(NAMES)
]
COLUMNS = {"reasoning": "steps"}
LESSON: dict[str, Any] = {
    **TAUGHT,
    "objectives": {
        "pair_contrast": 1.0,
        "reasoned_contrast": {"divergence": {"reasoned_contrast": {"temperature": 0.05}}},
        "reasoned_scores": {"divergence": {"reasoned_scores": {"temperature": 0.05}}},
        "reasoned_steps": 0.1,
    },
    "teacher": {"kind": "auto"},
    "schedule": {"num_epochs": 10, "learning_rate": 3e-3, "tokens_per_step": 1024},
    "compute": {"tokens_per_micro_batch": 1024, "precision": "float32"},
}


def learned(store: Store, model: EncoderArtifact, data: DatasetArtifact, **changes: Any) -> Any:
    inputs = FinetuneInputs(model=model, data=(data,))
    return finetune.execute(FinetuneConfig(**{**LESSON, **changes}), inputs, store).artifact


@pytest.fixture(scope="session")
def thinking(shared_store: Store) -> EncoderArtifact:
    return encoder_of(shared_store, SOURCE, is_normalized=True, max_tokens=128, latent=LATENT)


@pytest.fixture(scope="session")
def riddles(shared_store: Store, session_folder: Path) -> DatasetArtifact:
    config = {"columns": COLUMNS, "heldout_fraction": 0.0}  # what is on another shelf nobody can know
    return ingested(shared_store, session_folder / "riddles.jsonl", RIDDLES, **config)


def test_latent_tokens_stand_before_a_text_and_leave_its_own_tokens(store: Store, thinking: EncoderArtifact) -> None:
    plain = encoder_of(store, SOURCE, is_normalized=True, max_tokens=128)
    assert thinking.facts.num_latent_tokens == 3 and "num_latent_tokens" not in plain.facts
    assert read_form(thinking.path).prompts == (NAMED, NAMED)  # type: ignore[union-attr]
    reader, before = TextReader.of(thinking), TextReader.of(plain)
    latent = reader.token_ids(latent_names(3))
    texts = [f"the {name} " * (1 + 12 * index) for index, name in enumerate(NAMES)]
    for behind, alone in zip(reader([NAMED + text for text in texts]), before(texts), strict=True):
        assert behind == [*latent, *alone][:128], "whatever is cut away stands at the end"
    assert thinking.facts.num_parameters == plain.facts.num_parameters + 3 * 32
    ids = before(texts)
    assert torch.equal(encoded(load_encoder(thinking.path), ids), encoded(load_encoder(plain.path), ids))
    rows = load_encoder(thinking.path).model.get_input_embeddings().weight
    mean = load_encoder(plain.path).model.get_input_embeddings().weight.mean(dim=0)
    assert torch.allclose(rows[latent], mean.expand(3, -1), atol=1e-6), "a tokenizer of bytes has no mask to begin as"
    assert len(rows) == thinking.facts.vocab_size == plain.facts.vocab_size + 3


def test_they_may_stand_before_questions_alone_and_behind_them_a_prompt(store: Store) -> None:
    own = encoder_of(store, SOURCE, latent={**LATENT, "texts": "questions"}, query_prompt="ask: ")
    assert read_form(own.path).prompts == (f"{NAMED}ask: ", "")  # type: ignore[union-attr]
    again = encoder_of(store, f"folder:{own.path}", query_prompt="find: ")
    assert read_form(again.path).prompts == (f"{NAMED}find: ", "")  # type: ignore[union-attr]
    assert again.facts.num_latent_tokens == 3 and again.facts.vocab_size == own.facts.vocab_size
    with pytest.raises(ValueError, match="latent.num_tokens is 2, but the folder has 3 latent tokens; accepted: 3"):
        encoder_of(store, f"folder:{own.path}", latent={"num_tokens": 2})


def test_a_folder_whose_tokenizer_lost_a_latent_token_is_refused(
    store: Store, thinking: EncoderArtifact, tmp_path: Path
) -> None:
    """It would come in with a fresh row in place of the one that learned."""
    folder = tmp_path / "lost"
    shutil.copytree(thinking.path, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:-1]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        ValueError, match=r"prompts begin with \[LATENT_3\], which is no token of its tokenizer; accepted"
    ):
        encoder_of(store, f"folder:{folder}")


def test_a_question_learns_of_its_reasoning(store: Store, thinking: EncoderArtifact, riddles: DatasetArtifact) -> None:
    student = learned(store, thinking, riddles)
    lines = map(json.loads, (student.path / "records" / "metrics.jsonl").read_text().splitlines())
    curves: dict[str, list[float]] = {}
    for line in lines:
        curves.setdefault(line["name"], []).append(line["value"])
    for name in ("pair_contrast", "reasoned_contrast"):
        curve = curves[f"train_{name}_nats"]
        assert min(curve) < 0.8 * curve[0], (name, curve)
    assert curves["train_reasoned_steps_nats"][0] > 0
    healed = merge.execute(MergeConfig(), MergeInputs(base=thinking, students=(student,)), store).artifact
    assert healed.facts.num_latent_tokens == 3
    latent = TextReader.of(healed).token_ids(latent_names(3))
    before, after = (load_encoder(model.path).model.get_input_embeddings().weight for model in (thinking, healed))
    assert (before[latent] != after[latent]).any(dim=-1).all(), "each latent token learns"
    assert (after[latent][0] != after[latent][1]).any(), "and they part"
    words = [index for index in range(len(before)) if index not in latent]
    assert torch.equal(before[words], after[words]), "and no word does"


def test_every_stage_keeps_them(store: Store, thinking: EncoderArtifact, riddles: DatasetArtifact) -> None:
    assert cut(store, thinking, blocks=[1]).facts.num_latent_tokens == 3
    graph = export.execute(ExportConfig(num_prompts=4), ExportInputs(model=thinking, data=riddles), store).artifact
    assert graph.facts.num_latent_tokens == 3 and graph.facts.max_vector_difference < 1e-4
    assert read_form(graph.path).prompts == (NAMED, NAMED)  # type: ignore[union-attr]


def test_rows_are_read_in_two_views(thinking: EncoderArtifact) -> None:
    reader = TextReader.of(thinking)
    row = Row(id="1", question="why", answer="so", reasoning="it is\n\nand then\nit was")
    (sentence,) = ReasonedReader(reader, (NAMED + "ask: ", NAMED), 3)(row, "data")
    latent = reader.token_ids(latent_names(3))
    assert list(sentence.ids) == [*latent, *reader(["ask: why"])[0]]
    assert list(sentence.other) == [*latent, *reader(["so"])[0]]
    explicit = sentence.reasoning
    assert explicit is not None and list(explicit.latents) == [0, 1, 2]
    text = "ask: why\n\nit is\n\nand then\nit was"
    assert list(explicit.ids) == reader([text])[0]
    steps = [text[start:end].strip() for start, end in explicit.steps]  # a token a byte
    assert steps == ["it is", "and then\nit was", "and then\nit was"]
    assert [text[start:end].strip() for start, end in steps_of(text)] == ["ask: why", "it is", "and then\nit was"]


def test_a_reasoning_is_given_or_what_self_data_wrote() -> None:
    assert answered(Row(id="1", answer="a", reasoning="r")) == ("a", "r")
    assert answered(Row(id="1", answer="w", reference="a", rewrite="w")) == ("a", "w")
    assert answered(Row(id="1", answer="a")) == ("", "")


def test_a_reasoning_behind_the_cut_is_counted(thinking: EncoderArtifact) -> None:
    read = ReasonedReader(TextReader.of(thinking, 32), (NAMED, NAMED), 3)
    (sentence,) = read(Row(id="1", question="why " * 20, answer="so", reasoning="it is"), "data")
    assert sentence.reasoning is not None and sentence.reasoning.steps == [] and read.num_cut == 1


def test_reasoning_comes_in_as_steps_or_as_text(tmp_path: Path, store: Store, riddles: DatasetArtifact) -> None:
    rows = {row.question: row for row in read_rows(riddles.path / "rows.jsonl")}
    assert rows["where is the sugar"].reasoning == "a sugar is thing 0\n\nthing 0 is on shelf 0"
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "q", "answer": "a", "why": "as it is"}))

    def read(**columns: str) -> list[Row]:
        config = IngestDataConfig(source=f"jsonl:{tmp_path}/a.jsonl", columns=columns, heldout_fraction=0.0)
        return read_rows(ingest_data.execute(config, NoInputs(), store).artifact.path / "rows.jsonl")

    assert read(reasoning="why")[0].reasoning == "as it is" and not read()[0].reasoning
    with pytest.raises(ValueError, match="has no column 'reasoning'"):
        read(reasoning="reasoning")
    with pytest.raises(ValueError, match="columns names reasoning and positives; accepted: a reasoning beside"):
        read(reasoning="why", positives="ids")
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "q", "answer": "b", "why": []}))
    with pytest.raises(ValueError, match="why is null"):
        read(reasoning="why")


def test_what_gives_no_reasoning_is_refused_first(
    store: Store, thinking: EncoderArtifact, code: DatasetArtifact, riddles: DatasetArtifact
) -> None:
    expected = "code: row 0.* has no reasoning beside a question and its text; accepted: ingest_data with columns.reas"
    with pytest.raises(ValueError, match=expected) as refused:
        learned(store, thinking, code)
    assert "\n" not in str(refused.value)
    long = encoder_of(store, SOURCE, max_tokens=128, latent={"num_tokens": 8})
    with pytest.raises(ValueError, match="num_latent_tokens is 8, but rows.max_tokens is 8: no token would be left"):
        learned(store, long, riddles, rows={"max_tokens": 8})


def test_a_model_without_latent_tokens_learns_no_steps(store: Store, encoder: EncoderArtifact) -> None:
    expected = "objectives.reasoned_steps teaches latent tokens, and the model has none; accepted: an encoder that"
    with pytest.raises(ValueError, match=expected):
        finetune.forecast(FinetuneConfig(**LESSON), {"model": (dict(encoder.facts),), "data": ({},)})
    decayed = FinetuneConfig(**{**LESSON, "schedule": {"weight_decay": 0.1}})
    with pytest.raises(ValueError, match="schedule.weight_decay is 0.1, which would shrink every word's row beside"):
        finetune.forecast(decayed, {"model": ({**encoder.facts, "num_latent_tokens": 3},), "data": ({},)})
    mixed = FinetuneConfig(**{**LESSON, "objectives": {"reasoned_scores": 1.0, "similarity_rows": 1.0}})
    with pytest.raises(
        ValueError, match="objectives.similarity_rows reads single texts, and the other objectives pairs"
    ):
        finetune.forecast(mixed, {"model": (dict(encoder.facts),), "data": ({},), "teacher": (dict(encoder.facts),)})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"max_tokens": 64, "latent": {"num_tokens": 64}},
            "latent.num_tokens is 64, but model.max_tokens is 64: no token",
        ),
        ({"latent": {"num_tokens": 0}}, "greater than or equal to 1"),
    ],
)
def test_more_latent_tokens_than_context_are_refused_ahead(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IngestModelConfig(source=SOURCE, model={"kind": "encoder", **config})


def test_a_forecast_tells_the_encoder_with_its_latent_tokens(store: Store, thinking: EncoderArtifact) -> None:
    model = {"kind": "encoder", "is_normalized": True, "max_tokens": 128, "latent": LATENT}
    for source in (SOURCE, f"folder:{encoder_of(store, SOURCE).path}", f"folder:{thinking.path}"):
        facts = ingest_model.forecast(IngestModelConfig(source=source, model=model), {}).facts
        for name in ("num_latent_tokens", "vocab_size", "num_parameters", "max_tokens"):
            assert facts[name] == thinking.facts[name], (source, name)
