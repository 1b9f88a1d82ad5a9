"""Names in an exported graph: those that optimum, transformers.js and onnxruntime-genai expect."""

from __future__ import annotations

PAST, PRESENT = "past_key_values", "present"


def cache_names(num_blocks: int, prefix: str) -> list[str]:
    """Return the graph's cache names in order: `prefix.0.key`, `prefix.0.value`, ..."""
    return [f"{prefix}.{index}.{part}" for index in range(num_blocks) for part in ("key", "value")]
