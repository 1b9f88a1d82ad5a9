"""The GGUF form: written, read back to the bit by ingest, proved by transformers' own reader; a wrong order of rows is caught."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoConfig

from attar.compressors.export.head_rows import in_halves
from attar.registry.artifacts.handles import DatasetArtifact, GgufArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.gguf.element_types import ELEMENT_TYPES, unpacked
from attar.stages.artifacts.gguf.header import Architecture, Origin, architecture_of
from attar.stages.artifacts.gguf.tensors import PlannedTensor, plan_tensors
from attar.stages.artifacts.gguf.vocabulary import vocabulary_of
from attar.stages.artifacts.gguf.writer import check_written, write_gguf
from attar.stages.artifacts.model.folder import load_model, load_tokenizer, save_model
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.gguf.proof import prove_by_transformers
from attar.stages.export.stage import export
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import random_model

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "smollm3", "granite", "olmo2")
EXPERTS = ("mixtral", "qwen3_moe", "granitemoe")
PROOF = {"num_prompts": 1, "num_new_tokens": 8}
# Half a step of a block's largest number, in it: of rounding to the nearest of so many levels. Scales are halves, 1/2048 off at most.
HALF_STEPS = {
    "q8_0": 0.5 / 127,
    "q5_1": 1 / 31,
    "q5_0": 1 / 16,
    "q4_0": 1 / 8,
    "q4_1": 1 / 15,
    "mxfp4": 1 / 4,
    "f16": 1 / 2048,
    "bf16": 1 / 256,
    "f32": 0.0,
}


def run(store: Store, model: ModelArtifact, data: DatasetArtifact, **form: Any) -> GgufArtifact:
    config = ExportConfig(format={"kind": "gguf", **form}, **PROOF)
    return export.execute(config, ExportInputs(model=model, data=data), store).artifact  # type: ignore[return-value]


def planned(folder: Path, weights: str = "f32") -> tuple[Architecture, list[PlannedTensor]]:
    config = AutoConfig.from_pretrained(folder)
    architecture = architecture_of(config)
    is_tied = config.tie_word_embeddings
    return architecture, plan_tensors(folder, architecture, weights=weights, ends=weights, is_tied=is_tied)


def written(folder: Path, path: Path, architecture: Architecture, tensors: list[PlannedTensor]) -> Path:
    vocab_size = AutoConfig.from_pretrained(folder).vocab_size
    vocabulary = vocabulary_of(load_tokenizer(folder), folder, vocab_size)
    digests = write_gguf(path, architecture, Origin("test"), tensors, vocabulary.add_to)
    check_written(path, tensors, digests)
    return path


@pytest.fixture(scope="module")
def half(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> GgufArtifact:
    """The model of the tests as GGUF in f16."""
    return run(shared_store, model, questions, weights="f16")


def test_the_stage_proves_what_it_wrote_and_says_what_it_is(half: GgufArtifact, model: ModelArtifact) -> None:
    facts = half.facts
    assert {path.name for path in half.path.iterdir()} >= {"model.gguf", "Modelfile", "proof.json"}
    assert facts.readers[:2] == ("gguf", "transformers") and facts.token_agreement == 1.0
    assert facts.max_logit_difference is not None and facts.max_logit_difference < 1e-4, (
        "rounded weights, the same sums"
    )
    assert facts.kl_nats is not None and facts.kl_nats < 1e-4
    # matrices in 16 bits, vectors in 32
    assert facts.bits_per_weight is not None and 16 < facts.bits_per_weight < 16.2
    assert facts.fallback_fraction == 0.0 and facts.quantization == "f16" and facts.architecture == "llama"
    header = {name: field.contents() for name, field in gguf.GGUFReader(half.path / "model.gguf").fields.items()}
    assert header["llama.block_count"] == 4 and header["general.file_type"] == 1
    assert header["tokenizer.chat_template"] == load_tokenizer(model.path).chat_template
    assert header["attar.fingerprint"] == model.fingerprint and header["tokenizer.ggml.pre"] == "gpt-2"


def test_four_bits_cost_what_they_say(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> None:
    made = run(shared_store, model, questions, weights="q4_0", ends="q8_0")
    assert made.facts.token_agreement == 1.0, (
        "the reader of the file writes what torch writes with the same rounded weights"
    )
    assert made.facts.kl_nats is not None and 1e-3 < made.facts.kl_nats < 1.0
    assert made.facts.bits_per_weight is not None and 4.5 < made.facts.bits_per_weight < 6.5
    with pytest.raises(ValueError, match=r"rounding to q4_0 costs 0\.\d+ nats a token; accepted: 0.0001 or less"):
        run(shared_store, model, questions, weights="q4_0", ends="q8_0", max_kl_nats=1e-4)


@pytest.mark.parametrize("kind", [name for name, kind in ELEMENT_TYPES.items() if not kind.needs_library])
def test_every_type_is_read_back_within_its_step(kind: str, model: ModelArtifact, tmp_path: Path) -> None:
    architecture, tensors = planned(model.path, kind)
    path = written(model.path, tmp_path / "model.gguf", architecture, tensors)
    weights = load_model(model.path, torch.float32).state_dict()
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for tensor in tensors:
        values = unpacked(read[tensor.name].data, read[tensor.name].tensor_type)
        values = in_halves(values, tensor.num_heads) if tensor.num_heads else values
        original = weights[tensor.source]
        if tensor.kind == "f32":
            assert torch.equal(values, original), tensor.name
            continue
        error, largest = (part.reshape(-1, 32).abs().amax(-1) for part in (values - original, original))
        assert bool((error <= largest * (HALF_STEPS[tensor.kind] * 1.01 + 1e-3) + 1e-6).all()), tensor.name


@pytest.mark.parametrize("family", [*FAMILIES, *EXPERTS])
def test_ingest_reads_a_family_back_to_the_bit(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and config: the model that comes in computes what the one that went out does."""
    monkeypatch.setenv("ATTAR_HOME", str(tmp_path / "home"))
    model, tokenizer = random_model(family, num_blocks=4, hidden_size=64, seed=3)
    save_model(model, tmp_path / "folder")
    tokenizer.save_pretrained(tmp_path / "folder")
    path = written(tmp_path / "folder", tmp_path / "model.gguf", *planned(tmp_path / "folder"))
    config = IngestModelConfig(source=f"gguf:{path}")
    back = ingest_model.execute(config, NoInputs(), Store(tmp_path / "home")).artifact
    read = load_model(back.path, torch.float32)
    before, after = ({name: weight.detach() for name, weight in each.named_parameters()} for each in (model, read))
    assert before.keys() - after.keys() <= {"lm_head.weight"}
    is_shifted = family in ("gemma2", "gemma3")
    for name, weight in after.items():
        # one is added to the norms of a Gemma and taken off again
        allowed = 1e-6 if is_shifted and "norm" in name else 0.0
        assert float((weight - before[name]).abs().max()) <= allowed, name
    ids = torch.tensor([tokenizer("What is 17 plus 25?").input_ids])
    with torch.inference_mode():
        difference = (read(input_ids=ids).logits - model(input_ids=ids).logits).abs().max()
    assert float(difference) < 1e-3 if is_shifted else float(difference) == 0.0
    again = load_tokenizer(back.path)
    assert again("naïve ☕ 17").input_ids == tokenizer("naïve ☕ 17").input_ids
    assert again.chat_template == tokenizer.chat_template


