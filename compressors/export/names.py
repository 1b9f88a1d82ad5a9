"""Names in an exported graph: those that optimum, transformers.js and onnxruntime-genai expect. And what its cache is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PAST, PRESENT = "past_key_values", "present"
# Keys and values grow with the text; the states of convolutions and recurrences do not. Names as onnxruntime-genai has them.
KEY, VALUE, CONVOLUTION, RECURRENCE = "key", "value", "conv_state", "recurrent_state"
GROWING = (KEY, VALUE)
# In a graph's metadata: its cache grows by new columns at the end, a copy each time, instead of being written in place.
CACHE, APPENDED = "attar.cache", "appended"
# An input of vectors, which ids behind the vocabulary name; in the metadata under this key: the first such id.
PREFIX, FIRST_VECTOR = "prefix", "attar.first_vector"


@dataclass(frozen=True)
class CachePart:
    """One tensor of a cache, by its block and name. `size` is behind the batch, 0 in it the number of tokens."""

    block: int
    name: str
    size: tuple[int, ...]

    @property
    def is_growing(self) -> bool:
        """Whether it has a column a token."""
        return self.name in GROWING

    def port(self, prefix: str) -> str:
        """Return the graph's name of it: `prefix.0.key`."""
        return f"{prefix}.{self.block}.{self.name}"


def cache_names(parts: Sequence[CachePart], prefix: str) -> list[str]:
    """Return the graph's cache names in order: `prefix.0.key`, `prefix.0.value`, ..."""
    return [part.port(prefix) for part in parts]


def key_values(num_blocks: int, num_heads: int, head_size: int) -> list[CachePart]:
    """Return the cache of a model whose blocks all attend alike."""
    return [CachePart(index, name, (num_heads, 0, head_size)) for index in range(num_blocks) for name in GROWING]
