"""A network whose sub-networks compute with slices of its weights. They run as plain models of its family, and come out as such.

A sub-network has the first numbers of each width, the first heads and of each its first numbers, the first channels, and blocks that are evenly
spread. What runs is a model of those sizes without memory of its own, its tensors views of the whole's: what it learns, the whole learns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attar.compressors.elastic.space import Subnet, blocks_of
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.config_cut import cut_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# What configs call the number of feed-forward channels of a block.
CHANNEL_NAMES = ("intermediate_size", "hidden_dim")
ACCEPTED = "BERT, RoBERTa, DistilBERT, MPNet, ELECTRA and ViT"
# Matrices that make queries, keys and values, whose outputs are heads, and the one that reads what the heads give.
HEAD_ROWS = ("query", "key", "value", "q", "k", "v", "q_lin", "k_lin", "v_lin", "q_proj", "k_proj", "v_proj")
HEAD_COLUMNS = ("attention.output.dense", "attn.o", "out_lin", "o_proj")


class Supernet:
    """A model as the network that holds all sub-networks of its sizes or less."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.whole = model, sizes_of(model.config)
        self._skeletons: dict[Subnet, PreTrainedModel] = {}
        blocks = decoder_blocks(model)
        self.prefix = next(name for name, module in model.named_modules() if module is blocks) + "."
        _refuse_other_heads(model, self.whole)

    def skeleton(self, subnet: Subnet) -> PreTrainedModel:
        """Return a model of these sizes without weights. Raises ValueError where the family's config cannot say them."""
        if subnet not in self._skeletons:
            self._skeletons[subnet] = self._built(subnet)
        return self._skeletons[subnet]

    def tensors(self, subnet: Subnet) -> dict[str, Tensor]:
        """Return every tensor of a sub-network by its name there, parameters and buffers: views of the whole's, with their gradient."""
        own = named_tensors(self.model)
        return {
            name: self._slice(name, own[self._source(name, subnet)], skeleton.shape, subnet)
            for name, skeleton in named_tensors(self.skeleton(subnet)).items()
        }

    def num_parameters(self, subnet: Subnet) -> int:
        """Return how many parameters a sub-network has as a model of its own."""
        return sum(parameter.numel() for parameter in self.skeleton(subnet).parameters())

    def run(self, subnet: Subnet, module: nn.Module, prefix: str, *args: Any) -> Any:
        """Call a module that holds the skeleton under names that begin with `prefix`, by the slices of now."""
        tensors = {f"{prefix}{name}": tensor for name, tensor in self.tensors(subnet).items()}
        return torch.func.functional_call(module, tensors, args)

    @torch.no_grad()
    def extracted(self, subnet: Subnet) -> PreTrainedModel:
        """Return a sub-network as a model of its own, in evaluation mode. Copies of the slices, and a config that says their sizes."""
        model = copy.deepcopy(self.skeleton(subnet))
        for name, tensor in self.tensors(subnet).items():
            path, _, key = name.rpartition(".")
            owner, value = model.get_submodule(path), tensor.detach().clone(memory_format=torch.contiguous_format)
            if key in owner._parameters:
                owner._parameters[key] = nn.Parameter(value, requires_grad=False)
            else:
                owner._buffers[key] = value
        return model.eval()

    def _built(self, subnet: Subnet) -> PreTrainedModel:
        family, config = type(self.model).__name__, config_at(self.model.config, self.whole, subnet)
        try:
            with torch.device("meta"):
                skeleton = type(self.model)(config)
        except Exception as error:  # a config class may raise anything
            raise ValueError(f"{family}: its config refuses {subnet}: {' '.join(str(error).split())[:200]}") from error
        if (
            getattr(self.model, "pooler", skeleton) is None
        ):  # an encoder that came without the part, which nothing reads
            skeleton.pooler = None  # type: ignore[assignment]
        own = named_tensors(self.model)
        for name, tensor in named_tensors(skeleton).items():
            source = own.get(self._source(name, subnet))
            if source is None or source.ndim != tensor.ndim or any(map(int.__gt__, tensor.shape, source.shape)):
                raise ValueError(f"{family}: a model of {subnet} has {name}, which is no part of the whole's")
        return skeleton.to(self.model.dtype).eval()  # type: ignore[arg-type] - transformers' wrapper hides torch's own

    def _source(self, name: str, subnet: Subnet) -> str:
        """Return the whole's name of a sub-network's tensor: that of the block which it has at this position."""
        if not name.startswith(self.prefix):
            return name
        index, _, rest = name.removeprefix(self.prefix).partition(".")
        return f"{self.prefix}{blocks_of(self.whole.blocks, subnet.blocks)[int(index)]}.{rest}"

    def _slice(self, name: str, tensor: Tensor, shape: torch.Size, subnet: Subnet) -> Tensor:
        dim = head_dim(name) if tensor.ndim else None
        if dim is not None and subnet.head_width != self.whole.head_width:
            heads = tensor.unflatten(dim, (self.whole.heads, self.whole.head_width))
            heads = heads.narrow(dim, 0, subnet.heads).narrow(dim + 1, 0, subnet.head_width)
            tensor = heads.flatten(dim, dim + 1)
        return tensor[tuple(slice(0, size) for size in shape)]


