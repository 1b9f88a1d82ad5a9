"""What a header says of a family, and what it cannot say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from attar.stages.artifacts.gguf.families import CLASSES, FAMILIES, family_of, refuse_other_families
from attar.stages.artifacts.gguf.header import architecture_of
from attar.stages.artifacts.gguf.rope import FREQUENCIES, LONG, SHORT
from attar.stages.runtime.progress import Event, Note, listen

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def config(family: str, **options: Any) -> Any:
    sizes = {
        "vocab_size": 64,
        "hidden_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "head_dim": 16,
        "pad_token_id": 0,
    }
    return AutoConfig.for_model(family, **{**sizes, **options})


def test_llama_3_factors_are_those_of_transformers() -> None:
    """Its own function gives the scaled frequencies: the factors divide the plain ones into them."""
    given = config("llama", head_dim=64, hidden_size=256, rope_parameters=LLAMA3, max_position_embeddings=131072)
    factors = architecture_of(given).factors[FREQUENCIES]
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](given, torch.device("cpu"))
    plain = 1.0 / 500000.0 ** (torch.arange(0, 64, 2) / 64)
    assert torch.allclose(plain / factors, scaled, rtol=1e-5)
    assert factors.min() == 1.0 and factors.max() == 8.0


def test_yarn_linear_and_longrope_are_said() -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
    header = architecture_of(config("qwen3", rope_parameters=yarn)).header
    assert header["rope.scaling.type"] == "yarn" and header["rope.scaling.factor"] == 4.0
    assert header["rope.scaling.original_context_length"] == 128 and header["attention.key_length"] == 16
    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    assert architecture_of(config("llama", rope_parameters=linear)).header["rope.scaling.factor"] == 2.0
    tables = {"long_factor": [2.0] * 8, "short_factor": [1.0] * 8}
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 128, **tables}
    options = {"rope_parameters": longrope, "original_max_position_embeddings": 128}
    scaled = architecture_of(config("phi3", **options))
    assert scaled.factors[LONG].tolist() == [2.0] * 8 and scaled.factors[SHORT].tolist() == [1.0] * 8
    # https://arxiv.org/abs/2402.13753, of a context four times the original
    assert scaled.header["rope.scaling.attn_factor"] == pytest.approx(
        (1 + torch.tensor(4.0).log() / torch.tensor(128.0).log()) ** 0.5
    )


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type 'dynamic'",
        ),
        ("qwen3", {"rope_parameters": LLAMA3}, "rope_type 'llama3' of this family"),
        ("smollm3", {"no_rope_layers": [1, 1, 0, 1, 1, 1]}, r"no_rope_layers is \[1, 1, 0, 1, 1, 1\]"),
        ("gemma2", {"layer_types": ["full_attention"] * 6}, "in every 2th block"),
        ("gemma2", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar is 256"),
        ("gemma3_text", {"query_pre_attn_scalar": 16, "final_logit_softcapping": 30.0}, "gemma3 caps nothing"),
        ("qwen3", {"attention_bias": True}, "attention_bias is true"),
        ("phi3", {"head_dim": 32}, "its heads are 128 wide together"),
    ],
)
def test_what_gguf_cannot_say_is_refused_in_a_line(family: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        architecture_of(config(family, **options))
    assert "\n" not in str(refusal.value)


def test_other_families_are_refused_by_name_and_by_class() -> None:
    with pytest.raises(ValueError, match="not written for the family 'mamba'; accepted: llama, mistral"):
        family_of({"model_type": "mamba"})
    with pytest.raises(ValueError, match="not written for the family 'GPT2LMHeadModel'"):
        refuse_other_families("GPT2LMHeadModel")
    for name in (*FAMILIES, *CLASSES):
        refuse_other_families(name)
    assert set(CLASSES.values()) == set(FAMILIES)


def test_a_window_that_llama_cpp_does_not_heed_limits_the_context() -> None:
    notes: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    with listen(hear):
        assert architecture_of(config("mistral", sliding_window=100)).header["context_length"] == 100
        assert architecture_of(config("mistral", sliding_window=None)).header["context_length"] == 512
        gemma = config("gemma2", query_pre_attn_scalar=16, sliding_window=100)
        assert architecture_of(gemma).header["context_length"] == 512
    assert len(notes) == 1 and "context_length is 100 tokens, the sliding window" in notes[0]
