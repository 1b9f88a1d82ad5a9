"""How large and how costly a stage's output will be, from the facts of its input alone. What `attar plan` tells before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attar.compressors.measure.cost import decode_flops
from attar.registry.artifacts.facts import Facts

DTYPE_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
# Context at which the plan counts the FLOPs of a token; `evaluate` has its own num_prompt_tokens, 128 unless told otherwise.
CONTEXT_TOKENS = 128
# What a graph takes beyond its weights, a decoder block: nodes (6,100), the rests of its tensors' pages, and its share of the rotary tables.
# With SmolLM2 it is 76,000, nearly all of it tables of 8,192 positions, and with a tiny model the pages: either way little beside weights.
GRAPH_BYTES_PER_BLOCK = 33_800.0
# Facts of a model that follow from its shape, and that its graph shares.
SHAPE_FACTS = (
    "num_blocks",
    "vocab_size",
    "num_parameters",
    "num_matmul_parameters",
    "num_idle_parameters",
    "attention_width",
    "companion_bytes",
)
# Facts of a graph that a graph made of it shares.
GRAPH_FACTS = ("cache", "cache_bytes_per_token")
# Facts that sum over all blocks: they shrink with their number.
BLOCK_FACTS = (
    "num_block_parameters",
    "num_block_matmul_parameters",
    "ffn_channel_parameters",
    "kv_group_parameters",
)
# Forms whose forecast tells the bytes of their weights.
RUNTIME_FORMS = ("gguf", "openvino", "ctranslate2")
# Bytes of a graph's weights by its fact `quantization`. A stage that makes another kind adds its row.
GRAPH_WEIGHTS: dict[str, Callable[[Facts], float]] = {
    "none": lambda facts: DTYPE_BYTES[str(facts.get("precision", "float32"))] * float(facts["num_parameters"]),
    # a float where the block size follows from the config alone: `quantize` tells it
    **dict.fromkeys(
        ("int8 weights", "int4 weights", "dynamic int8", "static int8"), lambda facts: float(facts["weight_bytes"])
    ),
}


def without_blocks(model: Facts, num_removed: int) -> dict[str, Any]:
    """Return the facts of a model without some of its blocks, taken as equally large. Empty where the model's own are not known."""
    if not num_removed or not model.keys() >= {"num_blocks", "num_parameters", *BLOCK_FACTS[:2]}:
        return {}
    share = num_removed / int(model["num_blocks"])
    facts: dict[str, Any] = {name: round(float(model[name]) * (1 - share)) for name in BLOCK_FACTS if name in model}
    for whole, part in (("num_parameters", BLOCK_FACTS[0]), ("num_matmul_parameters", BLOCK_FACTS[1])):
        facts[whole] = int(model[whole]) - round(float(model[part]) * share)
    return {**_unchanged(model), **facts, "num_blocks": int(model["num_blocks"]) - num_removed}


