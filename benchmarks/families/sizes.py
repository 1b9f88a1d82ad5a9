"""Tiny configs of the families that transformers maps to a causal language model: sizes by name, and what single families want besides."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim", "lru_width"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers"), 6),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim"), 96),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 256),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "mamba_expand", "linear_num_key_heads"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(
        ("head_dim", "global_head_dim", "kv_lora_rank", "v_head_dim", "chunk_size", "mamba_chunk_size"), 16
    ),
    **dict.fromkeys(("mamba_d_state", "mamba_d_head", "state_size", "ssm_state_size", "mamba_head_dim"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "mamba_n_heads", "mamba_num_heads", "mamba_dt_rank"), 8),
    **dict.fromkeys(("time_step_rank", "sliding_window", "attention_window_size", "laurel_rank"), 8),
    **dict.fromkeys(("mamba_d_conv", "linear_num_value_heads", "linear_conv_kernel_dim"), 4),
    **dict.fromkeys(("initializer_range", "init_std"), 0.15),
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 64,
}
ALWAYS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.15}
LATENT = {"head_dim": 8}
ENCODERS = ("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert")
SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v3", "youtu", "glm_moe_dsa", "deepseek_v32"), LATENT),
    **{key: {"rotary_dim": 8} for key in ("codegen", "gptj")},
    **{key: {"head_dim": 16} for key in ("hunyuan_v1_dense", "ministral")},
    **{key: {"is_decoder": True} for key in (*ENCODERS, "rembert", "roberta", "roberta-prelayernorm", "roformer")},
    "bamba": {"attn_layer_indices": [1, 4]},
    "deepseek_v2": {"num_experts_per_tok": 2, "head_dim": 8},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 2},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 3},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 3},
    "hunyuan_v1_moe": {"head_dim": 16, "moe_topk": 2, "num_experts": 4},
    **{key: {"layer_types": ["conv", "conv", "full_attention"] * 2} for key in ("lfm2", "lfm2_moe")},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {"attn_layer_period": 3, "attn_layer_offset": 1},
}


def family_config(family: str, **options: Any) -> Any:
    """Return a tiny config of 6 blocks, None for configs that hold a text config inside. May raise whatever the family's class raises."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[family]
    default = kind()
    if getattr(default, "text_config", None) is not None:
        return None
    values, names = default.to_dict(), kind.attribute_map
    sizes = {
        name: value
        for name, value in SIZES.items()
        if (values.get(name) is not None or name in names) and names.get(name) not in SIZES
    }
    return kind(**(sizes | ALWAYS | SPECIAL.get(family, {}) | options))
