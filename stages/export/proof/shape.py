"""Facts of a written form that follow from its model and from its bytes."""

from __future__ import annotations

from typing import Any

from attar.registry.artifacts.facts import Facts
from attar.stages.runtime.progress import metric, note

# Of the model, which its forms share.
SHAPE_FACTS = (
    "num_blocks",
    "vocab_size",
    "num_parameters",
    "num_matmul_parameters",
    "attention_width",
    "companion_bytes",
    "license",
)


def shape_of(model: Facts) -> dict[str, Any]:
    """Return the facts of a model's shape that are known, and its licence."""
    return {name: model[name] for name in SHAPE_FACTS if name in model}


def weight_facts(num_bytes: int, num_parameters: int) -> dict[str, float]:
    """Return bytes and bits a weight as they lie on disk, and tell them."""
    bits = 8 * num_bytes / num_parameters
    metric("bits_per_weight", bits)
    note(f"{bits:.2f} bits a weight, {num_bytes:,} bytes")
    return {"weight_bytes": float(num_bytes), "bits_per_weight": bits}
