"""Distributions over a vocabulary, computed some tokens at a time from hidden states. No logits of a whole batch are ever kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attar.compressors.distill.losses.objective import Objective
from attar.compressors.distill.losses.statistics import measured
from attar.compressors.distill.losses.targets.vocabulary import VocabularySample
from attar.compressors.distill.losses.views import Targets, TokenViews
from attar.compressors.distill.teachers.outputs import Teachers
from attar.compressors.models.head import OutputHead

# float32 logits of so many are 25 MB over 49,152 entries: stays in the caches, and a CPU's allocator uses such a piece again
TOKENS_PER_CHUNK = 128


@dataclass(frozen=True)
class Distributions:
    """A batch's N positions as hidden states and a head, their targets, and their teachers.

    Memory beyond the hidden states is O(tokens_per_chunk x V), whatever the batch, for the loss and for its gradient. `sample`: what
    chooses the part of the vocabulary over which distributions are compared; None: all of it.
    """

    hidden: Float[Tensor, "N D"]
    head: OutputHead
    targets: Targets
    teachers: Teachers = field(default_factory=Teachers)
    tokens_per_chunk: int = TOKENS_PER_CHUNK
    sample: VocabularySample | None = None

    def total(self, objectives: Mapping[str, Objective], loss_of: Callable[[TokenViews], Tensor]) -> Tensor:
        """Return the sum of `loss_of` over chunks of tokens; only the student gets a gradient."""
        seen = self._sampled()
        targets = measured(
            objectives,
            seen.targets,
            self.tokens_per_chunk,
            lambda tokens: seen.head.logits(seen.hidden[tokens]).log_softmax(dim=-1),
            lambda tokens: with_teachers(seen.targets, seen.teachers, tokens),
        )

        def chunk_loss(part: Tensor, tokens: slice, weight: Tensor, bias: Tensor | None) -> Tensor:
            logprobs = seen.head.logits(part, weight, bias).log_softmax(dim=-1)
            return loss_of(TokenViews(logprobs, with_teachers(targets, seen.teachers, tokens)))

        total: Any = _Chunked.apply(seen.hidden, seen.head.weight, seen.head.bias, chunk_loss, self.tokens_per_chunk)
        return total

    def _sampled(self) -> Distributions:
        """Return it over the sample of the vocabulary, where there is one."""
        if self.sample is None:
            return self
        entries = self.sample.entries(self.targets.next_ids)
        targets = replace(self.targets, next_ids=entries.indices_of(self.targets.next_ids))
        return replace(self, head=self.head.over(entries), targets=targets, teachers=self.teachers.over(entries))


def with_teachers(targets: Targets, teachers: Teachers, tokens: slice) -> Targets:
    """Return the targets of some tokens with what each live teacher makes of them."""
    full = {f"{name}_full": logprobs for name, logprobs in teachers.logprobs(tokens).items()}
    return replace(targets.cut(tokens), **full)  # type: ignore[arg-type]


class _Chunked(torch.autograd.Function):
    """Sum a loss over chunks of tokens, taking each chunk's gradient at once, while its logits are still there.

    The gradient in the hidden states is as small as they are, so nothing is computed twice and no logits are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk_loss: Callable[..., Tensor], size: int
    ) -> Tensor:
        needs = ctx.needs_input_grad[:3]
        total = hidden.new_zeros((), dtype=torch.float32)
        gradients = [
            torch.zeros_like(x) if x is not None and need else None
            for x, need in zip((hidden, weight, bias), needs, strict=True)
        ]
        for start in range(0, len(hidden), size):
            tokens = slice(start, start + size)
            with torch.set_grad_enabled(any(needs)):
                leaves = [
                    x if x is None else x.detach().requires_grad_(need)
                    for x, need in zip((hidden[tokens], weight, bias), needs, strict=True)
                ]
                loss = chunk_loss(leaves[0], tokens, *leaves[1:])
            total += loss.detach()
            _add_gradients(
                loss, leaves, [g[tokens] if g is not None and i == 0 else g for i, g in enumerate(gradients)]
            )
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return *(None if g is None else g * outer.to(g.dtype) for g in ctx.gradients), None, None


def _add_gradients(loss: Tensor, leaves: list[Tensor | None], into: list[Tensor | None]) -> None:
    wanted = [(leaf, sink) for leaf, sink in zip(leaves, into, strict=True) if leaf is not None and sink is not None]
    if not wanted or not loss.requires_grad:  # no token of the chunk has a teacher, say
        return
    gradients = torch.autograd.grad(loss, [leaf for leaf, _ in wanted])
    for (_, sink), gradient in zip(wanted, gradients, strict=True):
        sink.add_(gradient)
