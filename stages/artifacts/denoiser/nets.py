"""The nets of denoisers that are taken. Their names in diffusers, where they lie, and what is read of their configs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from torch import nn

from attar.compressors.diffusion.self_conditioning import Bottleneck
from attar.compressors.guidance.denoiser import GuidedAttention
from attar.stages.artifacts.images.pixels import MODES

# Of a side, a width or a count in a config: what is built of larger ones fills memory, or takes hours.
MAX_SIZE = 16_384


@dataclass(frozen=True)
class NetKind:
    """A class of diffusers whose nets are class-conditional, and the pipeline that runs them."""

    name: str
    class_name: str
    folder: str
    pipeline: str
    # key of the config that says how many classes the net can be told, and how many rows its table has beyond that
    labels: str
    num_extra: int
    # keys of the config that give sizes or lists of them, where they are given
    sizes: tuple[str, ...]
    # by what the side of an image must be divided, and in what words
    divisor: Callable[[Mapping[str, Any]], tuple[int, str]]
    # the attentions that guidance adapters hang beside
    attentions: Callable[[Any], list[GuidedAttention]]
    # the middle of a net, whose features say most of an image, and the blocks behind it
    bottleneck: Callable[[Any], Bottleneck]

    def num_labels(self, config: Mapping[str, Any]) -> int:
        """Return how many classes the net can be told."""
        return int(config[self.labels]) + self.num_extra

    def check(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise ValueError for a config of another class, without classes, or of images that the net cannot part evenly."""
        if config.get("_class_name") != self.class_name:
            raise ValueError(
                f"{folder}: {self.folder}/ holds a {config.get('_class_name')}; accepted: {self.class_name} there"
            )
        if not _is_count(config.get(self.labels)) or config.get("class_embed_type"):
            raise ValueError(
                f"{folder}: {self.folder}/config.json gives {self.labels} {config.get(self.labels)!r}, so that the net is told no class; "
                "accepted: a class-conditional denoiser"
            )
        if config.get("out_channels") not in (None, config.get("in_channels")):
            raise ValueError(
                f"{folder}: {self.folder}/config.json has in_channels {config.get('in_channels')} and out_channels "
                f"{config['out_channels']}; accepted: as many, a net that predicts no variance"
            )
        if not _is_count(config.get("in_channels")) or config["in_channels"] not in MODES:
            raise ValueError(
                f"{folder}: {self.folder}/config.json has in_channels {str(config.get('in_channels'))[:40]}; accepted: "
                f"{' or '.join(map(str, MODES))}, of images in grey or colour"
            )
        if not all(1 <= size <= MAX_SIZE for size in _sizes(config.get(name) for name in self.sizes)):
            given = ", ".join(f"{name} {str(config.get(name))[:40]}" for name in self.sizes)
            raise ValueError(
                f"{folder}: {self.folder}/config.json has {given}; accepted: whole numbers from 1 to {MAX_SIZE:,}"
            )
        side, (divisor, what) = config.get("sample_size"), self.divisor(config)
        if not _is_count(side) or side > MAX_SIZE or side % divisor:
            raise ValueError(
                f"{folder}: sample_size is {side}, which {what} {divisor} does not divide; accepted: a multiple of {divisor}"
            )

    def index(self, scheduler: str) -> dict[str, Any]:
        """Return the content of `model_index.json`."""
        parts = {self.folder: ["diffusers", self.class_name], "scheduler": ["diffusers", scheduler]}
        without = {"vae": [None, None]} if self.pipeline == "DiTPipeline" else {}  # images are its latents
        return {"_class_name": self.pipeline, "_diffusers_version": _version(), **parts, **without}

    def prepared(self, net: Any) -> Any:
        """Return a net that hides no class by itself: what is hidden is drawn with the rest of a step."""
        for module in net.modules():
            if hasattr(module, "token_drop"):
                module.dropout_prob = 0.0
        return net


def sizes_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return (channels, side) of the images of a net."""
    return int(config["in_channels"]), int(config["sample_size"])


def net_of(kind: NetKind) -> Any:
    """Return the class of a net. Raises ValueError where diffusers is not installed."""
    return getattr(_diffusers(), kind.class_name)


def scheduler_of(name: str) -> Any:
    """Return a scheduler's class."""
    return getattr(_diffusers(), name)


def _diffusers() -> Any:
    try:
        import diffusers  # seconds to import, and in an extra
    except ImportError as error:
        raise ValueError("a denoiser needs diffusers: install attar[images]") from error
    diffusers.utils.logging.set_verbosity_error()
    return diffusers


def _version() -> str:
    return str(_diffusers().__version__)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _sizes(given: Iterable[Any]) -> Iterator[int]:
    """Yield sizes, and those in lists of them; 0 for what is none."""
    for value in given:
        for size in value if isinstance(value, list | tuple) and value else [value]:
            if size is not None:
                yield size if _is_count(size) else 0


def _halvings(config: Mapping[str, Any]) -> tuple[int, str]:
    return 2 ** (len(config.get("block_out_channels") or [0]) - 1), "halving it at each level, by"


def _patches(config: Mapping[str, Any]) -> tuple[int, str]:
    return int(config.get("patch_size") or 1), "patch_size"


def _attentions_of_unet(net: Any) -> list[GuidedAttention]:
    """Return every attention: all of them read one embedding of the timestep and one of the class."""
    attentions = [module for module in net.modules() if type(module).__name__ == "Attention"]
    return [_guided(attention, net.time_embedding, net.class_embedding) for attention in attentions]


def _attentions_of_transformer(net: Any) -> list[GuidedAttention]:
    """Return the attention of each block, which embeds timestep and class anew."""
    embedders = [(block.attn1, block.norm1.emb) for block in net.transformer_blocks]
    return [_guided(attention, emb.timestep_embedder, emb.class_embedder) for attention, emb in embedders]


def _middle_of_unet(net: Any) -> Bottleneck:
    """Return the block between down and up, the last of down where there is none, and the blocks of up."""
    width, condition_width = net.config.block_out_channels[-1], net.time_embedding.linear_2.out_features
    block = net.down_blocks[-1] if net.mid_block is None else net.mid_block
    return Bottleneck(block, tuple(net.up_blocks), 2, width, condition_width)


def _middle_of_transformer(net: Any) -> Bottleneck:
    """Return the last block of the first half, and of those behind it what reads the embedding of timestep and class."""
    blocks, width = net.transformer_blocks, net.inner_dim
    half = (len(blocks) + 1) // 2
    return Bottleneck(blocks[half - 1], tuple(block.norm1.silu for block in blocks[half:]), 0, width, width)


def _guided(attention: Any, time: Any, label: nn.Module) -> GuidedAttention:
    return GuidedAttention(attention, time, label, attention.to_q.in_features, time.linear_2.out_features)


UNET = NetKind(
    "unet",
    "UNet2DModel",
    "unet",
    "ConsistencyModelPipeline",
    "num_class_embeds",
    0,
    ("block_out_channels", "layers_per_block", "norm_num_groups", "attention_head_dim"),
    _halvings,
    _attentions_of_unet,
    _middle_of_unet,
)
# the table of a transformer has a row more, for a class that is hidden
DIT = NetKind(
    "dit",
    "DiTTransformer2DModel",
    "transformer",
    "DiTPipeline",
    "num_embeds_ada_norm",
    1,
    ("num_attention_heads", "attention_head_dim", "num_layers", "patch_size"),
    _patches,
    _attentions_of_transformer,
    _middle_of_transformer,
)
NETS = (UNET, DIT)
