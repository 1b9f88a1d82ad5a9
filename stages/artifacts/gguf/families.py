"""What GGUF calls each family, how its tensors lie there, and what of it the format cannot say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]
# SmolLM3: llama.cpp leaves the rotary embedding out of every fourth block, whatever a file says.
ROPE_PERIOD = 4
# Sizes of Gemma at which llama.cpp scales attention by hidden size / heads, which it tells by their number of blocks.
GEMMA_27B = {"gemma2": 46, "gemma3_text": 62}
LLAMA_SCALINGS = ("default", "linear", "yarn", "llama3")
FULL, SLIDING = "full_attention", "sliding_attention"


def _nothing(config: Config) -> str:
    return ""


def _no_header(config: Config) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family under llama.cpp: its name, the order of its rows, a shift of its norms, what its header has.

    `obstacle` returns what of a config the format cannot say, empty where it can say all. `has_own_head`: the head is read from the
    file even where it is the embedding.
    """

    arch: str
    is_interleaved: bool = False
    norm_shift: float = 0.0
    has_own_head: bool = False
    # Whether llama.cpp heeds a sliding window; else what is written says no longer context than the window.
    has_window: bool = False
    # Of rotary embeddings, those that the family's graph takes.
    scalings: tuple[str, ...] = ("default", "linear", "yarn")
    header: Callable[[Config], dict[str, Any]] = _no_header
    obstacle: Callable[[Config], str] = _nothing


def _rope_in_every_block(config: Config) -> str:
    given = config.get("no_rope_layers")
    expected = [int((block + 1) % ROPE_PERIOD != 0) for block in range(config["num_hidden_layers"])]
    if given is None or list(given) == expected:
        return ""
    return (
        f"no_rope_layers is {list(given)}: llama.cpp's smollm3 has no rotation in every fourth block, and there alone"
    )


def _gemma(period: int) -> Callable[[Config], str]:
    """Return the check of a Gemma in which every `period`-th block attends to everything."""

    def obstacle(config: Config) -> str:
        kinds = list(config.get("layer_types") or [])
        expected = [FULL if (block + 1) % period == 0 else SLIDING for block in range(len(kinds))]
        if kinds != expected:
            return f"layer_types: llama.cpp attends to everything in every {period}th block, and there alone; here in {_full(kinds)}"
        head, scale = int(config["head_dim"]), float(config["query_pre_attn_scalar"])
        if config["num_hidden_layers"] == GEMMA_27B[config["model_type"]]:
            head = config["hidden_size"] // config["num_attention_heads"]
        if scale != head:
            return f"query_pre_attn_scalar is {scale:g}: at {len(kinds)} blocks llama.cpp scales by {head}"
        return ""

    return obstacle


def _full(kinds: list[str]) -> str:
    blocks = [str(index) for index, kind in enumerate(kinds) if kind == FULL]
    return f"blocks {', '.join(blocks[:8])}" if blocks else "none"


def _gemma3(config: Config) -> str:
    capped = [name for name in ("attn_logit_softcapping", "final_logit_softcapping") if config.get(name)]
    if capped:
        return f"{capped[0]} is {config[capped[0]]}: llama.cpp's gemma3 caps nothing"
    return "it attends in both directions" if config.get("use_bidirectional_attention") else _gemma(6)(config)


def _gemma2(config: Config) -> str:
    uncapped = [name for name in ("attn_logit_softcapping", "final_logit_softcapping") if not config.get(name)]
    return f"{uncapped[0]} is not set: llama.cpp's gemma2 always caps" if uncapped else _gemma(2)(config)


def _square(config: Config) -> str:
    """Name heads that are not the hidden size together, where llama.cpp's graph takes that for granted."""
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    width = head_dim * config["num_attention_heads"]
    return (
        ""
        if width == config["hidden_size"]
        else f"its heads are {width} wide together, its hidden size is {config['hidden_size']}"
    )


def _no_bias(config: Config) -> str:
    return "attention_bias is true: llama.cpp's graph of the family has none" if config.get("attention_bias") else ""


