"""The facts of a sentence encoder and of its graph."""

from __future__ import annotations

from dataclasses import dataclass

from attar.registry.artifacts.facts import NOT_KNOWN, ArtifactFacts


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EncoderFacts(ArtifactFacts):
    """Of a sentence encoder: its sizes, and how the states of a text's tokens become the text's vector.

    `pooling`: mean, cls, max or mean_sqrt_len. `max_tokens`: where texts are cut, special tokens included.
    """

    num_blocks: int = NOT_KNOWN
    hidden_size: int = NOT_KNOWN
    vocab_size: int = NOT_KNOWN
    architecture: str = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    num_block_parameters: int | None = None
    num_block_matmul_parameters: int | None = None
    num_matmul_parameters: int = NOT_KNOWN
    attention_width: int = NOT_KNOWN
    dtype: str = NOT_KNOWN
    companion_bytes: int | None = None
    pooling: str = NOT_KNOWN
    is_normalized: bool = NOT_KNOWN
    max_tokens: int = NOT_KNOWN
    num_tokens_without_row: int | None = None
    license: str | None = None
    removed_blocks: tuple[int, ...] = NOT_KNOWN


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EncoderGraphFacts(ArtifactFacts):
    """Of an encoder's graph, which pools and normalizes itself: the sizes of its model, its parity, what quantizing cost."""

    num_blocks: int = NOT_KNOWN
    vocab_size: int = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    num_matmul_parameters: int = NOT_KNOWN
    attention_width: int = NOT_KNOWN
    companion_bytes: int | None = None
    pooling: str = NOT_KNOWN
    is_normalized: bool = NOT_KNOWN
    max_tokens: int = NOT_KNOWN
    format: str = NOT_KNOWN
    quantization: str | None = None
    # of the weights alone, in integers
    weight_bytes: float | None = None
    # largest difference of a number of a vector to torch's
    max_vector_difference: float | None = None
    # 1 - cosine to the vectors of the graph before it, mean over held-out texts
    cosine_distance: float | None = None
    size_fraction: float | None = None