def test_rows_in_the_wrong_order_are_caught(model: ModelArtifact, tmp_path: Path) -> None:
    """The red side: such a file loads everywhere and writes nonsense."""
    architecture, tensors = planned(model.path)
    unordered = [dataclasses.replace(tensor, num_heads=0) for tensor in tensors]
    path = written(model.path, tmp_path / "model.gguf", architecture, unordered)
    config = ExportConfig(format={"kind": "gguf"}, **PROOF)
    prompt = [load_tokenizer(model.path)("What is 1 plus 2?").input_ids]
    reference = load_model(model.path, torch.float32)
    with pytest.raises(ValueError, match="transformers reads another model out of the file: max logit difference"):
        prove_by_transformers(config, reference, path, model.path, prompt, tmp_path / "read")
    right = written(model.path, tmp_path / "right.gguf", architecture, tensors)
    assert prove_by_transformers(config, reference, right, model.path, prompt, tmp_path / "read").token_agreement == 1.0


def test_a_header_that_says_another_model_is_caught(model: ModelArtifact, tmp_path: Path) -> None:
    architecture, tensors = planned(model.path)
    other = dataclasses.replace(architecture, header={**architecture.header, "rope.freq_base": 5000.0})
    path = written(model.path, tmp_path / "model.gguf", other, tensors)
    config = ExportConfig(format={"kind": "gguf"}, **PROOF)
    with pytest.raises(ValueError, match=r"the header says rope_theta 5000\.0, the model's config 10000"):
        prove_by_transformers(
            config, load_model(model.path, torch.float32), path, model.path, [[1, 2]], tmp_path / "read"
        )