def _qwen3_moe(config: Config) -> str:
    if not config.get("norm_topk_prob"):
        return "norm_topk_prob is false: llama.cpp's qwen3moe lets the chosen experts' weights sum to 1"
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        return "some of its blocks have no experts"
    return _no_bias(config)


def _experts(config: Config) -> dict[str, Any]:
    count = config.get("num_local_experts") or config["num_experts"]
    header = {"expert_count": int(count), "expert_used_count": int(config["num_experts_per_tok"])}
    width = config.get("moe_intermediate_size")
    return header | ({"expert_feed_forward_length": int(width)} if width else {})


def _granite(config: Config) -> dict[str, Any]:
    return {
        "attention.scale": float(config["attention_multiplier"]),
        "embedding_scale": float(config["embedding_multiplier"]),
        "residual_scale": float(config["residual_multiplier"]),
        "logit_scale": float(config["logits_scaling"]),
    }


def _olmo2(config: Config) -> str:
    return _no_bias(config) or _square(config)


FAMILIES: dict[str, Family] = {
    "llama": Family(arch="llama", is_interleaved=True, scalings=LLAMA_SCALINGS),
    "mistral": Family(arch="llama", is_interleaved=True, scalings=LLAMA_SCALINGS),
    "qwen2": Family(arch="qwen2"),
    "qwen3": Family(arch="qwen3", obstacle=_no_bias),
    "gemma2": Family(
        arch="gemma2",
        norm_shift=1.0,
        header=lambda config: {
            "attn_logit_softcapping": float(config["attn_logit_softcapping"]),
            "final_logit_softcapping": float(config["final_logit_softcapping"]),
            "attention.sliding_window": int(config["sliding_window"]),
        },
        obstacle=_gemma2,
        has_window=True,
        scalings=("default", "linear"),
    ),
    "gemma3_text": Family(
        arch="gemma3",
        norm_shift=1.0,
        header=lambda config: {"attention.sliding_window": int(config["sliding_window"])},
        obstacle=_gemma3,
        has_window=True,
        scalings=("default", "linear"),
    ),
    "phi3": Family(
        arch="phi3",
        # zero tells llama.cpp that there is no window
        header=lambda config: {"attention.sliding_window": int(config.get("sliding_window") or 0)},
        obstacle=_square,
        scalings=("default", "longrope"),
    ),
    "smollm3": Family(arch="smollm3", is_interleaved=True, obstacle=_rope_in_every_block),
    "granite": Family(
        arch="granite",
        is_interleaved=True,
        header=_granite,
        scalings=LLAMA_SCALINGS,
    ),
    "olmo2": Family(arch="olmo2", has_own_head=True, obstacle=_olmo2),
    "mixtral": Family(arch="llama", is_interleaved=True, header=_experts),
    "qwen3_moe": Family(arch="qwen3moe", header=_experts, obstacle=_qwen3_moe),
    "granitemoe": Family(
        arch="granitemoe", is_interleaved=True, header=lambda config: {**_granite(config), **_experts(config)}
    ),
}


# The class of each family's model, by which facts know it.
CLASSES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "Phi3ForCausalLM": "phi3",
    "SmolLM3ForCausalLM": "smollm3",
    "GraniteForCausalLM": "granite",
    "Olmo2ForCausalLM": "olmo2",
    "MixtralForCausalLM": "mixtral",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "GraniteMoeForCausalLM": "granitemoe",
}


def refuse_other_families(name: str) -> None:
    """Raise ValueError for a family, by its name or its model's class, that is not written."""
    if CLASSES.get(name, name) not in FAMILIES:
        raise ValueError(
            f"format.kind is 'gguf', which is not written for the family {name[:60]!r}; accepted: {', '.join(FAMILIES)}"
        )


def family_of(config: Config) -> Family:
    """Return what GGUF has for a model's config. Raises ValueError for a family or a setting that it cannot say."""
    name = str(config.get("model_type"))
    refuse_other_families(name)
    family = FAMILIES[name]
    if problem := family.obstacle(config):
        raise ValueError(f"gguf cannot say this {name}: {problem}")
    return family
