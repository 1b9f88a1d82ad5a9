"""The facts of each kind of artifact with their types. `model.facts.removed_blocks` is a tuple of integers, and a checker knows it."""

from __future__ import annotations

from dataclasses import dataclass

from attar.registry.artifacts.facts import NOT_KNOWN, ArtifactFacts


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelFacts(ArtifactFacts):
    """Of a model: its sizes, its dtype, what its tokenizer cannot do. The blocks of the model before it that are gone, and what quantizing cost."""

    num_blocks: int = NOT_KNOWN
    hidden_size: int = NOT_KNOWN
    vocab_size: int = NOT_KNOWN
    architecture: str = NOT_KNOWN
    # of one block's matrices, of a feed-forward channel and of a KV group over all blocks: of families that can be narrowed
    num_block_matmul_parameters: int | None = None
    num_parameters: int = NOT_KNOWN
    num_block_parameters: int | None = None
    num_ffn_channels: int | None = None
    ffn_channel_parameters: int | None = None
    num_kv_groups: int | None = None
    kv_group_parameters: int | None = None
    num_matmul_parameters: int = NOT_KNOWN
    attention_width: int = NOT_KNOWN
    dtype: str = NOT_KNOWN
    companion_bytes: int | None = None
    # what the chat template does not do, and tokens that the embedding has no row for
    num_chat_templates: int | None = None
    chat_template: str | None = None
    chat_system: str | None = None
    num_tokens_without_row: int | None = None
    license: str | None = None
    removed_blocks: tuple[int, ...] = NOT_KNOWN
    quantization: str | None = None
    kl_nats: float | None = None
    agreement: float | None = None
    perplexity: float | None = None
    original_perplexity: float | None = None
    num_tokens: int | None = None
    size_fraction: float | None = None
    decode_seconds_per_token: float | None = None
    original_decode_seconds_per_token: float | None = None
    perplexity_ratio: float | None = None
    # of a folder of packed weights: its form, what is really in it, and how its reader differs from the rounded model
    format: str | None = None
    weight_bytes: float | None = None
    bits_per_weight: float | None = None
    packed_fraction: float | None = None
    token_agreement: float | None = None
    max_logit_difference: float | None = None
    # of a model that fills masks: the token that hides, and how many tokens make a block
    mask_token: str | None = None
    mask_block_size: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class VisionModelFacts(ArtifactFacts):
    """Of a vision-language model: the blocks of its language tower, its tokens, the parameters of the whole."""

    num_blocks: int = NOT_KNOWN
    vocab_size: int = NOT_KNOWN
    num_parameters: int = NOT_KNOWN


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GgufFacts(ArtifactFacts):
    """Of a GGUF file: the sizes of its model, types and bytes of its weights. What readers made of it, and what rounding cost."""

    num_blocks: int = NOT_KNOWN
    vocab_size: int = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    num_matmul_parameters: int = NOT_KNOWN
    attention_width: int = NOT_KNOWN
    companion_bytes: int | None = None
    format: str = NOT_KNOWN
    # llama.cpp's name of the family, and the type of the matrices
    architecture: str | None = None
    quantization: str | None = None
    # of all tensors as they lie in the file, and the share of the numbers that fell back to f16
    weight_bytes: float | None = None
    bits_per_weight: float | None = None
    fallback_fraction: float | None = None
    # programs that read it and wrote what torch writes
    readers: tuple[str, ...] = NOT_KNOWN
    token_agreement: float | None = None
    max_logit_difference: float | None = None
    kl_nats: float | None = None
    agreement: float | None = None
    decode_seconds_per_token: float | None = None
    original_decode_seconds_per_token: float | None = None
    license: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RuntimeFormFacts(ArtifactFacts):
    """Of a folder in a runtime's own form: the sizes of its model, type and bytes of its weights. What the runtime made of it beside torch."""

    num_blocks: int = NOT_KNOWN
    vocab_size: int = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    num_matmul_parameters: int = NOT_KNOWN
    attention_width: int = NOT_KNOWN
    companion_bytes: int | None = None
    format: str = NOT_KNOWN
    architecture: str | None = None
    # the type of the matrices; bytes of the weights as they lie in the file
    quantization: str | None = None
    weight_bytes: float | None = None
    bits_per_weight: float | None = None
    # programs that read it and wrote what torch writes
    readers: tuple[str, ...] = NOT_KNOWN
    token_agreement: float | None = None
    max_logit_difference: float | None = None
    # what rounding cost; times of the runtime and of torch, in turns
    kl_nats: float | None = None
    agreement: float | None = None
    decode_seconds_per_token: float | None = None
    original_decode_seconds_per_token: float | None = None
    license: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AdapterFacts(ArtifactFacts):
    """Of an adapter: what was trained, on which base. `chosen_on`: the parts of the data that its best weights were chosen on.

    `others` hold the ratios that guidance was gated by, `kl_ratio_seen` and so on, and the sizes of sub-networks, `elastic_blocks` and so on.
    """

    method: str = NOT_KNOWN
    rank: int = NOT_KNOWN
    num_steps: int | None = None
    best_step: int | None = None
    base_fingerprint: str = NOT_KNOWN
    vocab_size: int = NOT_KNOWN
    chosen_on: tuple[str, ...] = NOT_KNOWN
    # the share of held-out questions answered right that chose the weights, and how many questions
    heldout_quality: float | None = None
    num_quality_rows: int | None = None
    # of the adapters on fused experts, where there are any
    expert_rank: int | None = None
    # of an encoder: after how many blocks its vector was learned, where not after the last alone
    exits: tuple[int, ...] = NOT_KNOWN
    # of a merged adapter: what it misses of the weighted sum
    max_relative_error: float | None = None
    # of a student that learned to fill masks: the token that hides, and how many tokens make a block
    mask_token: str | None = None
    mask_block_size: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DatasetFacts(ArtifactFacts):
    """Of a data set: its rows and where they came from. The vocabulary of a recorded teacher, and the scales of guided rows."""

    name: str | None = None
    num_rows: int | None = None
    num_heldout: int | None = None
    num_choose: int | None = None
    num_rewritten: int | None = None
    num_dropped: int | None = None
    # candidates a token of the recorded teacher; 0: none is recorded
    num_recorded: int | None = None
    vocab_size: int | None = None
    source: str | None = None
    # rows go by ids of their own, by which another data set may name them
    has_own_ids: bool | None = None
    guided_model: str | None = None
    unguided: str | None = None
    min_scale: float = NOT_KNOWN
    max_scale: float = NOT_KNOWN
    unseen_scale: float = NOT_KNOWN


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ScanFacts(ArtifactFacts):
    """Of a scan: what was scored, over how much."""

    num_blocks: int = NOT_KNOWN
    num_tokens: int | None = None
    metrics: tuple[str, ...] = NOT_KNOWN
    sizes: tuple[int, ...] = NOT_KNOWN
    num_greedy_steps: int | None = None
    has_latency: bool | None = None
    axes: tuple[str, ...] = NOT_KNOWN


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EvaluationFacts(ArtifactFacts):
    """Of an evaluation: what it measured. `others` hold the headline numbers by measure, task and end of interval."""

    format: str = NOT_KNOWN
    model_fingerprint: str = NOT_KNOWN
    # of the data: held out to report, or set apart to choose on
    part: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ComparisonFacts(ArtifactFacts):
    """Of a comparison: `others` hold its estimates by measure, data set and end of interval."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BehaviourFacts(ArtifactFacts):
    """Of a behaviour check: the two models. `others` hold drops, their ends and the flips by group, `drop_refusals` and so on."""

    model_fingerprint: str = NOT_KNOWN
    original_fingerprint: str = NOT_KNOWN


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FittedFacts(ArtifactFacts):
    """Of a number that was fitted: its value, and the part of the data that it was fitted on."""

    value: float = NOT_KNOWN
    fitted_on: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ReleaseFacts(ArtifactFacts):
    """Of a release: the registered model, its version, and whether it is the champion."""

    name: str = NOT_KNOWN
    version: str = NOT_KNOWN
    is_champion: bool = NOT_KNOWN
