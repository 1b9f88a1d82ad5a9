"""Stage `trim_vocabulary`: what it makes, what the plan says of it, what its proofs measure, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.prompts import row_answer, row_prompt
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.artifacts.model.tokenizer_files import without_rows
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.prune.vocabulary.config import TrimVocabularyConfig, TrimVocabularyInputs
from attar.stages.prune.vocabulary.stage import trim_vocabulary
from tests.stages.prune.worded import ENGLISH, ingested, rows_of, sums, trimmed
from tests.trained_tokenizers import LINES, byte_fallback, byte_level, llama_class, unigram, worded_model


@pytest.fixture(scope="module")
def original(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    return ingested(shared_store, tmp_path_factory.mktemp("worded") / "model")


@pytest.fixture(scope="module")
def data(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> DatasetArtifact:
    return sums(shared_store, tmp_path_factory.mktemp("rows") / "sums.jsonl")


def metrics(artifact: ModelArtifact) -> dict[str, float]:
    lines = (artifact.path / "records" / "metrics.jsonl").read_text().splitlines()
    return {entry["name"]: entry["value"] for entry in map(json.loads, lines)}


def test_the_corpus_keeps_its_pieces_and_its_log_probabilities(
    store: Store, original: ModelArtifact, data: DatasetArtifact
) -> None:
    made = trimmed(store, original, data)
    size = int(made.facts["vocab_size"])
    assert 259 < size < original.facts["vocab_size"] == 480
    assert made.facts["num_removed_tokens"] == 480 - size
    assert made.facts["num_removed_parameters"] == 2 * 32 * (480 - size)  # untied: embedding and head
    measured = metrics(made)
    assert measured["corpus_same_fraction"] == measured["corpus_coverage"] == 1.0
    assert 0.5 < made.facts["coverage"] == measured["heldout_coverage"] <= 1.0
    assert measured["proof_kept_logprob_error"] <= 1e-6
    records = json.loads((made.path / "records" / "kept_tokens.json").read_text())
    old = torch.tensor(records["old_ids"])
    whole, own = load_tokenizer(original.path), AutoTokenizer.from_pretrained(made.path)
    models = [AutoModelForCausalLM.from_pretrained(artifact.path).eval() for artifact in (original, made)]
    for row in read_rows(data.path / "rows.jsonl"):
        before, after = ([*row_prompt(each, row), *row_answer(each, row)] for each in (whole, own))
        if row.split == "heldout":
            assert own.decode(after) == whole.decode(before)
            continue
        assert own.convert_ids_to_tokens(after) == whole.convert_ids_to_tokens(before)
        assert old[after].tolist() == before
    ids = torch.tensor([after])
    with torch.no_grad():
        expected = models[0](input_ids=old[ids]).logits[..., old].log_softmax(-1)
        assert torch.allclose(models[1](input_ids=ids).logits.log_softmax(-1), expected, atol=1e-5)


def test_the_plan_tells_what_a_number_of_tokens_saves(
    store: Store, original: ModelArtifact, data: DatasetArtifact
) -> None:
    config = TrimVocabularyConfig(num_tokens=400)
    forecast = trim_vocabulary.forecast(config, {"model": (original.facts,), "data": (data.facts,)})
    made = trimmed(store, original, data, num_tokens=400)
    for name in ("vocab_size", "num_parameters", "num_matmul_parameters", "num_blocks", "hidden_size"):
        assert forecast.facts[name] == made.facts[name], name
    assert forecast.disk_bytes == pytest.approx(
        store.manifest(made)["num_bytes"], rel=0.25
    )  # a tokenizer beside tiny weights
    without = trim_vocabulary.forecast(TrimVocabularyConfig(), {"model": (original.facts,), "data": (data.facts,)})
    assert "vocab_size" not in without.facts and without.disk_bytes > 0
    # what the corpus uses is in it, so its pieces are the same here too
    assert metrics(made)["corpus_same_fraction"] == 1.0


def test_tied_and_untied_models_lose_other_parameters(store: Store, data: DatasetArtifact, tmp_path: Path) -> None:
    tied = ingested(store, tmp_path / "tied", tie_word_embeddings=True)
    made = trimmed(store, tied, data, num_tokens=400)
    assert made.facts["num_removed_parameters"] == 32 * 80
    config = TrimVocabularyConfig(num_tokens=400)
    forecast = trim_vocabulary.forecast(config, {"model": (tied.facts,), "data": ({},)})
    assert forecast.facts["num_parameters"] == made.facts["num_parameters"]
    model = load_model(made.path, "auto")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_scripts_stay_and_rare_tokens_go(store: Store, original: ModelArtifact, data: DatasetArtifact) -> None:
    tokenizer = load_tokenizer(original.path)
    size = {}
    for name, config in {"plain": {}, "rare": {"min_count": 9}, "cyrillic": {"keep_scripts": ["Cyrillic"]}}.items():
        made = trimmed(store, original, data, **config)
        size[name] = int(made.facts["vocab_size"])
        own = load_tokenizer(made.path)
        words = [tokenizer.decode([index]) for index in tokenizer.get_vocab().values()]
        russian = [
            word for word in words if word.strip() and set(word.strip()) <= set("абвгдежзийклмнопрстуфхцчшщыьэюя")
        ]
        stayed = [word for word in russian if len(own(word, add_special_tokens=False).input_ids) == 1]
        assert (stayed == russian) == (name == "cyrillic") and len(russian) > 3
    assert size["rare"] < size["plain"] < size["cyrillic"]


@pytest.mark.parametrize("make", [byte_fallback, llama_class, unigram])
def test_other_kinds_of_tokenizers_are_trimmed_too(store: Store, tmp_path: Path, make: Any) -> None:
    model = ingested(store, tmp_path / "model", make())
    texts = rows_of(store, tmp_path / "texts.jsonl", [{"text": line} for line in LINES[:3]])
    made = trimmed(store, model, texts)
    own = load_tokenizer(made.path)
    assert int(made.facts["vocab_size"]) == len(own) < model.facts["vocab_size"]
    assert own.convert_ids_to_tokens([own.bos_token_id, own.eos_token_id]) == ["<s>", "</s>"]
    whole = load_tokenizer(model.path)
    for text in LINES:
        assert own.decode(own(text).input_ids) == whole.decode(whole(text).input_ids)
    assert own.tokenize(LINES[0]) == whole.tokenize(LINES[0])


def test_a_token_without_a_row_stays_without(store: Store, data: DatasetArtifact, tmp_path: Path) -> None:
    """Gemma's text models have an image token so: no row is made for it, and none is taken for it."""
    tokenizer = byte_level()
    worded_model(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(tmp_path / "model")
    source = IngestModelConfig(source=f"folder:{tmp_path / 'model'}")
    model = ingest_model.execute(source, NoInputs(), store).artifact
    made = trimmed(store, model, data)
    size = int(made.facts["vocab_size"])
    assert size < 480 and without_rows(load_tokenizer(made.path)) == {size: "<image>"}


def test_contradicting_files_are_left_out_and_told(
    store: Store, original: ModelArtifact, data: DatasetArtifact, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    model = ingested(store, folder)
    for name in ("tokenizer.model", "merges.txt"):
        (model.path / name).write_text("old")
    config = json.loads((model.path / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {"0": {"content": "<|endoftext|>", "special": True}}
    (model.path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        notes: list[str] = []
        patch.setattr("attar.stages.prune.vocabulary.stage.note", notes.append)
        workdir = tmp_path / "work"
        (workdir / "content").mkdir(parents=True)
        made = trim_vocabulary.run(TrimVocabularyConfig(), TrimVocabularyInputs(model=model, data=(data,)), workdir)
    assert notes[0] == "left out, since they hold the whole vocabulary: merges.txt, tokenizer.model"
    assert not {"tokenizer.model", "merges.txt"} & {path.name for path in made.path.iterdir()}


REFUSALS: list[tuple[dict[str, Any], list[dict[str, Any]], str]] = [
    ({"num_tokens": 10}, [{"text": LINES[0]}], r"num_tokens is 10, but bytes, special tokens and the chat template take \d+ tokens; accepted: \d+ to 480"),
    (
        {},
        [{"text": LINES[4]}],
        r"data: 0\.0% of the corpus's letters are Latin and most are Cyrillic, but the chat template writes Latin .*; accepted: rows in both, "
        r"or keep_scripts: \[Latin\]",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "rows", "message"), REFUSALS)
def test_bad_input_is_refused_in_one_line(
    config: dict[str, Any], rows: list[dict[str, Any]], message: str, store: Store, tmp_path: Path
) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = ENGLISH
    model = ingested(store, tmp_path / "model", tokenizer)
    with pytest.raises(ValueError, match=message) as refused:
        trimmed(store, model, rows_of(store, tmp_path / "rows.jsonl", rows), **config)
    assert "\n" not in str(refused.value)


def test_a_corpus_of_held_out_rows_alone_chooses_nothing(store: Store, original: ModelArtifact, tmp_path: Path) -> None:
    rows = rows_of(store, tmp_path / "a.jsonl", [{"question": "Who?", "answer": "A woman."}], heldout_fraction=0.6)
    with pytest.raises(ValueError, match="data: the corpus is empty: no row outside the held-out ones has a text"):
        trimmed(store, original, rows)


def test_another_language_is_taken_when_its_template_writes_it_or_its_script_is_kept(
    store: Store, tmp_path: Path
) -> None:
    russian = [{"text": LINES[4]}]
    model = ingested(store, tmp_path / "plain")  # writes names of roles alone, which are no language
    assert trimmed(store, model, rows_of(store, tmp_path / "a.jsonl", russian)).facts["vocab_size"] < 480
    tokenizer = byte_level()
    tokenizer.chat_template = ENGLISH
    english = ingested(store, tmp_path / "english", tokenizer)
    kept_latin = trimmed(
        store, english, rows_of(store, tmp_path / "b.jsonl", russian), num_tokens=470, keep_scripts=["Latin"]
    )
    assert kept_latin.facts["vocab_size"] == 470
    turns = [
        {"role": "system", "content": "Ты помощник."},
        {"role": "user", "content": "Где лодки?"},
        {"role": "assistant", "content": "В гавани."},
    ]
    assert (
        trimmed(store, english, rows_of(store, tmp_path / "c.jsonl", [{"messages": turns}])).facts["vocab_size"] < 480
    )


def test_what_the_plan_can_tell_is_refused_before_anything_runs() -> None:
    facts: dict[str, Any] = {"model": ({"vocab_size": 100},), "data": ({},)}
    with pytest.raises(ValueError, match="num_tokens is 100, but the model has 100; accepted: 1 to 99"):
        trim_vocabulary.forecast(TrimVocabularyConfig(num_tokens=100), facts)
    with pytest.raises(ValueError, match="data: no data set is given"):
        trim_vocabulary.forecast(TrimVocabularyConfig(), {"model": ({},), "data": ()})
    with pytest.raises(ValueError, match=r"keep_scripts: unknown script 'latin'\. Did you mean 'Latin'\?"):
        TrimVocabularyConfig(keep_scripts=["latin"])


def test_nothing_to_cut_is_told(store: Store, model: ModelArtifact, data: DatasetArtifact) -> None:
    """The byte tokenizer has bytes and special tokens alone."""
    with pytest.raises(ValueError, match="take all 259 tokens: nothing can be cut"):
        trimmed(store, model, data)
