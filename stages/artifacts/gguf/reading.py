"""A GGUF file as a transformers model: config from the header, weights of any type that gguf-py can decode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from attar.compressors.export.head_rows import in_halves
from attar.stages.artifacts.gguf.element_types import unpacked
from attar.stages.artifacts.gguf.expert_tensors import file_names
from attar.stages.artifacts.gguf.families import FAMILIES
from attar.stages.artifacts.gguf.header import Architecture, architecture_of
from attar.stages.artifacts.gguf.rope import FREQUENCIES, LONG, SHORT, llama3_factors
from attar.stages.artifacts.gguf.tensors import EMBEDDING, HEAD, heads_of, shift_of, tensor_names

if TYPE_CHECKING:
    from gguf import GGUFReader  # in an extra
    from transformers import PreTrainedModel

# The transformers family of each of llama.cpp's that the header names; mistral's files say llama.
MODEL_TYPES = {family.arch: name for name, family in reversed(FAMILIES.items())}
SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    # of single families
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
# Of files with experts: the family by llama.cpp's name, and the fields that say how many.
MANY, USED = "expert_count", "expert_used_count"
EXPERT_FIELDS = {
    "llama": ("mixtral", {MANY: "num_local_experts", USED: "num_experts_per_tok"}),
    "granitemoe": ("granitemoe", {MANY: "num_local_experts", USED: "num_experts_per_tok"}),
    "qwen3moe": (
        "qwen3_moe",
        {MANY: "num_experts", USED: "num_experts_per_tok", "expert_feed_forward_length": "moe_intermediate_size"},
    ),
}
# What a header says in single precision of what a config holds in double.
DIGITS = 7
# Of Llama 3's scaling, what published models have: factor, and the ramp's ends and context.
RAMP = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LLAMA3 = tuple({"rope_type": "llama3", "factor": factor, **RAMP} for factor in (8.0, 32.0, 16.0, 4.0))
FACTOR_TOLERANCE = 1e-4


def header_fields(reader: GGUFReader) -> dict[str, Any]:
    """Return a header's values by key, without the tokenizer's lists."""
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.ggml.")}


def config_fields(reader: GGUFReader) -> dict[str, Any] | None:
    """Return a transformers config's fields as the header says them; None for a family that is not written here.

    Raises ValueError for a rotary scaling that no config can say.
    """
    header = header_fields(reader)
    arch = str(header.get("general.architecture"))
    model_type = MODEL_TYPES.get(arch)
    if model_type is None:
        return None
    stated = {key.removeprefix(f"{arch}."): value for key, value in header.items() if key.startswith(f"{arch}.")}
    fields = {name: _number(stated[key]) for key, name in SIZES.items() if key in stated}
    if any(isinstance(value, list) for value in fields.values()):
        return None  # blocks of several sizes
    if "expert_count" in stated:
        if arch not in EXPERT_FIELDS:
            return None
        model_type, keys = EXPERT_FIELDS[arch]
        fields |= {name: stated[key] for key, name in keys.items()}
        fields |= {"norm_topk_prob": True} if model_type == "qwen3_moe" else {}
    if "head_dim" not in fields:
        width = fields["hidden_size"] // fields["num_attention_heads"]
        fields["head_dim"] = stated.get("rope.dimension_count") or width
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    fields["vocab_size"] = int(tensors[EMBEDDING].shape[-1])
    fields["tie_word_embeddings"] = HEAD not in tensors
    fields["rope_parameters"] = _rope(stated, fields, tensors)
    if model_type in ("gemma2", "gemma3_text"):
        fields["query_pre_attn_scalar"] = fields["head_dim"]
    if model_type == "phi3" and not fields.get("sliding_window"):
        fields["sliding_window"] = None
    for name, field in (("attention_bias", "blk.0.attn_output.bias"), ("mlp_bias", "blk.0.ffn_up.bias")):
        if field in tensors:
            fields[name] = True
    for name in ("bos", "eos", "padding"):
        field = reader.fields.get(f"tokenizer.ggml.{name}_token_id")
        fields["pad_token_id" if name == "padding" else f"{name}_token_id"] = (
            None if field is None else int(field.contents())
        )
    return {"model_type": model_type, **fields}


def _number(value: Any) -> Any:
    """Return a number of a header as a config has it: 1e-05 is 9.99999974e-06 in single precision."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _rope(stated: Mapping[str, Any], fields: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    base = {"rope_theta": _number(float(stated.get("rope.freq_base", 10000.0)))}
    turned = stated.get("rope.dimension_count")
    if turned is not None and turned != fields["head_dim"]:
        base["partial_rotary_factor"] = turned / fields["head_dim"]
    scaling = _scaling(stated, tensors, base["rope_theta"])
    if "rope.freq_base_swa" in stated:
        local = {"rope_type": "default", "rope_theta": _number(stated["rope.freq_base_swa"])}
        return {"full_attention": {**scaling, **base}, "sliding_attention": local}
    return {**scaling, **base}


