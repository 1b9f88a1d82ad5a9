"""How close a student with a smaller vocabulary stays to its original. The two cut the same text into other tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Positions whose distributions are held as float32 at once.
POSITIONS_AT_ONCE = 64


@dataclass(frozen=True)
class Aligned:
    """One text as the original and the student read it, and where both have a boundary.

    `lengths` and `student_lengths`: of each token, in the same unit (the characters of byte-level tokens are bytes).
    """

    ids: Sequence[int]
    student_ids: Sequence[int]
    lengths: Sequence[int]
    student_lengths: Sequence[int]

    def segments(self) -> list[tuple[slice, slice]]:
        """Return the tokens of both between neighbouring boundaries that they share. Raises ValueError for different texts."""
        ends, student_ends = (_ends(lengths) for lengths in (self.lengths, self.student_lengths))
        if not ends or not student_ends or ends[-1] != student_ends[-1]:
            raise ValueError("the two token sequences are not of one text: their lengths differ")
        indices = {end: index + 1 for index, end in enumerate(student_ends)}
        segments, start, student_start = [], 0, 0
        for index, end in enumerate(ends):
            if end in indices:
                segments.append((slice(start, index + 1), slice(student_start, indices[end])))
                start, student_start = index + 1, indices[end]
        return segments


@dataclass(frozen=True)
class RetokenisedCloseness:
    """Sums over one text: nats lost, and the original's tokens that they are over."""

    kl_nats: float
    num_tokens: int


@torch.inference_mode()
def retokenised_closeness(
    student: PreTrainedModel,
    original: PreTrainedModel,
    text: Aligned,
    first_pieces: Int[Tensor, "V"],
    num_context_tokens: int = 1,
) -> RetokenisedCloseness:
    """Return what the student lacks of the original on one text, in nats over the original's tokens behind the context.

    At a boundary of both, KL(p' || q): p' gives each token's probability to the first piece that the student writes it with
    (`first_pieces`). Inside a token that the student writes in several pieces, the further pieces count with their whole
    negative log-likelihood. On texts drawn from the original that is, in expectation, an upper bound of the divergence of the two
    distributions over texts, by the chain rule. With one vocabulary for both it is the KL a token.
    """
    ids, student_ids = (torch.tensor([list(part)]) for part in (text.ids, text.student_ids))
    logits = original(input_ids=ids.to(original.device), use_cache=False).logits[0]
    student_logits = student(input_ids=student_ids.to(student.device), use_cache=False).logits[0]
    segments = [(own, other) for own, other in text.segments() if own.start >= num_context_tokens and other.start]
    if not segments:
        return RetokenisedCloseness(0.0, 0)
    rows = torch.tensor([own.start - 1 for own, _ in segments])
    student_rows = torch.tensor([other.start - 1 for _, other in segments])
    total = 0.0
    for part, student_part in zip(rows.split(POSITIONS_AT_ONCE), student_rows.split(POSITIONS_AT_ONCE), strict=True):
        total += _pushed_kl(logits[part], student_logits[student_part], first_pieces)
    further = [index for _, other in segments for index in range(other.start + 1, other.stop)]
    own_further = [index for own, _ in segments for index in range(own.start + 1, own.stop)]
    total += _nats(student_logits, text.student_ids, further) - _nats(logits, text.ids, own_further)
    return RetokenisedCloseness(total, sum(own.stop - own.start for own, _ in segments))


def first_pieces(
    num_tokens: int, new_ids: Mapping[int, int], pieces_of: Mapping[int, Sequence[int]]
) -> Int[Tensor, "V"]:
    """Return for each old token the student's first piece of it. A kept token's is its own new id."""
    firsts = torch.zeros(num_tokens, dtype=torch.long)
    for old in range(num_tokens):
        firsts[old] = new_ids[old] if old in new_ids else pieces_of[old][0]
    return firsts


def _pushed_kl(logits: Float[Tensor, "N V"], student: Float[Tensor, "N K"], firsts: Int[Tensor, "V"]) -> float:
    log_q = student.float().log_softmax(dim=-1)
    p = logits.float().softmax(dim=-1)
    is_whole = log_q.shape[-1] == p.shape[-1]
    pushed = p if is_whole else torch.zeros_like(log_q).index_add_(1, firsts.to(p.device), p)
    return float(torch.xlogy(pushed, pushed).sub_(pushed * log_q).sum())


def _nats(logits: Float[Tensor, "T V"], ids: Sequence[int], positions: Sequence[int]) -> float:
    if not positions:
        return 0.0
    rows = logits[[position - 1 for position in positions]].float().log_softmax(dim=-1)
    wanted = torch.tensor([ids[position] for position in positions], device=rows.device)
    return -float(rows.gather(1, wanted[:, None]).sum())


def _ends(lengths: Sequence[int]) -> list[int]:
    ends, total = [], 0
    for length in lengths:
        total += length
        ends.append(total)
    return ends
