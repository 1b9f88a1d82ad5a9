"""Every loss per token against float64 numpy, the laws of a divergence, limits, directions, and what gets no gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.distill.losses.divergences.catalogue import DIVERGENCES
from attar.compressors.distill.losses.divergences.f_family import AlphaDivergence
from attar.compressors.distill.losses.divergences.kullback import ForwardKL, ReverseKL
from attar.compressors.distill.losses.divergences.mixtures import JensenShannon, SkewKL
from attar.compressors.distill.losses.divergences.sampled import K2, K3, SampledToken
from attar.compressors.distill.losses.divergences.shapes import PlackettLuce
from attar.compressors.distill.losses.traits import Divergence, Drawn

NUM_TOKENS, VOCAB = 9, 6
Reference = Callable[[np.ndarray, np.ndarray], float]


def logprobs(seed: int, num_tokens: int = NUM_TOKENS, scale: float = 1.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(num_tokens, VOCAB, generator=generator, dtype=torch.float64)).log_softmax(-1)


def np_kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.sum(p * np.log(p / q)))


def np_jsd(p: np.ndarray, q: np.ndarray, beta: float) -> float:
    mixture = beta * p + (1 - beta) * q
    return beta * np_kl(p, mixture) + (1 - beta) * np_kl(q, mixture)


# name, parameters, what it is by its definition in the target p and the student q
CASES: list[tuple[str, dict, Reference]] = [
    ("forward_kl", {}, np_kl),
    ("reverse_kl", {}, lambda p, q: np_kl(q, p)),
    ("jeffreys", {}, lambda p, q: np_kl(p, q) + np_kl(q, p)),
    (
        "jeffreys",
        {"forward_weight": 0.5, "reverse_weight": 0.25},
        lambda p, q: 0.5 * np_kl(p, q) + 0.25 * np_kl(q, p),
    ),
    ("jensen_shannon", {}, lambda p, q: np_jsd(p, q, 0.5)),
    ("jensen_shannon", {"beta": 0.9}, lambda p, q: np_jsd(p, q, 0.9)),
    ("jensen_shannon", {"beta": 0.3, "is_normalized": True}, lambda p, q: np_jsd(p, q, 0.3) / 0.21),
    ("skew_kl", {}, lambda p, q: np_kl(p, 0.1 * p + 0.9 * q)),
    ("skew_kl", {"skew": 0.3, "direction": "reverse"}, lambda p, q: np_kl(q, 0.3 * q + 0.7 * p)),
    ("total_variation", {}, lambda p, q: 0.5 * float(np.abs(p - q).sum())),
    ("alpha", {"alpha": 0.5}, lambda p, q: 4 * (1 - float(np.sqrt(p * q).sum()))),
    ("alpha", {"alpha": 2.0}, lambda p, q: float((p**2 / q).sum() - 1) / 2),
    ("alpha", {"alpha": -1.0}, lambda p, q: float((q**2 / p).sum() - 1) / 2),
    ("alpha", {"alpha": 0.3}, lambda p, q: float((p**0.3 * q**0.7).sum() - 1) / (0.3 * -0.7)),
    ("chi_square", {}, lambda p, q: float(((p - q) ** 2 / q).sum())),
    ("chi_square", {"direction": "reverse"}, lambda p, q: float(((p - q) ** 2 / p).sum())),
    ("squared_error", {}, lambda p, q: float(((p - q) ** 2).sum())),
    ("cross_entropy", {}, lambda p, q: -float((p * np.log(q)).sum())),
    ("student_entropy", {}, lambda p, q: -float((q * np.log(q)).sum())),
]
EXPECTED = [
    ("k2", {}, lambda p, q: float((q * 0.5 * np.log(q / p) ** 2).sum())),
    ("k3", {}, lambda p, q: np_kl(q, p)),
    ("sampled_token", {}, lambda p, q: np_kl(q, p)),
]
# every row that calls itself a divergence, under its default parameters and others
DIVERGENCE_CASES = [
    (name, params)
    for name, params in [
        *((n, p) for n, p, _ in CASES),
        *((n, p) for n, p, _ in EXPECTED),
        ("jensen_shannon", {"beta": 0.0, "is_normalized": True}),
        ("jensen_shannon", {"beta": 1.0, "is_normalized": True}),
        ("alpha", {"alpha": 0.0}),
        ("alpha", {"alpha": 1.0}),
        ("k2", {"is_weighted": True}),
        ("k3", {"is_weighted": False}),
    ]
    if build(DIVERGENCES, name, params).traits.is_divergence
]


def expectation(divergence: Divergence, target: torch.Tensor, student: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Return the loss of each token: of a sampled one, averaged over all outcomes as the old policy draws them."""
    if not (divergence.traits.needs_student_draws or isinstance(divergence, K2)):
        return divergence(target, student, Drawn(torch.zeros(len(target), dtype=torch.long)))
    total = torch.zeros(len(target), dtype=target.dtype)
    for outcome in range(VOCAB):
        drawn = torch.full((len(target),), outcome)
        known = old.gather(-1, drawn[:, None]).squeeze(-1)
        total = total + old[:, outcome].exp() * divergence(target, student, Drawn(drawn, known))
    return total