def _scaling(stated: Mapping[str, Any], tensors: Mapping[str, Any], theta: float) -> dict[str, Any]:
    numbers = {
        key.removeprefix("rope.scaling."): _number(value)
        for key, value in stated.items()
        if key.startswith("rope.scaling.")
    }
    original = {"original_max_position_embeddings": numbers.get("original_context_length")}
    if LONG in tensors and SHORT in tensors:
        tables = {"long_factor": tensors[LONG], "short_factor": tensors[SHORT]}
        factors = {name: [_number(float(value)) for value in tensor.data] for name, tensor in tables.items()}
        attention = {"attention_factor": numbers["attn_factor"]} if "attn_factor" in numbers else {}
        return {"rope_type": "longrope", **original, **factors, **attention}
    if FREQUENCIES in tensors:
        return _llama3(torch.tensor(tensors[FREQUENCIES].data), theta)
    if numbers.get("type") == "linear":
        return {"rope_type": "linear", "factor": numbers["factor"]}
    if numbers.get("type") == "yarn":
        betas = {name: numbers[f"yarn_{name}"] for name in ("beta_fast", "beta_slow") if f"yarn_{name}" in numbers}
        return {"rope_type": "yarn", "factor": numbers["factor"], **original, **betas}
    return {"rope_type": "default"}


def _llama3(factors: torch.Tensor, theta: float) -> dict[str, Any]:
    """Return the scaling that has these factors, of those that published models have."""
    for scaling in LLAMA3:
        expected = llama3_factors({**scaling, "rope_theta": theta}, 2 * len(factors))
        if torch.allclose(factors, expected, rtol=FACTOR_TOLERANCE):
            return dict(scaling)
    known = ", ".join(f"{scaling['factor']:g}" for scaling in LLAMA3)
    raise ValueError(f"its rope_freqs are of no scaling that is known; accepted: Llama 3's with a factor of {known}")


def differing_fields(config: Any, fields: Mapping[str, Any]) -> list[str]:
    """Return the names of fields in which a transformers config differs from what the header says."""
    return [name for name, value in fields.items() if not _is_alike(getattr(config, name, None), value)]


def _is_alike(held: Any, stated: Any) -> bool:
    if isinstance(stated, Mapping):
        return isinstance(held, Mapping) and all(_is_alike(held.get(name), value) for name, value in stated.items())
    if isinstance(stated, float) and isinstance(held, int | float):
        return math.isclose(held, stated, rel_tol=1e-6)
    return held == stated


def model_of(reader: GGUFReader, fields: Mapping[str, Any]) -> PreTrainedModel:
    """Return the model of a file in float32. Raises ValueError where the file has not all of its weights in their shapes, or has others."""
    from transformers import AutoConfig, AutoModelForCausalLM  # a second that a plan need not wait for

    config = AutoConfig.for_model(**fields)
    architecture = architecture_of(config)
    tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.name not in architecture.factors}
    with torch.device("meta"):  # before there is memory to be taken
        skeleton = AutoModelForCausalLM.from_config(config)
    _refuse_others(skeleton, architecture, tensors, has_head=config.tie_word_embeddings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    config.architectures = [type(model).__name__]
    fill_weights(model, architecture, tensors)
    return model


def fill_weights(model: PreTrainedModel, architecture: Architecture, tensors: Mapping[str, Any]) -> None:
    """Put a file's weights into a model in place, in its order of rows and its sense of norms. `tensors`: gguf-py's by name."""
    names = tensor_names(architecture.family.arch, architecture.header["block_count"])
    with torch.no_grad():
        for parameter, weight in model.named_parameters():
            parts = []
            for name in file_names(parameter, names):
                values = unpacked(tensors[name].data, tensors[name].tensor_type)
                heads = heads_of(name, architecture)
                parts.append((in_halves(values, heads) if heads else values) - shift_of(name, architecture))
            weight.copy_(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))


def _refuse_others(
    skeleton: PreTrainedModel, architecture: Architecture, tensors: Mapping[str, Any], *, has_head: bool
) -> None:
    """Raise ValueError where a file lacks a weight, has it in another shape, or has one that the model has not."""
    names = tensor_names(architecture.family.arch, architecture.header["block_count"])
    unread = set(tensors) - ({HEAD} if has_head else set())
    for parameter, weight in skeleton.named_parameters():
        parts = file_names(parameter, names)
        missing = [name for name in parts if name not in tensors]
        if missing or not parts:
            raise ValueError(f"it has no {(missing or [parameter])[0]}")
        shapes = [tuple(int(size) for size in reversed(tensors[name].shape)) for name in parts]
        shape = shapes[0] if len(parts) == 1 else (shapes[0][0], sum(each[1] for each in shapes), *shapes[0][2:])
        if shape != tuple(weight.shape):
            raise ValueError(f"{parts[0]} is {shape}, not {tuple(weight.shape)}")
        unread -= set(parts)
    if unread:
        raise ValueError(f"it has {min(unread)}, which the model has no weight for")