def sizes_of(config: PretrainedConfig) -> Subnet:
    """Return the sizes that a config says. Raises ValueError for one that has no single number of each: nets of several stages."""
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", *_channel_names(config)[:1])
    sizes = [getattr(config, name, None) for name in names]
    if len(sizes) < 4 or not all(isinstance(size, int) for size in sizes):
        raise ValueError(
            f"{config.model_type}: its config has no single number of blocks, width, heads and channels; accepted: {ACCEPTED}"
        )
    return Subnet(*sizes)  # type: ignore[arg-type] - as was just asked


def config_at(config: PretrainedConfig, whole: Subnet, subnet: Subnet) -> PretrainedConfig:
    """Return the config of a sub-network. Raises ValueError where a block that stays reads one that goes."""
    changed: Any = copy.deepcopy(config)
    cut_config(changed, whole.blocks, blocks_of(whole.blocks, subnet.blocks))
    if getattr(changed, "embedding_size", None) == whole.width:  # of ELECTRA: else the embedding would get a projection
        changed.embedding_size = subnet.width
    changed.hidden_size, changed.num_attention_heads = subnet.width, subnet.heads
    setattr(changed, _channel_names(config)[0], subnet.channels)
    if getattr(changed, "head_dim", None):
        changed.head_dim = subnet.head_width
    return changed


class SlicedNet(nn.Module):
    """A sub-network inside of what wraps a model, such as pooling or a head. It computes by the whole's weights of now.

    `wrap`: makes that of a model, with the model as its attribute `model`. Nothing in it is a parameter: the whole holds them.
    """

    def __init__(self, supernet: Supernet, subnet: Subnet, wrap: Callable[[PreTrainedModel], nn.Module]) -> None:
        super().__init__()
        self.subnet = subnet
        self._held = (supernet, wrap(supernet.skeleton(subnet)).eval())  # no modules of its own

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self._held[0].model.device

    @property
    def wrapped(self) -> Any:
        """What wraps the sub-network, as its last pass left it."""
        return self._held[1]

    @property
    def model(self) -> PreTrainedModel:
        """The model of these sizes, without weights: its config and its class are those of the extracted one."""
        return self._held[0].skeleton(self.subnet)

    def forward(self, *args: Any) -> Any:
        """Return what the wrapped sub-network makes of these arguments."""
        supernet, wrapped = self._held
        return supernet.run(self.subnet, wrapped, "model.", *args)

    @torch.inference_mode()
    def embed(self, *args: Any) -> Tensor:
        """Return it without gradient, as an `EmbeddingRunner` does."""
        return self(*args)


def named_tensors(model: nn.Module) -> Mapping[str, Tensor]:
    """Return parameters and buffers by their names."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def head_dim(name: str) -> int | None:
    """Return the dimension of a tensor in which heads follow each other; None where they do not."""
    path, _, key = name.rpartition(".")
    if path.rpartition(".")[2] in HEAD_ROWS:
        return 0
    return 1 if key == "weight" and path.endswith(HEAD_COLUMNS) else None


def _refuse_other_heads(model: PreTrainedModel, whole: Subnet) -> None:
    """Raise ValueError unless every block has a matrix each for queries, keys and values, and another that reads the heads."""
    family = type(model).__name__
    for block in decoder_blocks(model):
        dims = [
            (dim, parameter.shape[dim])
            for name, parameter in block.named_parameters()
            if name.endswith(".weight") and (dim := head_dim(name)) is not None
        ]
        if sorted(dims) != [(0, whole.width)] * 3 + [(1, whole.width)]:
            raise ValueError(
                f"{family}: no separate matrices of queries, keys and values of {whole.heads} heads in a block; accepted: "
                f"{ACCEPTED}"
            )


def _channel_names(config: PretrainedConfig) -> list[str]:
    return [name for name in CHANNEL_NAMES if isinstance(getattr(config, name, None), int)]
