"""Examples whose answers are filled in: blocks with hidden tokens, which alone are learned, and what each token sees."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attar.compressors.distill.examples.packing import Batch, Example
from attar.compressors.masked.form import MaskedForm, visible
from attar.compressors.masked.hiding import HidingRule

# Nats of what a sure teacher leaves to every other candidate: less than float32 adds to 1.
NO_MASS_NATS = -40.0


@dataclass(frozen=True)
class HiddenView:
    """An example up to the end of one of its blocks, and which tokens of that answer are hidden. Some of the block's."""

    example: Example
    hidden: Bool[Tensor, "T"]


def with_whole_blocks(example: Example, block_size: int, stop_ids: Collection[int]) -> Example:
    """Return an example whose last block is filled up with the token that ends its answer.

    As it is where no such token does. What stands behind an end is written too, and cut off: it must be learned. A recorded teacher says
    the same of it.
    """
    num_missing = -len(example.answer_ids) % block_size
    if not num_missing or example.answer_ids[-1] not in stop_ids:
        return example
    end = example.answer_ids[-1]
    padded = replace(example, answer_ids=[*example.answer_ids, *[end] * num_missing])
    if example.top_ids is None or example.top_logprobs is None:
        return padded
    ids, logprobs = _sure_of(end, example.top_ids, num_missing)
    return replace(
        padded,
        top_ids=torch.cat([example.top_ids, ids]),
        top_logprobs=torch.cat([example.top_logprobs, logprobs.to(example.top_logprobs.dtype)]),
    )


def hidden_views(
    example: Example, form: MaskedForm, rule: HidingRule, group: int, generator: torch.Generator
) -> list[HiddenView]:
    """Return the views of one block of an example, drawn. They share a group, so that they lie in one batch."""
    num_blocks = -(-len(example.answer_ids) // form.block_size)
    start = form.block_size * int(torch.randint(num_blocks, (1,), generator=generator))
    end = min(start + form.block_size, len(example.answer_ids))
    cut = _up_to(example, end)
    cut = replace(cut, facts=replace(example.facts, group=group))
    seen = torch.zeros(start, dtype=torch.bool)
    return [HiddenView(cut, torch.cat([seen, hidden])) for hidden in rule(end - start, generator)]


def hide(batch: Batch, views: Sequence[HiddenView], form: MaskedForm) -> Batch:
    """Return a batch of views with their hidden tokens masked, which alone are learned, and blocks seen from both sides.

    `views`: those of its rows, in order.
    """
    input_ids = batch.input_ids.clone()
    segments = torch.zeros_like(input_ids)
    for row, view in enumerate(views):
        num_prompt, num_tokens = len(view.example.prompt_ids), view.example.num_tokens
        input_ids[row, num_prompt:num_tokens][view.hidden] = form.mask_token_id
        segments[row, :num_tokens] = torch.tensor(form.segments(num_prompt, len(view.example.answer_ids)))
    assert batch.attention_mask is not None, "rows with hidden tokens are not packed"
    learned = torch.cat([view.hidden for view in views])
    chosen = {
        name: value[learned]
        for name in ("rows", "columns", "next_ids", "sequences", "teacher_ids", "teacher_logprobs", "has_teacher")
        if (value := getattr(batch, name)) is not None
    }
    sees = visible(segments, batch.attention_mask.bool(), input_ids.shape[1])
    return replace(batch, input_ids=input_ids, attention_mask=sees, **chosen)


def _up_to(example: Example, end: int) -> Example:
    """Return an example whose answer ends earlier. What was recorded is of its last tokens."""
    num_cut = len(example.answer_ids) - end
    cut = replace(example, answer_ids=example.answer_ids[:end])
    if example.top_ids is None or example.top_logprobs is None:
        return cut
    num_left = max(0, len(example.top_ids) - num_cut)
    return replace(cut, top_ids=example.top_ids[:num_left], top_logprobs=example.top_logprobs[:num_left])


def _sure_of(token: int, recorded: Int[Tensor, "T K"], count: int) -> tuple[Int[Tensor, "C K"], Float[Tensor, "C K"]]:
    """Return candidates, as many as are recorded, of a teacher that is sure of a token."""
    width = recorded.shape[1]
    others = [index for index in range(width + 1) if index != token][: width - 1]
    ids = torch.tensor([token, *others], dtype=recorded.dtype).expand(count, -1)
    return ids, torch.tensor([0.0] + [NO_MASS_NATS] * (width - 1)).expand(count, -1)
