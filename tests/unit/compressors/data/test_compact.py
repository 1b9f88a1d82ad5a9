"""Compact candidates: ids exact, log-probabilities within the stated error, a KL computed from them as good as exact."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.data.compact import bytes_per_token, high_bits, pack, unpack
from attar.compressors.distill.losses.objectives import ForwardKL
from attar.compressors.distill.losses.views import Targets, log_remainder
from tests.builders import terms_of

NUM_CANDIDATES = 64


def candidates(vocab_size: int, num_tokens: int = 200, sharpness: float = 3.0) -> tuple[torch.Tensor, ...]:
    """Distributions as a model's are: most mass on few tokens. Returns (all log-probabilities, top ids, their log-probabilities)."""
    generator = torch.Generator().manual_seed(vocab_size)
    full = (sharpness * torch.randn(num_tokens, vocab_size, generator=generator)).log_softmax(dim=-1)
    logprobs, ids = full.topk(min(NUM_CANDIDATES, vocab_size), dim=-1)
    return full, ids, logprobs


@pytest.mark.parametrize("vocab_size", [259, 49_152, 65_536, 65_537, 200_000, 262_144, 1_000_000])
def test_ids_come_back_exactly_to_the_last(vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocab_size, (50, 7), generator=generator)
    ids[0] = vocab_size - 1
    ids[1] = torch.tensor([0, 1, min(65_535, vocab_size - 1), vocab_size - 1, 2, vocab_size - 2, 0])
    unpacked, _ = unpack(pack(ids, torch.full((50, 7), -3.0), high_bits(vocab_size - 1)))
    assert unpacked.dtype == torch.int32 and torch.equal(unpacked.long(), ids)


def test_an_id_beyond_twenty_bits_is_refused_by_number() -> None:
    with pytest.raises(ValueError, match="token id 1048576 is too large"):
        high_bits(1 << 20)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0, 8.0])
def test_logprobs_err_by_at_most_what_the_docstring_says(sharpness: float) -> None:
    _, ids, logprobs = candidates(5_000, sharpness=sharpness)
    _, unpacked = unpack(pack(ids, logprobs, 0))
    bound = 2**-11 * (logprobs.abs() + torch.tensor(float(NUM_CANDIDATES)).log()) + 2e-6
    # a tail of nearly everything makes the shift as large as the candidates' own mean
    mean = (logprobs.softmax(dim=-1) * logprobs.abs()).sum(dim=-1, keepdim=True)
    bound = torch.maximum(bound, 2**-11 * (logprobs.abs() + mean) + 2e-6)
    assert ((unpacked - logprobs).abs() <= bound).all()
    assert (unpacked - logprobs).abs().max() > 0, "half precision does round"


@pytest.mark.parametrize("sharpness", [1.0, 3.0, 8.0])
def test_the_mass_outside_the_candidates_is_the_recorded_one(sharpness: float) -> None:
    """Without the shift, rounding alone would decide a small tail."""
    _, ids, logprobs = candidates(5_000, sharpness=sharpness)
    packed = pack(ids, logprobs, 0)
    outside = 1 - logprobs.double().exp().sum(dim=-1)
    torch.testing.assert_close(packed.tail.double().exp(), outside.clamp(min=1e-7), atol=3e-7, rtol=0)
    _, unpacked = unpack(packed)
    torch.testing.assert_close(log_remainder(unpacked).exp(), log_remainder(logprobs).exp(), atol=6e-7, rtol=0)
    unshifted = (packed.logprobs.double().exp().sum(dim=-1) - 1 + outside).abs().max()
    assert unshifted > 5e-6


@pytest.mark.parametrize(("sharpness", "vocab_size"), [(1.0, 49_152), (3.0, 49_152), (3.0, 200_000), (6.0, 49_152)])
def test_kl_from_the_compact_form_is_the_exact_one(sharpness: float, vocab_size: int) -> None:
    """Errs by at most 5e-4 nats a token and 2e-5 on average, at mean KLs of 0.01 to 0.33 nats; by nothing where both are equal."""
    full, ids, logprobs = candidates(vocab_size, num_tokens=64, sharpness=sharpness)
    noise = torch.randn(full.shape, generator=torch.Generator().manual_seed(1))
    student = (full + noise).log_softmax(dim=-1)
    unpacked_ids, unpacked = unpack(pack(ids, logprobs, high_bits(vocab_size - 1)))
    has_teacher = torch.ones(len(ids), dtype=torch.bool)

    def divergence(log_q: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
        targets = Targets(ids[:, 0], unpacked_ids.long(), log_p, has_teacher)
        return terms_of(ForwardKL(), log_q.double(), targets)[0]

    error = divergence(student, unpacked) - divergence(student, logprobs)
    assert divergence(student, logprobs).mean() > 1e-3
    assert error.abs().max() < 5e-4 and error.mean().abs() < 2e-5
    assert divergence(full, unpacked).abs().max() < 2e-6


def test_a_forbidden_token_stays_finite() -> None:
    logprobs = torch.tensor([[-0.1, -2.3521685, float("-inf")]])
    _, unpacked = unpack(pack(torch.tensor([[1, 2, 3]]), logprobs, 0))
    assert unpacked.isfinite().all() and unpacked[0, 2] < -60_000
    assert (unpacked.exp() * unpacked).isfinite().all()


def test_every_candidate_recorded_leaves_no_tail() -> None:
    full = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)
    logprobs, ids = full.topk(8, dim=-1)
    _, unpacked = unpack(pack(ids, logprobs, 0))
    torch.testing.assert_close(unpacked.exp().sum(dim=-1), torch.ones(20), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("vocab_size", "expected"), [(49_152, 260), (200_000, 276), (262_144, 276), (1_000_000, 292)])
def test_bytes_per_token(vocab_size: int, expected: int) -> None:
    assert bytes_per_token(NUM_CANDIDATES, vocab_size) == expected <= 300
    packed = pack(torch.full((10, NUM_CANDIDATES), vocab_size - 1), torch.zeros(10, 64), high_bits(vocab_size - 1))
    planes = (packed.low, packed.high, packed.logprobs, packed.tail)
    assert sum(plane.numel() * plane.element_size() for plane in planes) == 10 * expected
