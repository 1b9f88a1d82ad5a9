"""Through what a block adds to the residual stream. The last matrices of its attention and feed-forward part, experts included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.paging import bring

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    Matrix = nn.Linear | Conv1D

# What families call the feed-forward part of a block, and its last matrix; some have that in the block itself.
FEED_FORWARDS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "shared_mlp", "mixer")
LAST_MATRICES = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "w2", "output_linear", "fc_out")
ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
# Other parts that mix tokens, in blocks without attention.
RECURRENCES = ("mamba", "linear_attn", "conv", "short_conv")
ATTENTION_EXITS = ("o_proj", "out_proj", "dense", "c_proj")
# A norm between the feed-forward matrix and the residual stream: a linear map cannot be moved through it.
NORMS_AFTER = ("post_feedforward_layernorm", "post_mlp_layernorm")
# What the folding of a map may be off by, relative to the whole, in the dtype of the weights.
FOLD_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class Exit(Protocol):
    """Something linear whose output a block adds to its state. A refit changes what it makes of what it reads."""

    def watch(self, see: Callable[[Tensor], None]) -> Any:
        """Hand what is read in each pass to `see`; return the handle of the hook."""
        ...

    def apply(self, read: Tensor) -> Tensor:
        """Return the output for what was read."""
        ...

    def add(self, change: Float[Tensor, "I D"]) -> None:
        """Let `read change` be added to the output from now on."""
        ...


@dataclass(frozen=True)
class MatrixExit:
    """One plain matrix."""

    matrix: Matrix

    def watch(self, see: Callable[[Tensor], None]) -> Any:
        return self.matrix.register_forward_pre_hook(lambda module, args: see(args[0]))

    def apply(self, read: Tensor) -> Tensor:
        return self.matrix(read)

    def add(self, change: Float[Tensor, "I D"]) -> None:
        weight = by_input(self.matrix)
        weight.copy_((weight.double() + change.double().to(weight.device)).to(weight.dtype))


@dataclass(frozen=True)
class PartExit:
    """A whole part with several last matrices, of experts for instance. Its output is what is read, and all of them take a change."""

    modules: tuple[nn.Module, ...]

    def watch(self, see: Callable[[Tensor], None]) -> Any:
        sums: list[Tensor] = []

        def keep(module: nn.Module, args: tuple, output: Any) -> None:
            sums.append(_tensor(output))
            if len(sums) == len(self.modules):
                see(sum(sums[1:], start=sums[0]))
                sums.clear()

        return _Handles([module.register_forward_hook(keep) for module in self.modules])

    def apply(self, read: Tensor) -> Tensor:
        return read

    def add(self, change: Float[Tensor, "D D"]) -> None:
        multiply_outputs(self.modules, torch.eye(len(change), device=change.device, dtype=change.dtype) + change)


def feed_forward_exit(model: PreTrainedModel, block_index: int) -> Matrix:
    """Return the one last feed-forward matrix of a block. Raises ValueError for families in which a patch cannot be folded into one."""
    block = bring(decoder_blocks(model)[block_index])
    _refuse_norm_after(model, block)
    parts = _feed_forwards(block) or [block]
    matrices = [getattr(part, name) for part in parts for name in LAST_MATRICES if hasattr(part, name)]
    return _only(matrices, model, "last feed-forward matrix")


def feed_forward_part(model: PreTrainedModel, block_index: int) -> MatrixExit | PartExit:
    """Return what adds a block's feed-forward part. Its one last matrix, or the whole of it where there are several.

    Raises ValueError for families in which a patch cannot be folded.
    """
    block = bring(decoder_blocks(model)[block_index])
    parts = _feed_forwards(block)
    if (len(parts) == 1 and not _is_plain(parts[0])) or len(parts) > 1:
        _refuse_norm_after(model, block)
        if not any(_last_matrices(part) for part in parts):
            raise ValueError(
                f"{type(model).__name__}: no last feed-forward matrix of a known name; a patch cannot be folded"
            )
        return PartExit(tuple(parts))
    return MatrixExit(feed_forward_exit(model, block_index))


@contextmanager
def feed_forward_output(model: PreTrainedModel, block_index: int, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Hand what a block's feed-forward part gives, as the block gets it, to `see` in each pass inside the block."""
    handle = PartExit(tuple(_whole_part(model, block_index))).watch(see)
    try:
        yield
    finally:
        handle.remove()


def multiply_feed_forward(model: PreTrainedModel, block_index: int, factor: Float[Tensor, "D D"]) -> None:
    """Multiply what a block's feed-forward part gives by a matrix, in place, in float32. Raises ValueError where that cannot be folded."""
    multiply_outputs(_whole_part(model, block_index), factor)


