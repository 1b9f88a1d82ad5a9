"""A teacher's candidates in few bytes: token ids as planes of bits, log-probabilities in half precision, the tail mass exact.

Per token with K candidates: 2 K bytes of low id bits, K/4 or K/2 of high id bits where an id needs them, 2 K of log-probabilities and
4 of tail. At K = 64 that is 260 bytes for ids below 65,536, 276 below 262,144, 292 below 1,048,576; int32 and float32 take 512.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

LOW_BITS = 16
# high bits of an id, by the first id that needs more
HIGH_BITS = {1 << 16: 0, 1 << 18: 2, 1 << 20: 4}
LOWEST = torch.finfo(torch.float16).min


@dataclass(frozen=True)
class CompactCandidates:
    """What `pack` made of T tokens with K candidates each. `high` has `num_high_bits` of each id, none where that is 0."""

    low: Int[Tensor, "T K"]  # uint16
    high: UInt8[Tensor, "T H"]
    logprobs: Float[Tensor, "T K"]  # float16, nats
    tail: Float[Tensor, "T"]  # float32, nats: log of the mass outside the K candidates
    num_high_bits: int


def high_bits(largest_id: int) -> int:
    """Return how many bits above the low 16 ids up to this one need: 0, 2 or 4. Raises ValueError beyond 20 bits."""
    for limit, num_bits in HIGH_BITS.items():
        if largest_id < limit:
            return num_bits
    raise ValueError(f"token id {largest_id} is too large to record; accepted: below {1 << 20}")


def bytes_per_token(num_candidates: int, vocab_size: int) -> float:
    """Return what one token takes on disk, offsets aside, when the largest ids occur."""
    num_high_bits = high_bits(vocab_size - 1)
    high = -(-num_candidates * num_high_bits // 8)
    return 2 * num_candidates + high + 2 * num_candidates + 4


def pack(ids: Int[Tensor, "T K"], logprobs: Float[Tensor, "T K"], num_high_bits: int) -> CompactCandidates:
    """Pack candidates. Ids come back exactly, log-probabilities as `unpack` says.

    tail = log(1 - sum_k p_k), at least -16.1 nats: float32 log-probabilities cannot say less.
    """
    ids = ids.long()
    exact = logprobs.double()
    mass = exact.logsumexp(dim=-1).clamp(max=-1e-7)
    tail = torch.log(-torch.expm1(mass)).float()
    # a forbidden token's -inf would make 0 * inf of its share of a KL
    halves = logprobs.clamp(min=LOWEST).half()
    low = (ids & 0xFFFF).to(torch.uint16)
    return CompactCandidates(low, _pack_bits(ids >> LOW_BITS, num_high_bits), halves, tail, num_high_bits)


def unpack(packed: CompactCandidates) -> tuple[Int[Tensor, "T K"], Float[Tensor, "T K"]]:
    """Return (ids int32, log-probabilities float32 in nats), the candidates and the recorded tail summing to 1.

    Half precision alone errs by at most 2^-11 |log p|. Each token's candidates are then shifted by one constant, so that the mass
    outside them is the recorded one and not rounding's; the constant is at most 2^-11 times the candidates' mean |log p|, which
    entropy bounds: together below 2^-11 (|log p| + log K) + 2e-6 nats for K candidates that hold all mass. Since the sum of
    p_k error_k is then zero, a KL to a student q errs by sum_k p_k (log p_k - log q_k) error_k to first order: a small share
    of itself, and nothing where student and teacher agree.
    """
    ids = packed.low.int()
    if packed.num_high_bits:
        ids = ids | (_unpack_bits(packed.high, packed.num_high_bits, ids.shape[1]) << LOW_BITS)
    rough = packed.logprobs.double()
    inside = torch.log1p(-packed.tail.double().exp())
    shift = inside - rough.logsumexp(dim=-1)
    return ids, (rough + shift[:, None]).float()


def _pack_bits(values: Int[Tensor, "T K"], num_bits: int) -> UInt8[Tensor, "T H"]:
    """Put values below 2^num_bits side by side into bytes, the first in the lowest bits."""
    if not num_bits:
        return values.new_empty(len(values), 0, dtype=torch.uint8)
    per_byte = 8 // num_bits
    padded = torch.nn.functional.pad(values, (0, -values.shape[1] % per_byte))
    groups = padded.reshape(len(values), -1, per_byte)
    shifts = torch.arange(per_byte, device=values.device) * num_bits
    return (groups << shifts).sum(dim=-1).to(torch.uint8)


def _unpack_bits(packed: UInt8[Tensor, "T H"], num_bits: int, num_values: int) -> Int[Tensor, "T K"]:
    shifts = torch.arange(8 // num_bits, device=packed.device, dtype=torch.int32) * num_bits
    values = (packed.int()[:, :, None] >> shifts) & ((1 << num_bits) - 1)
    return values.reshape(len(packed), -1)[:, :num_values]
