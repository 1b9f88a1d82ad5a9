"""Adapters on experts: the rank that was asked for, and a fold that equals PEFT's own, in memory and through the files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from attar.compressors.adapt.lora import Lora, expert_names, linear_names
from attar.compressors.merge.fold import split_experts
from attar.stages.artifacts.adapter_files import write_adapters
from attar.stages.artifacts.model.folder import save_model
from attar.stages.ingest.tiny_model import byte_tokenizer, random_model
from attar.stages.merge.fold_check import check_folded_logits
from attar.stages.merge.fused_files import FusedFiles
from attar.stages.merge.sources import FoldedAdapter, FoldedWeights, FolderSource
from attar.stages.merge.stream import MergeOrder, Passthrough, write_merged
from tests.expert_models import IDS, expert_model

FAMILIES = ["mixtral", "qwen2_moe", "glm4_moe", "gpt_oss", "granitemoe"]
ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
# A dense first block and a shared expert; GLM-4.5 has both too, under names that PEFT takes for its experts.
BESIDES = {"qwen2_moe": {"gate_proj", "up_proj", "down_proj", "shared_expert_gate"}}


def with_random_pairs(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start: an adapter that does nothing would prove nothing
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return model


def folder_of(model, path: Path) -> Path:
    byte_tokenizer().save_pretrained(path)
    return save_model(model, path).path


@pytest.mark.parametrize("family", FAMILIES)
def test_every_expert_has_the_rank_asked_for_and_the_router_none(family: str) -> None:
    model = expert_model(family)
    names = expert_names(model)
    wrapped = Lora(rank=4, alpha=8.0, expert_rank=2)(model, 0)
    assert sorted(wrapped.peft_config["default"].target_parameters) == sorted(names)
    shapes = {name: tuple(value.shape) for name, value in wrapped.named_parameters() if "lora_A" in name}
    of_experts = [shape for name, shape in shapes.items() if ".experts." in name]
    assert len(of_experts) == len(names) and {shape[0] for shape in of_experts} == {2 * 8}
    plain = {name: shape for name, shape in shapes.items() if ".experts." not in name}
    assert {shape[0] for shape in plain.values()} == {4}
    assert {name.split(".lora_A")[0].split(".")[-1] for name in plain} == set(ATTENTION) | BESIDES.get(family, set())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_rank_stabilized", [False, True])
def test_fold_equals_peft_merge(family: str, is_rank_stabilized: bool, tmp_path: Path) -> None:
    folder = folder_of(expert_model(family), tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    lora = Lora(rank=4, alpha=8.0, expert_rank=2, is_rank_stabilized=is_rank_stabilized)
    wrapped = with_random_pairs(lora(model, 0)).eval()
    with torch.no_grad():
        expected = wrapped(input_ids=IDS).logits
    write_adapters(wrapped, "0" * 64, tmp_path / "adapter")
    source = FoldedAdapter.open(FolderSource(folder), tmp_path / "adapter")
    check_folded_logits(source, tmp_path / "adapter")
    merged = wrapped.merge_and_unload()
    files = FusedFiles(source.base.skeleton, list(source.experts), source.base.infos)
    for name in source.experts:
        for file, expected_part in files.split(name, merged.get_parameter(name).data).items():
            torch.testing.assert_close(source.read(file), expected_part, atol=1e-5, rtol=1e-5)
            assert not torch.equal(source.read(file), source.base.read(file))
    # what a merge writes, read by plain transformers
    write_merged(
        MergeOrder(method=Passthrough(), students=(source,), base=source.base, dtype=None, max_shard_bytes=10**9),
        tmp_path / "merged",
        tmp_path / "shards",
    )
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(written(input_ids=IDS).logits, expected, atol=2e-4, rtol=1e-4)


def test_first_block_and_targets_are_heard() -> None:
    wrapped = Lora(rank=2, expert_rank=2, targets=("q_proj",))(expert_model("mixtral"), 1)
    names = [name for name, _ in wrapped.named_parameters() if "lora_A" in name]
    assert names and not any(".layers.0." in name for name in names)
    assert {name.split(".lora_A")[0].split(".")[-1] for name in names if ".experts." not in name} == {"q_proj"}


def test_names_that_peft_takes_for_experts_are_refused() -> None:
    model = expert_model("glm4_moe")
    assert linear_names(model) == ATTENTION
    with pytest.raises(ValueError, match="targets gate_proj: PEFT takes these names for the experts of Glm4Moe"):
        Lora(targets=("gate_proj",))(model, 0)
    with pytest.raises(ValueError, match="expert_rank is 2, but LlamaForCausalLM has no experts; accepted: 0"):
        Lora(expert_rank=2)(random_model("llama")[0], 0)


def test_an_adapter_whose_file_lacks_experts_is_refused() -> None:
    model = expert_model("mixtral")
    targets = expert_names(model)
    adapter = get_peft_model_state_dict(Lora(rank=2, expert_rank=2)(model, 0))
    lost = {name: value for name, value in adapter.items() if "layers.1.mlp.experts.base_layer" not in name}
    with pytest.raises(ValueError, match="its file has no base_model"):
        split_experts(lost, targets)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_trained_weights_of_experts_find_their_files(family: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = folder_of(expert_model(family), tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    changed = {
        name: (value + 0.01).contiguous() for name, value in model.named_parameters() if ".layers.1.mlp." in name
    }
    save_file(changed, tmp_path / "weights.safetensors")
    source = FoldedWeights.open(FolderSource(folder), tmp_path / "weights.safetensors")
    assert set(source.trained) <= set(source.base.infos) and source.trained
    for file, (name, _) in source.trained.items():
        assert not torch.equal(source.read(file), source.base.read(file)), name
        torch.testing.assert_close(source.read(file), source.base.read(file) + 0.01, atol=1e-6, rtol=0)
