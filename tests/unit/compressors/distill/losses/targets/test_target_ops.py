"""Targets: what they are by their formulas, that they are distributions, and that they have no gradient."""

from __future__ import annotations

import itertools

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.distill.losses.targets.target_heat import entropy_of
from attar.compressors.distill.losses.targets.target_ops import (
    TARGETS,
    EntropyTemper,
    GeometricMix,
    Identity,
    KLBall,
    Mix,
    Temper,
)
from attar.compressors.distill.losses.views import Views

NUM_TOKENS, VOCAB = 7, 6
PARAMS = {
    "mix": {"share": 0.3},
    "geometric_mix": {"share": 0.3},
    "temper": {"temperature": 2.0},
    "kl_ball": {"budget_nats": 0.2},
}


def logprobs(seed: int, scale: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(NUM_TOKENS, VOCAB, generator=generator, dtype=torch.float64)).log_softmax(-1)


def views() -> Views:
    return Views(logprobs(0), torch.arange(NUM_TOKENS) % VOCAB, logprobs(1), logprobs(2), logprobs(3))


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum(-1)


@pytest.mark.parametrize("name", TARGETS)
def test_target_is_a_distribution_without_gradient(name: str) -> None:
    views_given = [logprobs(seed).requires_grad_() for seed in range(4)]
    target = build(TARGETS, name, PARAMS.get(name))(
        Views(views_given[0], torch.zeros(NUM_TOKENS, dtype=torch.long), *views_given[1:])
    )
    torch.testing.assert_close(target.exp().sum(-1), torch.ones(NUM_TOKENS, dtype=torch.float64), atol=1e-12, rtol=0)
    assert not target.requires_grad


def test_mix_is_the_arithmetic_mean_and_its_ends_are_the_sources() -> None:
    given = views()
    labels = torch.nn.functional.one_hot(given.next_outcomes, VOCAB).double()
    mixed = Mix(share=0.3)(given).exp()
    torch.testing.assert_close(mixed, 0.3 * labels + 0.7 * logprobs(1).exp(), atol=1e-12, rtol=0)
    torch.testing.assert_close(Mix(share=0.0)(given), logprobs(1))
    torch.testing.assert_close(Mix(share=1.0)(given).exp(), labels)
    other = Mix(share=0.4, first="anchor", second="past")(given).exp()
    torch.testing.assert_close(other, 0.4 * logprobs(3).exp() + 0.6 * logprobs(2).exp(), atol=1e-12, rtol=0)


def test_mix_toward_a_base_contracts_geometrically_and_a_mix_toward_the_previous_does_not() -> None:
    """KL(P0 || P_g) <= (1 - gamma)^g KL(P0 || P_init) when each generation fits its target exactly (joint convexity)."""
    base, previous, gamma = logprobs(3), logprobs(2), 0.3
    start = kl(base, previous)
    for generation in range(1, 6):
        views_now = Views(previous, torch.zeros(NUM_TOKENS, dtype=torch.long), past=previous, anchor=base)
        previous = Mix(share=gamma, first="anchor", second="past")(views_now)
        assert (kl(base, previous) <= (1 - gamma) ** generation * start + 1e-12).all()
    anchored_on_itself = logprobs(2)
    for _ in range(5):
        views_now = Views(
            anchored_on_itself, torch.zeros(NUM_TOKENS, dtype=torch.long), past=anchored_on_itself, anchor=base
        )
        anchored_on_itself = Mix(share=gamma, first="past", second="past")(views_now)
    assert (kl(base, anchored_on_itself) > (1 - gamma) ** 5 * start).all()


def test_geometric_mix_shrinks_the_log_ratio_by_its_share() -> None:
    base, previous = logprobs(3), logprobs(2)
    views_now = Views(previous, torch.zeros(NUM_TOKENS, dtype=torch.long), past=previous, anchor=base)
    mixed = GeometricMix(share=0.3, first="anchor", second="past")(views_now)
    before, after = previous - base, mixed - base
    centered = [logprobs - logprobs.mean(-1, keepdim=True) for logprobs in (before, after)]
    torch.testing.assert_close(centered[1], 0.7 * centered[0], atol=1e-12, rtol=0)


