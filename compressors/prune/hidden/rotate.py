"""Turn the residual stream by an orthogonal matrix without changing what the model computes, as SliceGPT does before it cuts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.prune.hidden.stream import Stream, next_width, stream_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def rotate_stream(model: PreTrainedModel, rotation: Float[Tensor, "D D"]) -> None:
    """Multiply the stream by an orthogonal matrix, in place; logits stay. https://arxiv.org/abs/2401.15024

    The root mean square does not change by a rotation, a norm's weights do not commute with it: they are folded into the matrices that
    read the norm, and become ones. Embedding and what adds to the stream give rotated states, what reads it turns them back.
    One matrix for all blocks, since a plain config has no word for what would lie between two. Raises ValueError where that cannot be.
    """
    stream = check_rotation(model)
    for reading in stream.readings:
        weight: Tensor = reading.norm.weight  # type: ignore[assignment]
        for matrix in stream.readers(reading.part):
            _set(matrix.weight, _wide(matrix.weight) * _wide(weight), rotation)
        for matrix in stream.writers(reading.part):  # what it adds to the stream, and its bias, lie in rows
            _set(matrix.weight, _wide(matrix.weight).T, rotation, is_turned=True)
            if matrix.bias is not None:
                _set(matrix.bias, _wide(matrix.bias), rotation)
        weight.fill_(1.0)
    embedding: Tensor = model.get_input_embeddings().weight  # type: ignore[union-attr, assignment]
    _set(embedding, _wide(embedding), rotation)


def check_rotation(model: PreTrainedModel) -> Stream:
    """Return the stream of a model that can be rotated. Raises ValueError with the reason otherwise."""
    family = type(model).__name__
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding.weight is head.weight:  # type: ignore[union-attr]
        raise ValueError(
            f"{family}: one matrix is its embedding and its head, and the weights of the last norm stand between them: a rotation would "
            "make two of it, a larger model; accepted: hidden"
        )
    stream = stream_of(model, next_width(model))
    for reading in stream.readings:
        matrices = [*stream.readers(reading.part), *stream.writers(reading.part)]
        known = {id(matrix.weight) for matrix in matrices} | {id(matrix.bias) for matrix in matrices}
        for name, parameter in reading.part.named_parameters():
            if id(parameter) in stream.sized and id(parameter) not in known:
                raise ValueError(
                    f"{family}: {name} of shape {tuple(parameter.shape)} is no plain matrix that reads the stream or adds to it; not rotated"
                )
    return stream


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _set(tensor: Tensor, rows: Tensor, rotation: Tensor, *, is_turned: bool = False) -> None:
    """Write rows times the rotation, in the tensor's own dtype; `is_turned`: transposed."""
    rotated = rows @ rotation.to(rows)
    tensor.copy_(rotated.T if is_turned else rotated)