def test_every_divergence_of_the_catalogue_is_tested_here() -> None:
    tested = {name for name, *_ in [*CASES, *EXPECTED]} | {"plackett_luce", "clipped_ratio", "teacher_ratio"}
    assert tested == set(DIVERGENCES)


@pytest.mark.parametrize(("name", "params", "reference"), [*CASES, *EXPECTED])
def test_value_is_its_definition_in_float64(name: str, params: dict, reference: Reference) -> None:
    target, student = logprobs(0), logprobs(1)
    values = expectation(build(DIVERGENCES, name, params), target, student, student)
    expected = [reference(p, q) for p, q in zip(target.exp().numpy(), student.exp().numpy(), strict=True)]
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize(("name", "params", "reference"), CASES)
def test_float32_is_near_float64(name: str, params: dict, reference: Reference) -> None:
    target, student = logprobs(2).float(), logprobs(3).float()
    values = expectation(build(DIVERGENCES, name, params), target, student, student)
    exact = zip(target.double().exp().numpy(), student.double().exp().numpy(), strict=True)
    # six outcomes in float32: sums of terms near one err by some 1e-7, divided by at most 0.21
    np.testing.assert_allclose(values.numpy(), [reference(p, q) for p, q in exact], atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "params"), DIVERGENCE_CASES)
def test_divergence_is_zero_between_equals_and_positive_between_others(name: str, params: dict) -> None:
    divergence = build(DIVERGENCES, name, params)
    for seed in range(5):
        target, student = logprobs(2 * seed), logprobs(2 * seed + 1)
        at_equality = expectation(divergence, target, target, target)
        torch.testing.assert_close(at_equality, torch.zeros_like(at_equality), atol=1e-12, rtol=0)
        assert (expectation(divergence, target, student, student) > 1e-3).all()
        near = (student + 1e-3 * logprobs(seed + 100)).log_softmax(-1)
        assert (expectation(divergence, near, student, student) > 0).all()


@pytest.mark.parametrize(("name", "params"), DIVERGENCE_CASES)
def test_gradient_vanishes_at_equality_and_descending_lowers_it(name: str, params: dict) -> None:
    divergence = build(DIVERGENCES, name, params)
    target = logprobs(0)
    logits = logprobs(1).requires_grad_()

    def value() -> torch.Tensor:
        student = logits.log_softmax(-1)
        return expectation(divergence, target, student, student.detach()).sum()

    before = value()
    (gradient,) = torch.autograd.grad(before, logits)
    with torch.no_grad():
        logits -= 0.02 * gradient
    if name not in ("k2", "k3", "sampled_token"):  # their gradient is the KL's, their value under a fixed policy is not
        assert value() < before
    if name == "total_variation":
        return  # its slope does not fade: at equality it has a corner
    at = target.clone().requires_grad_()
    student = at.log_softmax(-1)
    loss = expectation(divergence, target, student, student.detach()).sum()
    (gradient,) = torch.autograd.grad(loss, at)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "student_entropy"])