def test_the_same_model_gives_the_same_bytes(
    half: GgufArtifact, store: Store, model: ModelArtifact, questions: DatasetArtifact
) -> None:
    again = run(store, model, questions, weights="f16")
    assert (again.path / "model.gguf").read_bytes() == (half.path / "model.gguf").read_bytes()


def test_a_width_that_blocks_do_not_divide_says_what_results(
    store: Store, questions: DatasetArtifact, caplog: pytest.LogCaptureFixture
) -> None:
    source = IngestModelConfig(source="random:llama?num_blocks=1&hidden_size=40")
    model = ingest_model.execute(source, NoInputs(), store).artifact
    with pytest.raises(
        ValueError, match=r"format.weights is 'q8_0', but 9 matrices with rows of 40, 80 numbers are not whole blocks"
    ) as refusal:
        run(store, model, questions)
    assert "100.0% of the weights, 16.0" in str(refusal.value) and "\n" not in str(refusal.value)
    assert not list((store.root / "store").glob("export/*")), "refused before anything is kept"
    with caplog.at_level("INFO", logger="attar"):
        made = run(store, model, questions, max_fallback_fraction=1.0)
    assert (
        made.facts.fallback_fraction == 1.0
        and made.facts.bits_per_weight is not None
        and made.facts.bits_per_weight > 16
    )
    assert any("fall back to f16" in record.getMessage() for record in caplog.records)


def test_what_cannot_be_is_refused_by_the_plan(model: ModelArtifact, questions: DatasetArtifact) -> None:
    config = ExportConfig(format={"kind": "gguf"})

    def forecast(facts: Any, **more: Any) -> None:
        export.forecast(config, {"model": (facts,), "data": ({},), **more})

    with pytest.raises(ValueError, match="the input is in nf4: export first"):
        forecast({**model.facts, "quantization": "nf4"})
    with pytest.raises(ValueError, match="not written for the family 'GPT2LMHeadModel'; accepted: llama"):
        forecast({**model.facts, "architecture": "GPT2LMHeadModel"})
    with pytest.raises(
        ValueError, match="rows of 40 numbers are not whole blocks of 32: the embedding, 50% of the weights"
    ):
        forecast({**model.facts, "hidden_size": 40, "vocab_size": 100, "num_parameters": 8000})
    with pytest.raises(ValueError, match="which has no input for guidance_scale; accepted: onnx"):
        forecast(model.facts, guidance=({},))
    expected = export.forecast(ExportConfig(format={"kind": "gguf", "weights": "q4_0"}), {"model": (model.facts,)})
    assert expected.facts["weight_bytes"] == model.facts.num_parameters * 4.5 / 8
