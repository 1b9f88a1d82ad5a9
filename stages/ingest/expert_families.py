"""Families with experts as random models: eight experts a block, two a token, and what single families want besides."""

from __future__ import annotations

from typing import Any

NUM_EXPERTS, EXPERTS_PER_TOKEN = 8, 2
# Family name -> transformers model type; what the stage prune_experts is tested on.
EXPERT_FAMILIES = {
    "mixtral": "mixtral",
    "qwen2_moe": "qwen2_moe",
    "qwen3_moe": "qwen3_moe",
    "olmoe": "olmoe",
    "granitemoe": "granitemoe",
    "glm4_moe": "glm4_moe",
    "gpt_oss": "gpt_oss",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
}
# Two groups of four, of which a token's experts come from one.
GROUPS = {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}


def expert_options(family: str, hidden_size: int) -> dict[str, Any]:
    """Return the sizes of a family's experts, and of its attention where that is latent."""
    count = {
        "n_routed_experts" if family in ("glm4_moe", "deepseek_v2", "deepseek_v3") else "num_experts": NUM_EXPERTS,
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
    }
    if family in ("mixtral", "granitemoe", "gpt_oss"):
        count["num_local_experts"] = count.pop("num_experts")
    own: dict[str, dict[str, Any]] = {
        "qwen2_moe": {"shared_expert_intermediate_size": hidden_size // 2, "mlp_only_layers": [0]},
        "qwen3_moe": {"norm_topk_prob": True},
        "glm4_moe": GROUPS,
        "gpt_oss": {"sliding_window": 16},
        "deepseek_v2": GROUPS
        | LATENT
        | {"topk_method": "group_limited_greedy", "num_key_value_heads": 4, "head_dim": 8},
        "deepseek_v3": GROUPS | LATENT | {"num_key_value_heads": 4, "head_dim": 8},
    }
    return {**count, "moe_intermediate_size": hidden_size // 2, **own.get(family, {})}
