"""The header of a GGUF file: sizes of the model, its licence, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attar.stages.artifacts.gguf.families import Family, family_of
from attar.stages.artifacts.gguf.rope import rope_of
from attar.stages.runtime.progress import note

if TYPE_CHECKING:
    from gguf import GGUFWriter  # in an extra
    from torch import Tensor


@dataclass(frozen=True)
class Architecture:
    """A model as GGUF says it: its family there, its header by key, and tensors that the header's scaling needs."""

    family: Family
    header: Mapping[str, Any]
    factors: Mapping[str, Tensor]
    num_heads: int
    num_kv_heads: int


@dataclass(frozen=True)
class Origin:
    """Where a file comes from: name, licence, fingerprint of its model's folder, the stages behind it, the base."""

    name: str
    license: str = ""
    fingerprint: str = ""
    steps: tuple[str, ...] = ()
    base_name: str = ""
    base_url: str = ""
    # The type of most tensors, by its number in llama.cpp's list.
    file_type: int = 0


def architecture_of(config: Any) -> Architecture:
    """Return what GGUF says of a loaded transformers config. Raises ValueError for what it cannot say."""
    plain = config.to_dict()
    family = family_of(plain)
    rope = rope_of(config, family.scalings)
    num_heads = config.num_attention_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    header = {
        "context_length": _context_length(config, family),
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": num_heads,
        "attention.head_count_kv": num_kv_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "vocab_size": config.vocab_size,
        **rope.header,
        **family.header(plain),
    }
    return Architecture(family, header, rope.factors, num_heads, num_kv_heads)


def _context_length(config: Any, family: Family) -> int:
    """Return the longest context at which llama.cpp computes what the model does."""
    context = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None)
    if family.has_window or window is None or getattr(config, "use_sliding_window", True) is False or window >= context:
        return context
    note(f"context_length is {window} tokens, the sliding window: llama.cpp attends to all {context} in this family")
    return int(window)


def add_header(writer: GGUFWriter, architecture: Architecture, origin: Origin) -> None:
    """Add everything but the tokenizer to a file that is being written."""
    writer.add_type("model")
    writer.add_name(origin.name)
    writer.add_license(origin.license)  # an empty one is left out
    writer.add_file_type(origin.file_type)
    writer.add_quantization_version(2)
    if origin.base_name:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, origin.base_name)
        if origin.base_url:
            writer.add_base_model_repo_url(0, origin.base_url)
    writer.add_string("attar.fingerprint", origin.fingerprint)
    writer.add_array("attar.steps", list(origin.steps))
    for key, value in architecture.header.items():
        _add(writer, f"{architecture.family.arch}.{key}", value)


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add a value under the type that llama.cpp reads it by. Whole numbers are unsigned, 32 bits."""
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    adders[type(value)](key, value)