def test_student_gets_a_gradient_and_the_old_policy_none(name: str) -> None:
    divergence = build(DIVERGENCES, name)
    target, student = logprobs(0), logprobs(1).requires_grad_()
    old, advantages = logprobs(2)[:, 0].requires_grad_(), torch.ones(NUM_TOKENS, dtype=torch.float64)
    drawn = Drawn(torch.zeros(NUM_TOKENS, dtype=torch.long), old, advantages)
    divergence(target, student, drawn).sum().backward()
    assert student.grad is not None and student.grad.abs().sum() > 0 and old.grad is None


def test_jensen_shannon_over_beta_goes_to_the_kls_at_both_ends() -> None:
    target, student = logprobs(0), logprobs(1)
    drawn = Drawn(torch.zeros(NUM_TOKENS, dtype=torch.long))
    for beta in (1e-4, 1e-6):
        low = JensenShannon(beta=beta)(target, student, drawn) / beta
        high = JensenShannon(beta=1 - beta)(target, student, drawn) / beta
        # the first correction is of order beta times a chi-square
        torch.testing.assert_close(low, ForwardKL()(target, student, drawn), atol=400 * beta, rtol=0)
        torch.testing.assert_close(high, ReverseKL()(target, student, drawn), atol=400 * beta, rtol=0)
    # without the division it vanishes
    assert JensenShannon(beta=1e-5)(target, student, drawn).max() < 1e-4
    ends = {0.0: ForwardKL(), 1.0: ReverseKL()}
    for beta, limit in ends.items():
        inside = abs(beta - 1e-6)
        normalized = [JensenShannon(beta=b, is_normalized=True)(target, student, drawn) for b in (beta, inside)]
        torch.testing.assert_close(normalized[0], limit(target, student, drawn), atol=1e-12, rtol=0)
        torch.testing.assert_close(normalized[0], normalized[1], atol=1e-3, rtol=0)
        with pytest.raises(ValueError, match="is 0 between any two"):
            JensenShannon(beta=beta)


def test_alpha_family_is_continuous_at_the_kls() -> None:
    target, student = logprobs(0), logprobs(1)
    drawn = Drawn(torch.zeros(NUM_TOKENS, dtype=torch.long))
    for alpha in (0.0, 1.0):
        exact = AlphaDivergence(alpha=alpha)(target, student, drawn)
        for step in (-1e-6, 1e-6):
            torch.testing.assert_close(
                AlphaDivergence(alpha=alpha + step)(target, student, drawn), exact, atol=1e-4, rtol=0
            )


def test_bounded_ones_keep_their_bounds_where_the_other_gives_no_mass() -> None:
    apart = torch.tensor([[0.0, -60.0, -60.0]]).log_softmax(-1), torch.tensor([[-60.0, 0.0, -60.0]]).log_softmax(-1)
    drawn = Drawn(torch.zeros(1, dtype=torch.long))
    assert float(JensenShannon()(*apart, drawn)) == pytest.approx(np.log(2), abs=1e-5)
    assert float(SkewKL(skew=0.1)(*apart, drawn)) == pytest.approx(-np.log(0.1), abs=1e-5)
    assert float(build(DIVERGENCES, "total_variation")(*apart, drawn)) == pytest.approx(1.0, abs=1e-6)


def test_forward_kl_covers_and_reverse_kl_seeks_a_mode() -> None:
    """A student that is one bump on a line, of which only the place moves, before a target of two bumps."""
    line = torch.arange(41, dtype=torch.float64)
    target = torch.logaddexp(-0.5 * ((line - 10) / 2) ** 2, -0.5 * ((line - 30) / 2) ** 2 - 0.2).log_softmax(-1)[None]
    drawn = Drawn(torch.zeros(1, dtype=torch.long))

    def best(divergence: Divergence) -> float:
        positions = torch.arange(5.0, 35.5, 0.5, dtype=torch.float64)
        losses = [
            float(divergence(target, (-0.5 * ((line - position) / 4) ** 2).log_softmax(-1)[None], drawn))
            for position in positions
        ]
        return float(positions[int(np.argmin(losses))])

    assert 17 < best(ForwardKL()) < 21, "between the modes"
    assert 8 <= best(ReverseKL()) <= 12, "on the higher one"


