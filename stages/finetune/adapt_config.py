"""What of a student learns: low-rank adapters, all weights of its blocks, or the last blocks with the head."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from attar.compressors.adapt.catalogue import AdaptMethod
from attar.compressors.adapt.compressor import PrefixCompressor
from attar.compressors.adapt.elastic import ElasticWeights
from attar.compressors.adapt.lora import Lora
from attar.compressors.adapt.prefix import SoftPrefix
from attar.compressors.adapt.quantization_aware import QuantizationAware as QuantizationAwareMethod
from attar.compressors.adapt.weights import FullWeights
from attar.compressors.adapt.weights import LastBlocks as LastBlocksMethod
from attar.compressors.guidance.denoiser import ScaleAdapters
from attar.compressors.quantize.roundings import ROUNDINGS, BlockIntegers, Rounding
from attar.stages.artifacts.encoder.elastic import SubNetworks
from attar.stages.artifacts.encoder.exits import Exits
from attar.stages.artifacts.model.folder import QuantizedBase
from attar.stages.artifacts.prefix.learning import BeforePrompt, DemonstrationCompressor, PrefixVectors
from attar.stages.contract import StageConfig, default_kind
from attar.stages.runtime.method_field import MethodField

# after_cut: the block before the first removed one and those behind it; what lies before is run once, not every epoch.
AdaptedBlocks = Literal["all", "after_cut"]


class LowRank(StageConfig):
    """Adapters of low rank on the matrices of the blocks; the base stays as it is."""

    kind: Literal["lora", "rslora", "dora"] = "lora"
    """Plain, rank-stabilised (https://arxiv.org/abs/2312.03732), or with direction and length apart (https://arxiv.org/abs/2402.09353)."""

    rank: int = Field(default=16, ge=1)
    """Rank of the adapters."""

    alpha: float = Field(default=32.0, gt=0)
    """Their scale: the update is multiplied by alpha / rank, under rslora by alpha / sqrt(rank)."""

    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on their input, in [0, 1)."""

    targets: list[str] = []
    """Names of the matrices they sit on, such as q_proj; empty: every matrix of every block, beside experts those that PEFT can tell from them."""

    expert_rank: int = Field(default=0, ge=0)
    """Rank of adapters on each matrix of every routed expert, at the same scale; 0: experts and routers stay as they are."""

    blocks: AdaptedBlocks = "all"
    """after_cut: only the block before the first removed one and those behind it learn; what lies before is run once, not every epoch."""

    quantized_base: QuantizedBase = "none"
    """Hold the frozen base in 4 bits (nf4) or 8 (int8) with bitsandbytes. https://arxiv.org/abs/2305.14314"""

    trains_base: ClassVar[bool] = False
    stands_before: ClassVar[bool] = False
    exits: ClassVar[tuple[int, ...]] = ()

    @model_validator(mode="after")
    def _experts_take_plain_pairs(self) -> LowRank:
        if self.expert_rank and (self.kind == "dora" or self.dropout):
            given = "kind is 'dora'" if self.kind == "dora" else f"dropout is {self.dropout:g}"
            raise ValueError(
                f"expert_rank is {self.expert_rank}, but {given}; accepted with it: lora or rslora, dropout 0"
            )
        return self

    @property
    def method(self) -> AdaptMethod:
        """The method that makes weights trainable."""
        return Lora(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            targets=tuple(self.targets),
            is_rank_stabilized=self.kind == "rslora",
            is_decomposed=self.kind == "dora",
            expert_rank=self.expert_rank,
        )


class AllWeights(StageConfig):
    """All weights of the blocks, and the final norm."""

    kind: Literal["full"] = "full"
    """All weights of the blocks learn."""

    blocks: AdaptedBlocks = "all"
    """after_cut: only the block before the first removed one and those behind it learn; what lies before is run once, not every epoch."""

    freeze: list[str] = []
    """Tensors that stay bit for bit as they are, by patterns of their names, such as ["*.conv1.*", "*norm*"]; empty: none.
    https://arxiv.org/abs/2405.20750"""

    exits: Exits = ()
    """Of an encoder: after how many blocks its vector is learned, such as [2, 4, 6], each exit by every objective with weight i / N of N
    blocks; the last is N. Empty: after the last block alone."""

    trains_base: ClassVar[bool] = True
    stands_before: ClassVar[bool] = False
    quantized_base: ClassVar[QuantizedBase] = "none"
    rank: ClassVar[int] = 0
    expert_rank: ClassVar[int] = 0

    @property
    def method(self) -> AdaptMethod:
        """The method that makes weights trainable."""
        return FullWeights()


class LastBlocks(StageConfig):
    """The last blocks, the final norm and the head."""

    kind: Literal["last_blocks"] = "last_blocks"
    """The last blocks learn."""

    num_blocks: int = Field(default=2, ge=1)
    """How many blocks learn."""

    blocks: AdaptedBlocks = "all"
    """after_cut: of them only those from the block before the first removed one on."""

    trains_base: ClassVar[bool] = True
    stands_before: ClassVar[bool] = False
    quantized_base: ClassVar[QuantizedBase] = "none"
    exits: ClassVar[tuple[int, ...]] = ()
    rank: ClassVar[int] = 0
    expert_rank: ClassVar[int] = 0

    @property
    def method(self) -> AdaptMethod:
        """The method that makes weights trainable."""
        return LastBlocksMethod(num_blocks=self.num_blocks)


class QuantizationAware(StageConfig):
    """All weights of the blocks, each pass through the rounding of the format that they will be stored in."""

    kind: Literal["quantization_aware"] = "quantization_aware"
    """The weights behind the rounded ones learn. Quantize the folded model on the same grid: method nearest, smooth 0."""

    rounding: Annotated[Rounding, MethodField(ROUNDINGS, "rounding", "blocks")] = BlockIntegers()
    """The grid: {kind: blocks, bits: 4, block_size: 32, symmetric: false} of stage quantize, or ggml's {kind: q4_0} and {kind: q8_0}."""

    head: Annotated[Rounding, MethodField(ROUNDINGS, "rounding", "blocks")] = BlockIntegers(bits=8)
    """The grid of embedding and output head, which stay as they are."""

    runtime: Literal["any", "onnxruntime", "llama.cpp"] = "any"
    """Where the integers will run: a grid that it does not have is refused. any: not checked."""

    blocks: AdaptedBlocks = "all"
    """after_cut: the blocks before the cut are rounded and stay."""

    trains_base: ClassVar[bool] = True
    stands_before: ClassVar[bool] = False
    quantized_base: ClassVar[QuantizedBase] = "none"
    exits: ClassVar[tuple[int, ...]] = ()
    rank: ClassVar[int] = 0
    expert_rank: ClassVar[int] = 0

    @property
    def method(self) -> AdaptMethod:
        """The method that makes weights trainable."""
        return QuantizationAwareMethod(rounding=self.rounding, head=self.head)

    @model_validator(mode="after")
    def _runtime_has_grids(self) -> QuantizationAware:
        for name, grid in (("rounding", self.rounding), ("head", self.head)):
            if self.runtime not in ("any", grid.runtime):
                own = ", ".join(f"{{kind: {kind}}}" for kind, some in ROUNDINGS.items() if some.runtime == self.runtime)
                raise ValueError(
                    f"adapt.{name} is a grid of {grid.runtime}, which runtime {self.runtime!r} does not have; accepted: {own}"
                )
        return self


class Guidance(StageConfig):
    """Adapters beside the attentions of a denoiser, which learn in one pass what guidance says in two. The base stays as it is."""

    kind: Literal["guidance"] = "guidance"
    """Guidance adapters learn, by the loss guided_distance. https://arxiv.org/abs/2503.07274"""

    adapter: Literal["cross", "offset"] = "cross"
    """cross: attention over scale, timestep and class; offset: a vector of them."""

    rank: int = Field(default=32, ge=2)
    """Width inside an adapter."""

    is_base_at_one: bool = False
    """Multiply the adapters' output by w - 1, so that scale 1 is the base exactly. False: the published form."""

    blocks: ClassVar[AdaptedBlocks] = "all"
    trains_base: ClassVar[bool] = False
    stands_before: ClassVar[bool] = False
    exits: ClassVar[tuple[int, ...]] = ()
    quantized_base: ClassVar[QuantizedBase] = "none"
    expert_rank: ClassVar[int] = 0

    @property
    def method(self) -> AdaptMethod:
        """What the adapters are."""
        return ScaleAdapters(adapter=self.adapter, rank=self.rank, is_base_at_one=self.is_base_at_one)


AdaptKind = (
    LowRank
    | AllWeights
    | LastBlocks
    | QuantizationAware
    | Guidance
    | PrefixVectors
    | DemonstrationCompressor
    | SubNetworks
)
Adapt = Annotated[AdaptKind, Field(discriminator="kind"), default_kind("lora")]


def learned_by(adapt: AdaptKind) -> tuple[AdaptMethod, BeforePrompt | None]:
    """Return the method that makes weights trainable, and the vectors that it puts before prompts."""
    if adapt.kind == "prefix":
        return SoftPrefix(num_vectors=adapt.num_vectors), BeforePrompt(num_vectors=adapt.num_vectors, num_sets=1)
    if adapt.kind == "compressor":
        method = PrefixCompressor(num_vectors=adapt.num_vectors, num_blocks=adapt.num_blocks)
        shown = {"num_sets": adapt.num_sets, "text_fraction": adapt.text_fraction}
        return method, BeforePrompt(num_vectors=adapt.num_vectors, **shown)  # type: ignore[arg-type]
    if adapt.kind == "elastic":
        return ElasticWeights(), None
    return adapt.method, None
