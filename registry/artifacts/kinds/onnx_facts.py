"""The facts of a causal model's graph, with their types."""

from __future__ import annotations

from dataclasses import dataclass

from attar.registry.artifacts.facts import NOT_KNOWN, ArtifactFacts


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OnnxFacts(ArtifactFacts):
    """Of a graph: the sizes of its model, how its weights are held, its parity with torch. What quantizing cost."""

    num_blocks: int = NOT_KNOWN
    vocab_size: int = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    num_matmul_parameters: int = NOT_KNOWN
    attention_width: int = NOT_KNOWN
    companion_bytes: int | None = None
    format: str = NOT_KNOWN
    quantization: str | None = None
    # of the weights alone, in integers
    weight_bytes: float | None = None
    # standard: of ONNX' own operators alone; none: with onnxruntime's own
    operators: str | None = None
    # of floats and of the cache, where that is not float32; what a token takes in the cache
    precision: str | None = None
    cache: str | None = None
    cache_bytes_per_token: int | None = None
    token_agreement: float | None = None
    is_guided: bool | None = None
    kl_nats: float | None = None
    agreement: float | None = None
    perplexity: float | None = None
    original_perplexity: float | None = None
    num_tokens: int | None = None
    size_fraction: float | None = None
    decode_seconds_per_token: float | None = None
    original_decode_seconds_per_token: float | None = None
    perplexity_ratio: float | None = None
    # products that stay in floats
    num_kept: int | None = None
    # the fingerprint of the model whose prefixes the graph takes; without it, it takes none
    prefix_model: str | None = None