def test_temper_sharpens_below_one_and_is_nothing_at_one() -> None:
    given = views()
    torch.testing.assert_close(Temper(temperature=1.0)(given), logprobs(1))
    entropies = [entropy_of(Temper(temperature=heat)(given)) for heat in (0.5, 1.0, 2.0, 4.0)]
    assert all((low < high).all() for low, high in itertools.pairwise(entropies))
    assert (Temper(temperature=3.0)(given).argsort(-1) == logprobs(1).argsort(-1)).all()


def test_entropy_temper_reaches_its_entropy_and_leaves_sure_tokens_cool() -> None:
    sure = torch.full((1, VOCAB), -20.0, dtype=torch.float64)
    sure[0, 2] = 0.0
    logits = torch.cat([logprobs(2, scale=1.0), sure.log_softmax(-1)])
    op = EntropyTemper(lowest=1.0, highest=4.0)
    heat = op.temperatures(logits)
    assert heat[-1] == 1.0, "a nearly certain token keeps the lowest temperature"
    entropy, hot = entropy_of(logits), entropy_of((logits / heat[:, None]).log_softmax(-1))
    wanted = entropy + 0.5 * torch.sigmoid(2 * (entropy - 1.2))
    is_inside = (heat < 3.99)[:-1]
    torch.testing.assert_close(hot[:-1][is_inside], wanted[:-1][is_inside], atol=1e-4, rtol=0)
    assert is_inside.any()
    # without that rule it would get the highest
    assert EntropyTemper(sure_nats=0.0).temperatures(logits)[-1] > 1.49


def test_ball_holds_its_budget_and_is_the_nearest_point() -> None:
    given = views()
    center, toward = logprobs(3), logprobs(1)
    for budget in (0.05, 0.3):
        point = KLBall(budget_nats=budget)(given)
        spent = kl(point, center)
        assert (spent <= budget + 1e-9).all()
        is_tight = kl(toward, center) > budget
        torch.testing.assert_close(spent[is_tight], torch.full_like(spent[is_tight], budget), atol=1e-6, rtol=0)
        # no other point of the ball that random search finds is nearer
        for seed in range(300):
            other = torch.lerp(point, logprobs(seed, scale=3.0), 0.05).log_softmax(-1)
            is_in = kl(other, center) <= spent
            assert (kl(other, toward)[is_in] >= kl(point, toward)[is_in] - 1e-7).all()
    torch.testing.assert_close(KLBall(budget_nats=0.0)(given), center, atol=1e-6, rtol=0)
    torch.testing.assert_close(KLBall(budget_nats=50.0)(given), toward)


def test_missing_sources_and_wrong_parameters_are_refused() -> None:
    empty = Views(logprobs(0), torch.zeros(NUM_TOKENS, dtype=torch.long))
    with pytest.raises(ValueError, match="reads 'past', but nothing stands behind it"):
        Identity(of="past")(empty)
    with pytest.raises(ValueError, match="share is 1.2; accepted: from 0 to 1"):
        Mix(share=1.2)
    with pytest.raises(ValueError, match="is the labels, whatever its share"):
        GeometricMix(share=0.5, first="labels")
    with pytest.raises(ValueError, match="no teacher source 'student'"):
        Identity(of="student")  # type: ignore[arg-type]


@pytest.mark.parametrize("first", ["teacher", "past", "anchor"])
@pytest.mark.parametrize("name", ["mix", "geometric_mix"])
def test_neither_source_of_a_mix_gets_a_gradient(name: str, first: str) -> None:
    by_source = {
        source: logprobs(seed).requires_grad_() for seed, source in enumerate(("teacher", "past", "anchor"), start=1)
    }
    second = "past" if first == "teacher" else "teacher"
    for share in (0.0, 0.4, 1.0):
        target = build(TARGETS, name, {"share": share, "first": first, "second": second})
        made = target(Views(logprobs(0).requires_grad_(), torch.arange(NUM_TOKENS) % VOCAB, **by_source))
        assert not made.requires_grad
