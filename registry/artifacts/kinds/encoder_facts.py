"""The facts of sentence encoders, of denoisers and data sets of images, and of their graphs."""

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
    # after how many blocks its vector was learned, where not after the last alone
    exits: tuple[int, ...] = NOT_KNOWN
    # sizes of the sub-networks that learned, beside the whole, where any did
    elastic_blocks: tuple[int, ...] = NOT_KNOWN
    elastic_width: tuple[int, ...] = NOT_KNOWN
    elastic_heads: tuple[int, ...] = NOT_KNOWN
    elastic_channels: tuple[int, ...] = NOT_KNOWN
    # the sizes of the sub-network that it is, of a whole that was trained as many
    subnet: str | None = None
    # tokens of no word that stand before its questions, where it thinks in some
    num_latent_tokens: int | None = None


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
    num_latent_tokens: int | None = None
    format: str = NOT_KNOWN
    quantization: str | None = None
    precision: str | None = None
    # after how many blocks a batch may end, where it may end before the last
    early_exits: tuple[int, ...] = NOT_KNOWN
    # of the weights alone, in integers
    weight_bytes: float | None = None
    # largest difference of a number of a vector to torch's
    max_vector_difference: float | None = None
    # 1 - cosine to the vectors of the graph before it, mean over held-out texts
    cosine_distance: float | None = None
    size_fraction: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DenoiserFacts(ArtifactFacts):
    """Of a denoiser: its sizes, the images that it makes, and what its net predicts.

    `sample_size`: height and width of its images. `num_labels`: classes that it can be told, with the one that means any, where it has
    that. `prediction`: epsilon, v_prediction or sample. `self_conditioning`: whether its middle conditions the blocks behind it.
    """

    sample_size: int = NOT_KNOWN
    num_labels: int = NOT_KNOWN
    prediction: str = NOT_KNOWN
    num_image_channels: int = NOT_KNOWN
    num_timesteps: int = NOT_KNOWN
    architecture: str = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    # multiplications with weights that a forward of a single image takes
    num_products: int | None = None
    dtype: str = NOT_KNOWN
    self_conditioning: bool | None = None
    companion_bytes: int | None = None
    license: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SamplerGraphFacts(ArtifactFacts):
    """Of a graph that is a denoiser's whole sampler: noise and classes in, images out. `num_steps`: those that are in it."""

    sample_size: int = NOT_KNOWN
    num_labels: int = NOT_KNOWN
    prediction: str = NOT_KNOWN
    num_image_channels: int = NOT_KNOWN
    num_timesteps: int = NOT_KNOWN
    num_steps: int = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    num_products: int | None = None
    companion_bytes: int | None = None
    format: str = NOT_KNOWN
    quantization: str | None = None
    # of a graph that is guided in one pass: the scales that its adapters learned
    min_scale: float | None = None
    max_scale: float | None = None
    # largest difference of a pixel to torch's, where images lie in [-1, 1]
    max_pixel_difference: float | None = None
