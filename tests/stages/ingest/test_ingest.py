"""Ingesting: every source gives the same plain folder, and nothing that could run code gets in."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from attar.registry.artifacts.handles import ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from tests.stages.ingest.model_folders import ingest


def test_a_local_folder_comes_in_with_weights_and_tokenizer(store: Store, folder: Path, model: ModelArtifact) -> None:
    artifact = ingest(store, f"folder:{folder}")
    ours, reference = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (artifact.path, folder))
    assert all(torch.equal(ours[name], reference[name]) for name in reference)
    assert (
        AutoTokenizer.from_pretrained(artifact.path)("hi").input_ids
        == AutoTokenizer.from_pretrained(folder)("hi").input_ids
    )
    assert artifact.facts["num_blocks"] == 4 and artifact.facts["vocab_size"] == 259
    assert not [path for path in artifact.path.iterdir() if path.suffix in (".bin", ".py")]


def test_a_changed_folder_is_another_model(store: Store, folder: Path) -> None:
    first = ingest(store, f"folder:{folder}")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    model.save_pretrained(folder)
    assert ingest(store, f"folder:{folder}").key != first.key


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pytorch_model.bin", "x", "pytorch_model.bin can run code when loaded"),
        ("weights.pkl", "x", "weights.pkl can run code"),
        ("modeling_custom.py", "x", "modeling_custom.py can run code"),
        ("config.json", "auto_map", r"config.json asks for remote code \(auto_map\)"),
        ("config.json", "_attn_implementation_internal", "asks for remote code"),
        ("tokenizer_config.json", "auto_map", r"tokenizer_config.json asks for remote code \(auto_map\)"),
    ],
)
def test_unsafe_folders_are_refused_by_name(store: Store, folder: Path, name: str, content: str, message: str) -> None:
    path = folder / name
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {content: {"AutoModel": "evil.Model"}}))
    else:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        ingest(store, f"folder:{folder}")
    assert not list((store.root / "store").glob("*/*"))


def test_unexpected_facts_are_refused(store: Store, folder: Path) -> None:
    with pytest.raises(ValueError, match="expect.num_blocks is 5, but the model has 4"):
        ingest(store, f"folder:{folder}", expect={"num_blocks": 5})


def test_gguf_comes_in_as_safetensors_and_its_digest_is_checked(store: Store, gguf_file: Path) -> None:
    digest = hashlib.sha256(gguf_file.read_bytes()).hexdigest()
    artifact = ingest(store, f"gguf:{gguf_file}", sha256=digest)
    assert artifact.facts["num_blocks"] == 2
    model = AutoModelForCausalLM.from_pretrained(artifact.path)
    assert torch.isfinite(model(input_ids=torch.tensor([[5, 6, 7]])).logits).all()
    with pytest.raises(ValueError, match="the recipe says 0000"):
        ingest(store, f"gguf:{gguf_file}", sha256="0" * 64)


@pytest.mark.parametrize(
    ("key", "count", "message"),
    [
        (b"llama.block_count", 33, "says 33 blocks, it holds 2 blocks"),
        (b"llama.block_count", 1, "says 1 blocks, it holds 2 blocks"),
        (b"llama.block_coun_", 2, "has no llama.block_count, it holds 2 blocks"),
    ],
)
def test_a_gguf_header_that_says_other_blocks_is_refused_before_they_are_made_up(
    key: bytes, count: int, message: str, store: Store, gguf_file: Path, tmp_path: Path
) -> None:
    def entry(key: bytes, count: int) -> bytes:
        return key + struct.pack("<II", 4, count)  # 4: a whole number of 32 bits

    content, before = gguf_file.read_bytes(), entry(b"llama.block_count", 2)
    assert content.count(before) == 1
    (tmp_path / "other.gguf").write_bytes(content.replace(before, entry(key, count)))
    with pytest.raises(ValueError, match=f"^other.gguf: its header {message}$"):
        ingest(store, f"gguf:{tmp_path / 'other.gguf'}")


def make_wheel(folder: Path, member: Path, recorded: str) -> None:
    record = f"tiny_model_files/tiny.gguf,sha256={recorded},{member.stat().st_size}\ntiny_model_files-1.0.dist-info/RECORD,,\n"
    with zipfile.ZipFile(folder / "tiny_model_files-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(member, "tiny_model_files/tiny.gguf")
        wheel.writestr(
            "tiny_model_files-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model-files\nVersion: 1.0\n"
        )
        wheel.writestr(
            "tiny_model_files-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("tiny_model_files-1.0.dist-info/RECORD", record)


@pytest.mark.parametrize("is_honest", [True, False])
def test_a_wheel_member_is_taken_when_it_matches_the_record(
    store: Store, gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_honest: bool
) -> None:
    digest = urlsafe_b64encode(hashlib.sha256(gguf_file.read_bytes()).digest()).decode().rstrip("=")
    make_wheel(tmp_path, gguf_file, digest if is_honest else "A" * 43)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    source = "wheel:tiny-model-files==1.0/tiny_model_files/tiny.gguf"
    if is_honest:
        assert ingest(store, source).facts["num_blocks"] == 2
        return
    with pytest.raises(ValueError, match="does not match the sha256 in the wheel's RECORD"):
        ingest(store, source)


def encoder(folder: Path, family: str) -> None:
    config = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 259,
    }
    classes = {
        "encoder": (BertConfig, BertForMaskedLM, config),
        "no head": (LlamaConfig, LlamaModel, config),
        "both": (
            T5Config,
            T5ForConditionalGeneration,
            {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        ),
    }
    kind, model, options = classes[family]
    shutil.rmtree(folder)
    model(kind(**options)).save_pretrained(folder)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("encoder", "is a BertForMaskedLM, not a causal language model"),
        ("no head", "is a LlamaModel, not a causal language model"),
        ("both", r"is an encoder-decoder \(t5\); only causal language models are taken"),
    ],
)
def test_only_causal_language_models_come_in(store: Store, folder: Path, family: str, message: str) -> None:
    """transformers would give an encoder a causal head without a word, and a headless model a random one."""
    encoder(folder, family)
    with pytest.raises(ValueError, match=message):
        ingest(store, f"folder:{folder}")
    with pytest.raises(ValueError, match=message):  # and the plan says so before anything runs
        ingest_model.forecast(IngestModelConfig(source=f"folder:{folder}"), {})
    assert not list((store.root / "store").glob("*/*"))


def test_a_folder_without_tokenizer_is_refused(store: Store, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer: none of tokenizer.json, .* is there") as refused:
        ingest(store, f"folder:{folder}")
    assert "\n" not in str(refused.value) and not list((store.root / "store").glob("*/*"))
