"""Laws of a generator and its discriminator. Where each is moved and by what, what neither must learn by, and where the second rests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.diffusion.sampler import Counted, sampled
from attar.compressors.distill.losses.denoising.adversarial import Adversarial, Discriminator
from attar.compressors.distill.losses.denoising.scores import LOWEST
from attar.compressors.distill.losses.denoising.views import DISCRIMINATOR, NOISED_DISCRIMINATOR
from tests.unit.compressors.distill.losses.denoising.exact_denoisers import PIXEL, generator_views, process

# a whole number of draws is enough for a mean within 0.02
NUM_DRAWS = 20_000


def normal(mean: float, seed: int) -> Tensor:
    return mean + torch.randn(NUM_DRAWS, *PIXEL, generator=torch.Generator().manual_seed(seed))


def log_ratio(of: NoiseProcess, factor: Tensor, *, is_noised: bool) -> Any:
    """Return `factor` times log N(1, 1) / N(0, 1), of images as they are or noised: alpha x - alpha^2 / 2."""

    def tell(states: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        alpha = of.alpha[times][:, None, None, None] if is_noised else torch.tensor(1.0)
        return factor * (alpha * states - alpha**2 / 2)

    return tell


@pytest.mark.parametrize("is_noised", [False, True])
def test_images_move_to_where_the_discriminator_takes_them_for_real(is_noised: bool) -> None:
    of, images = process(), torch.zeros(64, *PIXEL, requires_grad=True)
    given_times: list[Tensor] = []

    def tell(states: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        given_times.append(times)
        return 3.0 * states

    values = Adversarial(is_noised=is_noised).terms(generator_views(of, images, discriminator=tell)).values
    (slope,) = torch.autograd.grad(values.sum(), images)
    assert bool((slope < 0).all()), "down the gradient, where the logit rises"
    if is_noised:
        assert len(given_times[0].unique()) > 30 and int(given_times[0].min()) >= LOWEST * of.num_timesteps - 1
    else:
        torch.testing.assert_close(values, torch.full((64,), 2.0).log())
        torch.testing.assert_close(slope, torch.full_like(slope, -1.5)), "-3 sigmoid(0)"
        assert not given_times[0].any(), "an image itself is told as the first timestep"


@pytest.mark.parametrize("is_noised", [False, True])
def test_neither_net_learns_by_the_other_s_loss(is_noised: bool) -> None:
    of, images = process(), torch.randn(16, *PIXEL, requires_grad=True)
    weight = torch.tensor(0.7, requires_grad=True)
    views = generator_views(of, images, discriminator=lambda states, *_: weight * states, real=torch.randn(16, *PIXEL))
    for objective, moves in ((Adversarial(is_noised=is_noised), 0), (Discriminator(is_noised=is_noised), 1)):
        slopes = torch.autograd.grad(objective.terms(views).values.sum(), [images, weight], allow_unused=True)
        assert slopes[moves] is not None and bool(slopes[moves].any())
        assert slopes[1 - moves] is None


@pytest.mark.parametrize("is_noised", [False, True])
def test_a_discriminator_rests_at_the_logarithm_of_the_density_ratio(is_noised: bool) -> None:
    """Real images over made ones: under the wrong sign, or with both sets exchanged, it would rest at the negative."""
    of, objective, slopes = process(), Discriminator(gradient_penalty=0.0, is_noised=is_noised), []
    for start in (1.0, 0.5, -1.0):
        factor = torch.tensor(start, requires_grad=True)
        tell = log_ratio(of, factor, is_noised=is_noised)
        views = generator_views(of, normal(0.0, 1), discriminator=tell, real=normal(1.0, 2))
        (slope,) = torch.autograd.grad(objective.terms(views).values.mean(), factor)
        slopes.append(float(slope))
    assert abs(slopes[0]) < 0.02, slopes
    assert slopes[2] < slopes[1] < -0.03, slopes


def test_the_penalty_is_the_squared_slope_at_real_images_alone() -> None:
    of, weight = process(), torch.tensor(0.8, requires_grad=True)
    views = generator_views(of, torch.zeros(8, *PIXEL), discriminator=lambda states, *_: weight * states)
    plain, penalized = (Discriminator(gradient_penalty=penalty).terms(views).values.mean() for penalty in (0.0, 5.0))
    difference = penalized - plain
    assert float(difference.detach()) == pytest.approx(0.5 * 5.0 * 0.8**2)
    (slope,) = torch.autograd.grad(difference, weight)
    assert float(slope) == pytest.approx(5.0 * 0.8), "it has a gradient of its own: a second derivative"

    def only_made(states: Tensor, *_: Tensor) -> Tensor:
        return torch.where(states == 0.0, 0.0, weight * states)

    views = generator_views(of, torch.ones(8, *PIXEL), discriminator=only_made)
    plain, penalized = (
        float(Discriminator(gradient_penalty=penalty).terms(views).values.detach().mean()) for penalty in (0.0, 5.0)
    )
    assert penalized == plain, "no slope at real images, which are 0 here: none is counted at the made ones"
    with pytest.raises(ValueError, match=r"gradient_penalty is -1.0; accepted: 0 or more"):
        Discriminator(gradient_penalty=-1.0)


def test_what_is_trained_is_what_a_sampler_of_one_forward_draws() -> None:
    """The images that the discriminator is shown are those of a sampler with one step, one forward each."""
    of, shown = process(), []

    def net(states: Tensor, *_: Tensor) -> Tensor:
        return -0.5 * states.tanh()

    def tell(states: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        shown.append(states.detach())
        return states

    views = generator_views(of, torch.zeros(16, *PIXEL), discriminator=tell)
    student, read = Counted(net), views.batch
    output = student(read.states, read.times, read.shown)
    Adversarial().terms(generator_views(of, -output, discriminator=tell))
    assert student.num_forwards == 1
    drawn = sampled(student, of, read.states, read.shown, 1)
    assert student.num_forwards == 2
    torch.testing.assert_close(shown[0], drawn, atol=1e-6, rtol=0)


def test_what_is_shown_noised_is_another_net_s_need() -> None:
    """A loss that reads a discriminator of images cannot be paired with one of noised images."""
    assert Adversarial().requires.projections == Discriminator().requires.projections == (DISCRIMINATOR,)
    assert Discriminator(is_noised=True).requires.projections == (NOISED_DISCRIMINATOR,)
