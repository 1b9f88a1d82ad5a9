"""Run a model without some of its blocks, or from a recorded state on, leaving the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from compressors.prune.blocks import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def without_blocks(
    model: PreTrainedModel,
    removed: frozenset[int],
    resume_at: int = 0,
    state: Float[Tensor, "B T D"] | None = None,
    *,
    is_tuple: bool = False,
) -> Iterator[None]:
    """Let the model run without some blocks; with `state`, begin with it before block `resume_at` instead of at the embeddings.

    `is_tuple`: whether the family's blocks return tuples. Only for runs without a KV cache.
    """
    blocks = decoder_blocks(model)
    passed = removed | set(range(resume_at))

    def pass_on(entry: Tensor | None) -> Callable:
        def forward(*args: Tensor, **kwargs: Tensor) -> Tensor | tuple[Tensor, None]:
            hidden = entry if entry is not None else args[0] if args else kwargs["hidden_states"]
            return (hidden, None) if is_tuple else hidden

        return forward

    try:
        for index in passed:
            # the last block that is passed by before the entry hands on the state that belongs there
            blocks[index].forward = pass_on(state if index == resume_at - 1 else None)
        yield
    finally:
        for index in passed:
            del blocks[index].forward