@pytest.mark.parametrize("divergence", [K3(), K2(is_weighted=True), SampledToken()])
def test_weighted_estimates_have_the_gradient_of_reverse_kl_whoever_drew(divergence: Divergence) -> None:
    """By enumeration: autograd averaged under an old policy that is not the student's is the gradient of KL(S || T)."""
    target, old = logprobs(0), logprobs(5)
    actual, exact = averaged_gradient(divergence, target, old), kl_gradient(target, is_forward=False)
    torch.testing.assert_close(actual, exact, atol=1e-11, rtol=0)


class DetachedRatio(K3):
    """The wrong form that published code has: the ratio is cut off."""

    def __call__(self, target: torch.Tensor, student: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        assert drawn.old_logprobs is not None
        plain = K3(is_weighted=False)(target, student, drawn)
        return (drawn.of(student) - drawn.old_logprobs).exp().detach() * plain


@pytest.mark.parametrize("wrong", [K3(is_weighted=False), K2(), DetachedRatio()])
def test_wrong_forms_have_another_gradient(wrong: Divergence) -> None:
    gap = averaged_gradient(wrong, logprobs(0), logprobs(5)) - kl_gradient(logprobs(0), is_forward=False)
    assert gap.abs().max() > 0.05


def test_plain_k3_drawn_from_the_student_goes_the_other_direction() -> None:
    target, student = logprobs(0), logprobs(1)
    actual = averaged_gradient(K3(is_weighted=False), target, student)
    torch.testing.assert_close(actual, kl_gradient(target, is_forward=True), atol=1e-11, rtol=0)
    assert (actual - kl_gradient(target, is_forward=False)).abs().max() > 0.05


def averaged_gradient(divergence: Divergence, target: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    logits = logprobs(1).requires_grad_()
    loss = expectation(divergence, target, logits.log_softmax(-1), old).sum()
    return torch.autograd.grad(loss, logits)[0]


def kl_gradient(target: torch.Tensor, *, is_forward: bool) -> torch.Tensor:
    """The analytic gradient in the logits: q - p, or q (log q - log p - KL)."""
    student = logprobs(1)
    if is_forward:
        return student.exp() - target.exp()
    gap = student - target
    return student.exp() * (gap - (student.exp() * gap).sum(-1, keepdim=True))


def test_ranking_loss_prefers_the_teachers_order() -> None:
    target = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0, -1.0]]).log_softmax(-1)
    agree, disagree = target, target.flip(-1)
    drawn = Drawn(torch.zeros(1, dtype=torch.long))
    loss = PlackettLuce(num_ranked=6)
    assert loss(target, agree, drawn) < loss(target, disagree, drawn)
    # by its definition: the product of choices among those that are left
    z = [float(value) for value in agree[0]]
    by_hand = sum(np.log(np.sum(np.exp(z[j:]))) - z[j] for j in range(6))
    assert float(loss(target, agree, drawn)) == pytest.approx(by_hand, abs=1e-5)
    logits = disagree.clone().requires_grad_()
    before = kendall(target[0], logits[0].detach())
    for _ in range(200):
        (gradient,) = torch.autograd.grad(loss(target, logits.log_softmax(-1), drawn).sum(), logits)
        logits = (logits - 0.5 * gradient).detach().requires_grad_()
    assert kendall(target[0], logits[0].detach()) > before and kendall(target[0], logits[0].detach()) == 1.0


def kendall(first: torch.Tensor, second: torch.Tensor) -> float:
    pairs = list(itertools.combinations(range(len(first)), 2))
    return sum(float(torch.sign(first[i] - first[j]) * torch.sign(second[i] - second[j])) for i, j in pairs) / len(
        pairs
    )
