"""The facts of classifiers, of texts, words or images, of their graphs, and of a data set of images."""

from __future__ import annotations

from dataclasses import dataclass

from attar.registry.artifacts.facts import NOT_KNOWN, ArtifactFacts


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ClassifierFacts(ArtifactFacts):
    """Of a classifier of texts, or of words: its sizes, its classes, and where texts are cut, special tokens included.

    `labels`: names of the classes in the order of the logits. `num_subclasses`: outputs of the head a class, which are summed.
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
    labels: tuple[str, ...] = NOT_KNOWN
    num_subclasses: int = NOT_KNOWN
    # of a pair scorer: a row is two texts, and the head's single logit says how alike they are
    reads_pairs: bool | None = None
    # of a tagger: each word gets a label, BIO tags that tell spans
    reads_words: bool | None = None
    max_tokens: int = NOT_KNOWN
    num_tokens_without_row: int | None = None
    license: str | None = None
    removed_blocks: tuple[int, ...] = NOT_KNOWN


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ClassifierGraphFacts(ArtifactFacts):
    """Of a classifier's graph, which sums subclasses itself: the sizes of its model, its parity, what quantizing cost."""

    num_blocks: int = NOT_KNOWN
    vocab_size: int = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    num_matmul_parameters: int = NOT_KNOWN
    attention_width: int = NOT_KNOWN
    companion_bytes: int | None = None
    labels: tuple[str, ...] = NOT_KNOWN
    num_subclasses: int = NOT_KNOWN
    # of a pair scorer: a row is two texts, and the head's single logit says how alike they are
    reads_pairs: bool | None = None
    # of a tagger: each word gets a label, BIO tags that tell spans
    reads_words: bool | None = None
    max_tokens: int = NOT_KNOWN
    format: str = NOT_KNOWN
    quantization: str | None = None
    precision: str | None = None
    # of the weights alone, in integers
    weight_bytes: float | None = None
    # largest difference of a log-probability to torch's, in nats
    max_logprob_difference: float | None = None
    # to the distributions of the graph before it over held-out texts, in nats a text (of a tagger, a token); the share put into the same class
    kl_nats: float | None = None
    agreement: float | None = None
    size_fraction: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ImageClassifierFacts(ArtifactFacts):
    """Of an image classifier: its sizes, what it reads and how many classes it tells apart.

    `image_size`: height and width that its processor makes of any image. `removable_blocks`: those that hand on an image of the same shape.
    """

    image_size: tuple[int, ...] = NOT_KNOWN
    num_channels: int = NOT_KNOWN
    num_classes: int = NOT_KNOWN
    num_blocks: int = NOT_KNOWN
    removable_blocks: tuple[int, ...] = NOT_KNOWN
    architecture: str = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    num_block_parameters: int | None = None
    # multiplications with weights that a single image takes
    num_products: int | None = None
    dtype: str = NOT_KNOWN
    companion_bytes: int | None = None
    license: str | None = None
    removed_blocks: tuple[int, ...] = NOT_KNOWN
    # sizes of the sub-networks that learned, beside the whole, where any did
    elastic_blocks: tuple[int, ...] = NOT_KNOWN
    elastic_width: tuple[int, ...] = NOT_KNOWN
    elastic_heads: tuple[int, ...] = NOT_KNOWN
    elastic_channels: tuple[int, ...] = NOT_KNOWN
    # the sizes of the sub-network that it is, of a whole that was trained as many
    subnet: str | None = None
    # of a narrower one: what is left of each width
    widths: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ImageGraphFacts(ArtifactFacts):
    """Of an image classifier's graph: the sizes of its model, its parity, what quantizing cost."""

    image_size: tuple[int, ...] = NOT_KNOWN
    num_channels: int = NOT_KNOWN
    num_classes: int = NOT_KNOWN
    num_blocks: int = NOT_KNOWN
    num_parameters: int = NOT_KNOWN
    num_products: int | None = None
    companion_bytes: int | None = None
    format: str = NOT_KNOWN
    quantization: str | None = None
    precision: str | None = None
    weight_bytes: float | None = None
    # largest difference of a log-probability to torch's, in nats
    max_logprob_difference: float | None = None
    # of the graph before it, over held-out images: KL in nats, and the share of images that both put into one class
    kl_nats: float | None = None
    agreement: float | None = None
    size_fraction: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ImageDatasetFacts(ArtifactFacts):
    """Of images with their classes: how many in which part, and what they look like. `image_size`: of the largest, height and width."""

    image_size: tuple[int, ...] = NOT_KNOWN
    num_channels: int = NOT_KNOWN
    num_classes: int = NOT_KNOWN
    name: str | None = None
    num_rows: int | None = None
    num_heldout: int | None = None
    num_choose: int | None = None
    source: str | None = None