@torch.no_grad()
def multiply_outputs(parts: list[nn.Module] | tuple[nn.Module, ...], factor: Float[Tensor, "D D"]) -> None:
    """Multiply the outputs of parts by a matrix, in place. Tried on random numbers: raises ValueError, and restores, where it is not so."""
    for part in parts:
        weights = _last_matrices(part)
        originals = [weight.detach().clone() for weight, _ in weights]
        before = _tried(part, factor)
        for weight, is_by_input in weights:
            full = factor.to(weight.device, torch.float32)
            changed = weight.float() @ full if is_by_input else full.T @ weight.float()
            weight.copy_(changed.to(weight.dtype))
        after = _tried(part, factor)
        if before is None or after is None:
            continue
        wanted = before.float() @ factor.to(before.device, torch.float32)
        error = float((after.float() - wanted).norm() / wanted.norm().clamp(min=1e-12))
        if not error <= FOLD_TOLERANCE.get(before.dtype, 5e-2):
            for (weight, _), old in zip(weights, originals, strict=True):
                weight.copy_(old)
            raise ValueError(
                f"{type(part).__name__}: its output is not linear in its last matrices; a patch cannot be folded"
            )


def attention_exit(model: PreTrainedModel, block_index: int) -> Matrix:
    """Return the last matrix of a block's attention, or of what mixes tokens in its place. Raises ValueError where a patch cannot be folded."""
    block = bring(decoder_blocks(model)[block_index])
    parts = [
        getattr(block, name) for name in (*ATTENTION_NAMES, *RECURRENCES) if getattr(block, name, None) is not None
    ]
    inner = [getattr(part, "attention", part) for part in parts]  # GPT-Neo wraps it
    exits = [getattr(part, name) for part in inner for name in ATTENTION_EXITS if hasattr(part, name)]
    return _only(exits, model, "last attention matrix")


def by_input(matrix: Matrix) -> Tensor:
    """Return the weight as a view with a row for each input: Linear stores (out, in), Conv1D (in, out)."""
    return matrix.weight.T if isinstance(matrix, nn.Linear) else matrix.weight


def _whole_part(model: PreTrainedModel, block_index: int) -> list[nn.Module]:
    """Return the modules whose outputs are what the feed-forward part gives. Raises ValueError where a patch cannot be folded."""
    feed_forward_part(model, block_index)  # refuses
    return _feed_forwards(decoder_blocks(model)[block_index]) or [feed_forward_exit(model, block_index)]


class _Handles:
    """Several hooks as one."""

    def __init__(self, handles: list[Any]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Take all of them off."""
        for handle in self._handles:
            handle.remove()


def _feed_forwards(block: nn.Module) -> list[nn.Module]:
    parts = [getattr(block, name, None) for name in FEED_FORWARDS]
    return [part for part in parts if isinstance(part, nn.Module)]


def _is_plain(part: nn.Module) -> bool:
    """Say whether a part's one last matrix is its own, not an expert's."""
    owners = [module for module in part.modules() if any(hasattr(module, name) for name in LAST_MATRICES)]
    return owners == [part]


def _last_matrices(part: nn.Module) -> list[tuple[Tensor, bool]]:
    """Return the weights (and biases) that make a part's output, each with whether its last dimension is the output."""
    from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

    if isinstance(part, nn.Linear | Conv1D):
        return _of_matrix(part)
    weights: list[tuple[Tensor, bool]] = []
    for module in part.modules():
        for name in LAST_MATRICES:
            last = getattr(module, name, None)
            if isinstance(last, nn.Linear | Conv1D):
                weights += _of_matrix(last)
            elif isinstance(last, nn.Parameter) and last.ndim == 3:
                weights.append((last, bool(getattr(module, "is_transposed", False))))
                bias = getattr(module, f"{name}_bias", None)
                weights += [] if bias is None else [(bias, True)]
    return weights


def _of_matrix(matrix: Matrix) -> list[tuple[Tensor, bool]]:
    weights: list[tuple[Tensor, bool]] = [(matrix.weight, not isinstance(matrix, nn.Linear))]
    return weights if matrix.bias is None else [*weights, (matrix.bias, True)]


def _tried(part: nn.Module, factor: Tensor) -> Tensor | None:
    """Return a part's output on random numbers; None for a matrix, of which it is known."""
    weight = next(part.parameters())
    if hasattr(part, "in_features") or hasattr(part, "nf"):
        return None
    probe = torch.randn(1, 16, len(factor), generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    try:
        return _tensor(part(probe))
    except Exception as error:  # a foreign module may raise anything
        raise ValueError(f"{type(part).__name__} takes more than hidden states; a patch cannot be folded") from error


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _refuse_norm_after(model: PreTrainedModel, block: nn.Module) -> None:
    modules = dict(block.named_modules())
    for name in NORMS_AFTER:
        if name in modules:
            raise ValueError(
                f"{type(model).__name__}: {name} stands after the feed-forward part; a patch cannot be folded"
            )


def _only(modules: list[nn.Module], model: PreTrainedModel, what: str) -> Matrix:
    from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

    if len(modules) != 1 or not isinstance(modules[0], nn.Linear | Conv1D):
        raise ValueError(f"{type(model).__name__}: no single {what} found; a patch cannot be folded")
    return modules[0]
