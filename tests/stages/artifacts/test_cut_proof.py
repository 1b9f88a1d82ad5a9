"""What is cut is proved on what was written: each family works with that proof or is refused in one line, before or after the cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from attar.compressors.models.blocks import decoder_blocks, only_blocks, remove_blocks
from attar.compressors.models.bypass import handing_on
from attar.compressors.models.skeleton import check_cut
from attar.compressors.prune.solve.costs import kv_bytes_per_block
from attar.compressors.prune.width.layout import attention_parts
from attar.stages.artifacts.model.proof import check_kept, kept_logits, prove_written
from attar.stages.artifacts.model.width_facts import width_facts
from benchmarks.families.sizes import family_config

CPU = torch.device("cpu")
MAX_PARAMETERS = 5_000_000
# Families whose config says what is left of three cuts, among them each way to say it: lists, indices, counts, steps, tables.
SAYING = [
    ("llama", {}),
    ("qwen2_moe", {"decoder_sparse_step": 2}),
    ("qwen3_moe", {"mlp_only_layers": [2, 4]}),
    ("qwen3_moe", {"decoder_sparse_step": 3, "mlp_only_layers": [5]}),
    ("bamba", {}),
    ("dots1", {}),
    ("ernie4_5_moe", {"moe_layer_start_index": 2, "moe_layer_end_index": 4}),
    ("gemma3n_text", {}),
    ("gemma4_text", {}),
    ("gpt_neo", {}),
    ("granitemoehybrid", {}),
    ("llama4_text", {"moe_layers": [1, 3]}),
    ("minicpm3", {}),
    ("smollm3", {}),
]
REFUSED = {
    "jamba": "JambaForCausalLM: its config cannot say that block 1 is gone: .* it goes by expert_layer_period 2",
    "recurrent_gemma": "temporal_block is RecurrentGemmaRecurrentBlock, not RecurrentGemmaAttention; it goes by block_types",
    "diffllama": "where self_attn.lambda_init is",
    "rwkv": "decodes otherwise with a KV cache than without",
    "zaya": "computes something else than its kept parts",
    "mbart": "0 lists of 2 blocks found",
}


def family_model(family: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(family_config(family, **options), dtype=torch.float32).eval()


def cut_with_proof(model: Any, removed: list[int], folder: Path) -> None:
    """What the stage does, without its store."""
    check_cut(model, removed)
    with handing_on(model, removed):
        expected = kept_logits(model, "prune")
    remove_blocks(model, removed)
    check_kept(model, expected, "prune")
    model.save_pretrained(folder)
    prove_written(folder, expected, "prune", CPU)


@pytest.mark.parametrize(("family", "options"), SAYING, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_left_is_said_and_proved(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = family_model(family, **options)
    kinds = [str(block) for block in decoder_blocks(model)]
    cut_with_proof(model, [1], tmp_path / "cut")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert [str(block) for block in decoder_blocks(again)] == [kinds[index] for index in (0, 2, 3, 4, 5)]


@pytest.mark.parametrize("family", REFUSED)
def test_what_no_config_can_say_is_refused_in_one_line(family: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=REFUSED[family]) as refusal:
        cut_with_proof(family_model(family), [1], tmp_path / "cut")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600


def test_a_block_whose_keys_others_read_cannot_go(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="block 4 reads what block 2 made for it"):
        cut_with_proof(family_model("gemma3n_text"), [2], tmp_path / "cut")


def test_a_list_of_the_whole_model_is_not_cut() -> None:
    model = family_model("llama", eos_token_id=[2, 3, 4, 5, 6, 7])
    remove_blocks(model, [1])
    assert model.config.eos_token_id == [2, 3, 4, 5, 6, 7]


def test_a_model_run_with_some_blocks_is_whole_again() -> None:
    model = family_model("gemma3n_text")
    before = kept_logits(model, "prune")
    with only_blocks(model, [0, 2, 3, 4]):
        assert model.model.embed_tokens_per_layer.embedding_dim == 4 * 8
        kept_logits(model, "prune")
    assert torch.equal(kept_logits(model, "prune"), before)


def test_heads_are_those_of_the_blocks_that_attend() -> None:
    assert len(attention_parts(family_model("granitemoehybrid"))) == 3
    with pytest.raises(ValueError, match="its heads cannot be removed"):
        attention_parts(family_model("mamba"))


def test_a_plan_is_told_of_equal_blocks_with_channels_alone() -> None:
    """What it says of fewer blocks or channels takes them as equal."""
    assert width_facts(family_model("llama"))["num_ffn_channels"] == 96
    assert not any(width_facts(family_model(family)) for family in ("qwen3_moe", "lfm2", "mamba"))


def test_cached_bytes_are_told_where_every_block_caches_its_heads() -> None:
    assert kv_bytes_per_block(family_model("llama")) == 2 * 2 * 16 * 4
    assert not any(kv_bytes_per_block(family_model(family)) for family in ("deepseek_v3", "lfm2", "mamba"))


def test_a_hybrid_keeps_a_block_that_attends() -> None:
    model = family_model("granitemoehybrid", layer_types=["linear_attention"] * 5 + ["full_attention"])
    with pytest.raises(ValueError, match="block 5 would be the last that attends to go; a hybrid keeps one of 5"):
        check_cut(model, [5])


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.layers.2.mlp.down_proj.weight", "is missing in the written LlamaForCausalLM"), ("", "speaks otherwise")],
    ids=["missing", "changed"],
)
def test_a_written_folder_that_is_not_the_model_fails_the_proof(name: str, message: str, tmp_path: Path) -> None:
    model = family_model("llama")
    expected = kept_logits(model, "prune")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if name:
        del weights[name]
    else:
        weights["model.layers.0.self_attn.o_proj.weight"] *= -1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        prove_written(tmp_path, expected, "prune", CPU)


@pytest.mark.slow
@pytest.mark.parametrize("family", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
@pytest.mark.parametrize("removed", [[1], [2, 3], [0, 5]], ids=str)
def test_every_family_works_with_proof_or_is_refused(family: str, removed: list[int], tmp_path: Path) -> None:
    try:
        config = family_config(family)
        if config is None:
            pytest.skip("the config holds a text config")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # noqa: BLE001 - any class may refuse our sizes
        pytest.skip(f"no tiny config: {error}")
    if sum(parameter.numel() for parameter in model.parameters()) > MAX_PARAMETERS:
        pytest.skip("no tiny config")
    line = ""
    try:
        cut_with_proof(family_model(family), removed, tmp_path / "cut")
    except ValueError as refusal:
        line = str(refusal)
    assert "\n" not in line and len(line) < 600