def blocks_over(model: Facts, parameter_fraction: float) -> int:
    """Return how many blocks must go until at most this share of the parameters is left. 0 where it is not known."""
    if not model.keys() >= {"num_blocks", "num_parameters", "num_block_parameters"}:
        return 0
    block = float(model["num_block_parameters"]) / int(model["num_blocks"])
    excess = (1 - parameter_fraction) * float(model["num_parameters"])
    return -int(-excess // block)


def narrowed(model: Facts, num_channels: int, num_removed_groups: int) -> dict[str, Any]:
    """Return the facts of a model with fewer channels and KV groups in each block. They follow from its width facts."""
    removed = (int(model["num_ffn_channels"]) - num_channels) * int(model["ffn_channel_parameters"])
    removed += num_removed_groups * int(model["kv_group_parameters"])
    facts: dict[str, Any] = {**_unchanged(model), "num_ffn_channels": num_channels}
    for name in ("num_parameters", "num_matmul_parameters", *BLOCK_FACTS[:2]):
        if name in model:
            facts[name] = int(model[name]) - removed
    facts |= {name: model[name] for name in BLOCK_FACTS[2:]}
    num_groups = int(model["num_kv_groups"])
    facts["num_kv_groups"] = num_groups - num_removed_groups
    if num_removed_groups and "attention_width" in model:
        facts["attention_width"] = round(int(model["attention_width"]) * (1 - num_removed_groups / num_groups))
    return facts


def with_tokens(model: Facts, num_tokens: int | None) -> dict[str, Any]:
    """Return the facts of a model with another number of tokens. Those that hang on it are left out where it is not known."""
    sized = ("vocab_size", "num_parameters", "num_matmul_parameters", "companion_bytes")
    every = {**_unchanged(model), **{name: model[name] for name in BLOCK_FACTS if name in model}}
    facts: dict[str, Any] = {name: value for name, value in every.items() if name not in sized}
    if num_tokens is None or not model.keys() >= {*sized[:3], "hidden_size"}:
        return facts
    row, num_cut = int(model["hidden_size"]), int(model["vocab_size"]) - num_tokens
    num_ends = 1 if _is_tied(model, row) else 2
    facts |= {"vocab_size": num_tokens, "num_parameters": int(model["num_parameters"]) - num_ends * num_cut * row}
    facts |= {"num_matmul_parameters": int(model["num_matmul_parameters"]) - num_cut * row}
    if "companion_bytes" in model:  # nearly all of it is the tokenizer, of about as many bytes a token
        facts["companion_bytes"] = round(int(model["companion_bytes"]) * num_tokens / int(model["vocab_size"]))
    return facts


def exported(model: Facts, quantization: str = "none") -> dict[str, Any]:
    """Return the facts of a model's graph."""
    return {
        **{name: model[name] for name in (*SHAPE_FACTS, *GRAPH_FACTS) if name in model},
        "format": "onnx",
        "quantization": quantization,
    }


def integer_bytes(model: Facts, bits: int, head_bits: int, block_size: int, *, is_symmetric: bool) -> float:
    """Return the bytes of a graph's weights in integers; 0: not known. A block has a float32 scale and, unless symmetric, a zero point.

    The width of the attention stands for the model's, which a graph's facts do not hold.
    """
    if not model.keys() >= {"num_parameters", "num_matmul_parameters", "vocab_size", "attention_width"}:
        return 0.0
    vocabulary = int(model["vocab_size"]) * int(model["attention_width"])
    num_ends = vocabulary * (1 if _is_tied(model, int(model["attention_width"])) else 2)
    shares = ((num_ends, head_bits), (int(model["num_parameters"]) - num_ends, bits))
    return sum(count * (part + (32 + (0 if is_symmetric else part)) / block_size) / 8 for count, part in shares)


def stored_bytes(facts: Facts) -> float:
    """Return the bytes on disk of the model or graph that has these facts, what lies beside its weights included. 0: not known."""
    if "num_parameters" not in facts:
        return 0.0
    beside = float(facts.get("companion_bytes", 0))
    if facts.get("format") in RUNTIME_FORMS:  # all weights as the fact tells; of gguf the tokenizer is in the file
        return float(facts["weight_bytes"]) + beside
    if facts.get("format") == "onnx":
        graph = GRAPH_BYTES_PER_BLOCK * float(facts.get("num_blocks", 0))
        return GRAPH_WEIGHTS[str(facts.get("quantization", "none"))](facts) + graph + beside
    return DTYPE_BYTES.get(str(facts.get("dtype")), 4.0) * float(facts["num_parameters"]) + beside


def flops_of_token(facts: Facts, num_context_tokens: int = CONTEXT_TOKENS) -> float:
    """Return the FLOPs to decode one token under `num_context_tokens`, as `evaluate` counts them; 0: not known."""
    if not facts.keys() >= {"num_matmul_parameters", "num_blocks", "attention_width"}:
        return 0.0
    width = int(facts["attention_width"])
    return decode_flops(int(facts["num_matmul_parameters"]), int(facts["num_blocks"]), width, num_context_tokens)


def _is_tied(model: Facts, width: int) -> bool:
    """Say whether the head is the embedding: what is not multiplied with is far less than an embedding then."""
    num_passed_by = int(model["num_parameters"]) - int(model["num_matmul_parameters"])
    return num_passed_by - int(model.get("num_idle_parameters", 0)) < int(model["vocab_size"]) * width / 2


def _unchanged(model: Facts) -> Facts:
    unchanged_facts = ("vocab_size", "hidden_size", "num_blocks", "num_ffn_channels", "num_kv_groups")
    names = (*unchanged_facts, "attention_width", "companion_bytes", "dtype", "architecture")
    return {name: model[name] for name in names if name in model}
