"""Laws of the family of divergences. Each gradient is the divergence's own, and vanishes or lands where the two Gaussians are one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.distill.losses.denoising.divergences import RATIO_WEIGHTS, DivergenceDistillation
from attar.compressors.distill.losses.denoising.scores import ScoreDistillation
from tests.unit.compressors.distill.losses.denoising.exact_denoisers import PIXEL, gaussian, generator_views, process

NAMES = sorted(RATIO_WEIGHTS)
# f of D_f = E_student[f(r)], r = teacher / student
F: dict[str, Callable[[Tensor], Tensor]] = {
    "forward_kl": lambda r: r * r.log(),
    "reverse_kl": lambda r: -r.log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
    "jensen_shannon": lambda r: 0.5 * (r * r.log() - (r + 1) * ((r + 1) / 2).log()),
    "chi_squared": lambda r: (r - 1) ** 2,
}


def log_density(at: Tensor, mean: Tensor | float, deviation: Tensor | float) -> Tensor:
    deviation = torch.as_tensor(deviation, dtype=at.dtype)
    return -0.5 * ((at - mean) / deviation) ** 2 - deviation.log()


def discriminator(of: NoiseProcess, teacher: tuple[Any, Any], student: tuple[Any, Any]) -> Callable[..., Tensor]:
    """Return the exact log-ratio of two Gaussians, (mean, deviation) each, once both are noised."""

    def tell(states: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        alpha, sigma = of.alpha[times][:, None, None, None], of.sigma[times][:, None, None, None]
        noised = [(alpha * mean, (alpha**2 * deviation**2 + sigma**2).sqrt()) for mean, deviation in (teacher, student)]
        first, second = (log_density(states, *some) for some in noised)
        return first - second

    return tell


@pytest.mark.parametrize("name", NAMES)
def test_a_weighed_score_difference_is_the_divergence_s_own_gradient(name: str) -> None:
    """By quadrature: E_student[f''(r) r^2 (score of student - score of teacher) dx/dtheta] = dD_f/dtheta, in mean and in spread."""
    at = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    width = float(at[1] - at[0]) / (2 * torch.pi) ** 0.5
    mean, deviation = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.4, 1.1))
    teacher, student = log_density(at, -0.1, 0.9), log_density(at, mean, deviation)
    # far out both densities are nothing, and their ratio is no number
    counts = student > -80
    divergence = (student.exp() * F[name]((teacher - student).exp()))[counts].sum() * width
    expected = torch.autograd.grad(divergence, [mean, deviation])
    ratio_weights = RATIO_WEIGHTS[name]((teacher - student).detach())
    scores = -(at - mean) / deviation**2 + (at + 0.1) / 0.9**2
    pull = (student.exp() * ratio_weights * scores)[counts].detach()
    moves = (torch.ones_like(at), (at - mean.detach()) / deviation.detach())
    for move, own in zip(moves, expected, strict=True):
        assert float((pull * move[counts]).sum() * width) == pytest.approx(float(own), abs=1e-6)
        assert abs(float(own)) > 1e-2, "the law is not about zeros"


@pytest.mark.parametrize("name", NAMES)
def test_a_student_rests_where_both_denoisers_agree_whatever_the_ratio(name: str) -> None:
    of, images = process(), torch.randn(32, *PIXEL, requires_grad=True)
    same = gaussian(of, 0.3, 0.5)
    views = generator_views(of, images, same, same, discriminator=lambda states, *_: 4.0 * states)
    (slope,) = torch.autograd.grad(DivergenceDistillation(divergence=name).terms(views).values.sum(), images)
    assert float(slope.abs().max()) == 0.0


def test_reverse_kl_is_score_distillation_and_a_share_of_none_weighs_all_alike() -> None:
    of, images = process(), torch.randn(32, *PIXEL)
    views = generator_views(of, images, gaussian(of, 1.0, 0.3), gaussian(of, 0.0, 1.0))
    plain = ScoreDistillation().terms(views).values
    torch.testing.assert_close(DivergenceDistillation(divergence="reverse_kl").terms(views).values, plain)
    judged = generator_views(
        of, images, gaussian(of, 1.0, 0.3), gaussian(of, 0.0, 1.0), discriminator=lambda states, *_: 9.0 * states
    )
    none = DivergenceDistillation(divergence="jeffreys", ratio_share=0.0).terms(judged).values
    torch.testing.assert_close(none, 2.0 * plain)
    whole = DivergenceDistillation(divergence="forward_kl", ratio_limit_nats=0.5).terms(judged).values / plain
    assert float(whole.max()) == pytest.approx(2.718281828**0.5) and float(whole.min()) == pytest.approx(
        2.718281828**-0.5
    ), "a ratio is cut on both sides"


@pytest.mark.parametrize("name", NAMES)
def test_images_move_toward_the_teacher_and_through_no_net(name: str) -> None:
    of, images = process(), (0.1 * torch.randn(64, *PIXEL)).requires_grad_(True)
    weight = torch.tensor(1.0, requires_grad=True)
    views = generator_views(
        of,
        images,
        gaussian(of, 2.0 * weight, 0.3),
        gaussian(of, 0.0 * weight, 0.3),
        discriminator=lambda states, *_: weight * states,
    )
    values = DivergenceDistillation(divergence=name).terms(views).values
    own, through = torch.autograd.grad(values.sum(), [images, weight], allow_unused=True)
    assert through is None, "no net learns by it, the discriminator neither"
    assert bool((own < 0).all()), "down the gradient is toward the teacher's mean of 2"


@pytest.mark.parametrize("name", NAMES)
def test_each_divergence_brings_a_generator_to_the_teacher_s_mean_and_spread(name: str) -> None:
    of, objective = process(), DivergenceDistillation(divergence=name)
    mean, deviation = torch.tensor(-1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    optimizer = torch.optim.Adam([mean, deviation], lr=0.03)
    for step in range(300):
        noise = generator_views(of, torch.zeros(256, *PIXEL), seed=step).batch.states
        now = mean.detach(), deviation.detach()
        views = generator_views(
            of,
            mean + deviation * noise,
            gaussian(of, 0.5, 0.25),
            gaussian(of, *now),
            seed=step,
            discriminator=discriminator(of, (0.5, 0.25), now),
        )
        optimizer.zero_grad()
        objective.terms(views).values.mean().backward()
        optimizer.step()
    assert float(mean.detach()) == pytest.approx(0.5, abs=0.1)
    assert abs(float(deviation.detach())) == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"divergence": "hellinger"}, "divergence is 'hellinger'; accepted: forward_kl, reverse_kl, jeffreys"),
        ({"ratio_limit_nats": 0.0}, "ratio_limit_nats is 0.0; accepted: above 0"),
        ({"ratio_share": 1.5}, "ratio_share is 1.5; accepted: from 0 to 1"),
    ],
)
def test_a_setting_that_it_has_not_is_refused(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        DivergenceDistillation(**given)
