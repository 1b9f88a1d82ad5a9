"""Vectors that stand before a prompt in place of demonstrations, and a compressor that makes them. Their handles and their facts."""

from __future__ import annotations

from dataclasses import dataclass

from attar.registry.artifacts.artifact import Artifact
from attar.registry.artifacts.facts import NOT_KNOWN, ArtifactFacts


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PrefixFacts(ArtifactFacts):
    """Of vectors: the model that reads them, how many and how wide they are, which rows they stand for. `compressor`: what made them."""

    model_fingerprint: str = NOT_KNOWN
    num_vectors: int = NOT_KNOWN
    hidden_size: int = NOT_KNOWN
    vocab_size: int = NOT_KNOWN
    # by name, of the data set with this fingerprint; how many tokens they are
    demonstrations: tuple[str, ...] = NOT_KNOWN
    data_fingerprint: str | None = None
    num_demonstrations: int | None = None
    num_demonstration_tokens: int | None = None
    num_steps: int | None = None
    best_step: int | None = None
    compressor: str | None = None
    chosen_on: tuple[str, ...] = NOT_KNOWN


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CompressorFacts(ArtifactFacts):
    """Of a compressor: the model whose first blocks it is made of, how many vectors it makes of any demonstrations."""

    model_fingerprint: str = NOT_KNOWN
    num_vectors: int = NOT_KNOWN
    num_compressor_blocks: int = NOT_KNOWN
    hidden_size: int = NOT_KNOWN
    vocab_size: int = NOT_KNOWN
    num_steps: int | None = None
    best_step: int | None = None
    # of the compressor that its training began with
    start: str | None = None
    chosen_on: tuple[str, ...] = NOT_KNOWN


class PrefixArtifact(Artifact[PrefixFacts]):
    """`prefix.safetensors`: vectors before a prompt; `demonstrations.json`: the rows that they stand for."""

    kind = "prefix"
    facts_type = PrefixFacts


class CompressorArtifact(Artifact[CompressorFacts]):
    """`compressor.safetensors`: what makes such vectors of demonstrations, for one model."""

    kind = "compressor"
    facts_type = CompressorFacts
