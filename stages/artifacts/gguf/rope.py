"""Rotary embeddings as GGUF says them: base, scaling, and factors of frequencies as tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# How the tensors of factors are called in a file.
FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"


@dataclass(frozen=True)
class Rope:
    """What the header says below the family's name, and tensors of factors by which frequencies are divided."""

    header: dict[str, Any]
    factors: dict[str, Tensor] = field(default_factory=dict)


def rope_of(config: Any, accepted: Sequence[str]) -> Rope:
    """Return the rotary embedding of a loaded transformers config. Raises ValueError for a scaling that its family's graph does not take."""
    given = dict(config.rope_parameters or {})
    whole = given.get("full_attention", given)
    local = given.get("sliding_attention")
    kind = str(whole.get("rope_type") or "default")
    if kind not in accepted:
        raise ValueError(f"gguf cannot say rope_type {kind[:60]!r} of this family; accepted: {', '.join(accepted)}")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    num_turned = int(head_dim * float(whole.get("partial_rotary_factor") or 1.0))
    header: dict[str, Any] = {
        "rope.dimension_count": num_turned,
        "rope.freq_base": float(whole["rope_theta"]),
    }
    if local is not None:
        if str(local.get("rope_type") or "default") != "default":
            raise ValueError("gguf cannot say a rope_type of its own for blocks with a sliding window")
        header["rope.freq_base_swa"] = float(local["rope_theta"])
    scaling = SCALINGS[kind](config, whole, num_turned)
    return Rope({**header, **scaling.header}, scaling.factors)


def _default(config: Any, given: Mapping[str, Any], num_turned: int) -> Rope:
    return Rope({})


def _linear(config: Any, given: Mapping[str, Any], num_turned: int) -> Rope:
    return Rope({"rope.scaling.type": "linear", "rope.scaling.factor": float(given["factor"])})


def _yarn(config: Any, given: Mapping[str, Any], num_turned: int) -> Rope:
    odd = [name for name in ("attention_factor", "mscale", "mscale_all_dim") if given.get(name) is not None]
    if odd or given.get("truncate") is False:
        raise ValueError(f"gguf cannot say yarn with {odd[0] if odd else 'truncate: false'}; accepted: without")
    header: dict[str, Any] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(given["factor"]),
        "rope.scaling.original_context_length": int(given["original_max_position_embeddings"]),
    }
    for name in ("beta_fast", "beta_slow"):
        if given.get(name) is not None:
            header[f"rope.scaling.yarn_{name}"] = float(given[name])
    return Rope(header)


def _llama3(config: Any, given: Mapping[str, Any], num_turned: int) -> Rope:
    return Rope({}, {FREQUENCIES: llama3_factors(given, num_turned)})


def llama3_factors(given: Mapping[str, Any], num_turned: int) -> Float[Tensor, "D"]:
    """Return the factors of Llama 3's scaling: long waves slower, short ones as they are, a ramp between. https://arxiv.org/abs/2407.21783"""
    steps = torch.arange(0, num_turned, 2, dtype=torch.float64)
    waves = 2 * math.pi * float(given["rope_theta"]) ** (steps / num_turned)
    low, high = float(given["low_freq_factor"]), float(given["high_freq_factor"])
    periods = float(given["original_max_position_embeddings"]) / waves  # of the context that it was trained on
    ramp = ((periods - low) / (high - low)).clamp(0.0, 1.0)
    return (1.0 / ((1.0 - ramp) / float(given["factor"]) + ramp)).float()


def _longrope(config: Any, given: Mapping[str, Any], num_turned: int) -> Rope:
    """Return Phi-3's two tables of factors: the short one within the original context, the long one past it. https://arxiv.org/abs/2402.13753"""
    original = int(given.get("original_max_position_embeddings") or config.original_max_position_embeddings)
    scale = config.max_position_embeddings / original
    attention = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    stated = given.get("attention_factor")
    tables = {LONG: given["long_factor"], SHORT: given["short_factor"]}
    header = {
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": attention if stated is None else float(stated),
    }
    return Rope(header, {name: torch.tensor(table, dtype=torch.float32) for name, table in tables.items()})


SCALINGS = {"default": _default, "linear": _linear, "yarn": _yarn, "llama3": _llama3, "longrope": _longrope}
