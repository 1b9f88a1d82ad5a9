"""Laws of a denoiser's process and losses. What is exact for Gaussians and for a single image, where gradients go, and where they must not."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.diffusion.net import guided
from attar.compressors.diffusion.process import CLEAN, PREDICTIONS
from attar.compressors.diffusion.sampler import Counted, sampled, unrolled
from attar.compressors.distill.examples.noised import HIDDEN, NoisedImage, NoisedStates
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.denoising.endpoints import EndpointDistance
from attar.compressors.distill.losses.denoising.noise import Denoising
from attar.compressors.distill.losses.denoising.scores import FakeScore, ScoreDistillation
from attar.compressors.distill.losses.denoising.segments import SegmentConsistency
from attar.compressors.distill.losses.denoising.views import DenoisingViews
from attar.compressors.distill.losses.weights.coefficients import Staircase
from tests.unit.compressors.distill.losses.denoising.exact_denoisers import (
    NUM_TIMESTEPS,
    PIXEL,
    batch,
    gaussian,
    generator_views,
    process,
)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_right_prediction_gives_back_the_image_and_moves_along_its_line(prediction: str) -> None:
    of, images = process(prediction), torch.randn(6, 2, 3, 3)
    noise, times = torch.randn_like(images), torch.tensor([0, 40, 90, 120, 150, 199])
    states = of.noised(images, times, noise)
    right = of.target(images, times, noise)
    torch.testing.assert_close(of.clean(states, times, right), images, atol=2e-4, rtol=1e-4)
    later = torch.tensor([CLEAN, 10, 50, CLEAN, 149, 120])
    torch.testing.assert_close(
        of.moved(states, times, right, later), of.noised(images, later, noise), atol=2e-4, rtol=1e-4
    )
    torch.testing.assert_close(of.moved(states, times, right, times), states, atol=2e-4, rtol=1e-4)


def test_a_sampler_meets_its_own_steps_and_counts_its_forwards() -> None:
    of = process()
    for spacing in ("trailing", "leading"):
        steps = process(spacing=spacing).steps(8)
        assert [time for time, _ in steps[1:]] == [later for _, later in steps[:-1]]
        assert len(steps) == 8 and steps[-1][1] == CLEAN
    assert of.steps(8)[0][0] == NUM_TIMESTEPS - 1, "trailing begins with noise alone"
    with pytest.raises(
        ValueError, match=r"num_steps is 7, which does not divide the 200 timesteps.*accepted: 1, 2, 4, 5, 8"
    ):
        of.steps(7)
    counted = Counted(gaussian(of, 0.2, 0.3))
    noise, classes = torch.randn(5, *PIXEL), torch.zeros(5, dtype=torch.long)
    sampled(counted, of, noise, classes, 20)
    assert counted.num_forwards == 20
    sampled(guided(counted, 2.0, 1), of, noise, classes, 20)
    assert counted.num_forwards == 60, "guidance asks twice a step"


def test_many_exact_steps_draw_the_data_s_gaussian() -> None:
    of, noise = process(), torch.randn(20_000, *PIXEL, generator=torch.Generator().manual_seed(0))
    made = unrolled(gaussian(of, 0.5, 0.2), of, noise, torch.zeros(len(noise), dtype=torch.long), 100)
    assert float(made.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(made.std()) == pytest.approx(0.2, abs=0.01)


def test_a_state_cut_to_its_range_is_moved_by_what_is_left() -> None:
    of = process(clip=1.0)
    states, times = torch.full((1, *PIXEL), 4.0), torch.tensor([100])
    predicted = of.target(torch.full((1, *PIXEL), 3.0), times, torch.ones(1, *PIXEL))
    moved = of.moved(
        of.noised(torch.full((1, *PIXEL), 3.0), times, torch.ones(1, *PIXEL)), times, predicted, torch.tensor([CLEAN])
    )
    assert float(moved) == 1.0 and states.shape == moved.shape


def test_denoising_is_the_squared_error_to_what_the_scheduler_says() -> None:
    of, images = process(), torch.randn(4, 1, 2, 2)
    objective = Denoising(drop_fraction=0.5)
    read = batch(objective.start, of, images)
    output = torch.randn(4, 1, 2, 2, requires_grad=True)
    terms = objective.terms(DenoisingViews(output, read, of, 9))
    target = of.target(images, read.times, read.noises[:, 0])
    torch.testing.assert_close(terms.values, (output - target).square().mean(dim=(1, 2, 3)))
    (gradient,) = torch.autograd.grad(terms.values.sum(), output)
    torch.testing.assert_close(gradient, 2 * (output - target).detach() / 4)
    states = NoisedStates(of, objective.start, any_class=9, seed=0)
    given = [NoisedImage(image, 3) for image in torch.randn(400, 1, 2, 2)]
    shown = [example.shown for example in states.examples(None, given, Clock(5, 10, 0, 1))]
    assert {*shown} == {3, 9} and 150 < shown.count(9) < 250, "about half of the classes are hidden"
    assert int((read.shown == HIDDEN).sum() + (read.shown == 0).sum()) == 4


def test_a_step_s_states_are_drawn_by_its_number_alone() -> None:
    of = process()
    states = NoisedStates(of, Denoising().start, any_class=1, seed=3)
    given = [NoisedImage(image, 0) for image in torch.randn(3, 1, 2, 2)]
    first, again, next_step = (states.examples(None, given, Clock(step, 10, 0, 1)) for step in (4, 4, 5))
    for state, same in zip(first, again, strict=True):
        assert torch.equal(state.state, same.state) and state.time == same.time  # type: ignore[arg-type]
    assert not torch.equal(first[0].state, next_step[0].state)  # type: ignore[arg-type]


def test_segments_end_where_their_sampler_s_steps_do() -> None:
    of = process()
    times = torch.tensor([time for time, _ in of.steps(40)])
    for num_segments in (8, 4, 2, 1):
        _, ends = SegmentConsistency(num_segments=num_segments).bounds(of, times)
        assert sorted({*ends.tolist()}) == sorted(later for _, later in of.steps(num_segments))
        assert bool((ends < times).all())
    with pytest.raises(ValueError, match="num_segments is 7, which does not part 40 points"):
        SegmentConsistency(num_segments=7)
    stairs = Staircase(parameter="num_segments", values=(8, 4, 2, 1))
    counts = [stairs.at(SegmentConsistency(), 1.0, Clock(step, 8, 0, 1))[0].num_segments for step in range(8)]
    assert counts == [8, 8, 4, 4, 2, 2, 1, 1]


@pytest.mark.parametrize("num_segments", [8, 1])
def test_consistency_is_zero_for_a_path_that_is_known_and_pulls_toward_it_else(num_segments: int) -> None:
    """Of a single image every path is a line, and the right prediction takes a state to its end at once."""
    of = process()
    right, objective = gaussian(of, 0.4, 0.0), SegmentConsistency(num_segments=num_segments)
    read = batch(objective.start, of, torch.full((64, *PIXEL), 0.4))
    exact = right(read.states, read.times, read.shown)
    views = DenoisingViews(exact, read, of, 1, teacher=right, past=right)
    assert float(objective.terms(views).values.max()) < 1e-6
    output = (exact + 0.1).requires_grad_(True)
    values = objective.terms(DenoisingViews(output, read, of, 1, teacher=right, past=right)).values
    (gradient,) = torch.autograd.grad(values.sum(), output)
    assert bool((gradient > 0).all()), "down the gradient is toward the target"
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.2), atol=2e-2, rtol=0)


def test_consistency_s_target_has_no_gradient() -> None:
    of, objective = process(), SegmentConsistency(num_segments=1)
    read = batch(objective.start, of, torch.randn(16, *PIXEL))
    weight = torch.tensor(0.3, requires_grad=True)
    # the same weights stand behind the target: a gradient through it would pull both ends together
    gradients = []
    for past in (lambda states, *_: weight * states, lambda states, *_: 0.3 * states):
        views = DenoisingViews(weight * read.states, read, of, 1, teacher=gaussian(of, 0.0, 1.0), past=past)
        gradients += torch.autograd.grad(objective.terms(views).values.sum(), weight)
    torch.testing.assert_close(*gradients)


def test_score_distillation_rests_where_both_nets_agree() -> None:
    of, images = process(), torch.randn(32, *PIXEL, requires_grad=True)
    same = gaussian(of, 0.3, 0.5)
    terms = ScoreDistillation().terms(generator_views(of, images, same, same))
    (gradient,) = torch.autograd.grad(terms.values.sum(), images)
    assert float(gradient.abs().max()) == 0.0


def test_score_distillation_moves_images_toward_the_teacher_and_through_no_net() -> None:
    of, images = process(), (0.1 * torch.randn(256, *PIXEL)).requires_grad_(True)
    weight = torch.tensor(1.0, requires_grad=True)
    teacher, critic = gaussian(of, 2.0 * weight, 0.3), gaussian(of, 0.0 * weight, 0.3)
    terms = ScoreDistillation().terms(generator_views(of, images, teacher, critic))
    own, through = torch.autograd.grad(terms.values.sum(), [images, weight], allow_unused=True)
    assert through is None, "neither net learns by it"
    assert bool((own < 0).all()), "down the gradient is toward the teacher's mean of 2"


def test_score_distillation_brings_a_generator_to_the_teacher_s_gaussian() -> None:
    of = process()
    mean, deviation = torch.tensor(-1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    optimizer = torch.optim.Adam([mean, deviation], lr=0.03)
    for step in range(300):
        read = batch(ScoreDistillation().start, of, torch.zeros(256, *PIXEL), seed=step)
        images = mean + deviation * read.states
        critic = gaussian(of, mean.detach(), deviation.detach())
        views = DenoisingViews(-images, read, of, 1, teacher=gaussian(of, 0.5, 0.25), critic=critic)
        optimizer.zero_grad()
        ScoreDistillation().terms(views).values.mean().backward()
        optimizer.step()
    assert float(mean.detach()) == pytest.approx(0.5, abs=0.1)
    assert abs(float(deviation.detach())) == pytest.approx(0.25, abs=0.1)


def test_an_endpoint_is_where_the_teacher_s_path_goes_from_the_same_noise() -> None:
    of, weight = process(), torch.tensor(0.4, requires_grad=True)
    read = batch(EndpointDistance().start, of, torch.zeros(32, *PIXEL))
    teacher, objective = gaussian(of, weight, 0.2), EndpointDistance(num_steps=20)
    ends = unrolled(gaussian(of, 0.4, 0.2), of, read.states, read.shown, 20)
    assert float(objective.terms(DenoisingViews(-ends, read, of, 1, teacher=teacher)).values.detach().max()) < 1e-8
    images = (ends + 0.1).requires_grad_(True)
    values = objective.terms(DenoisingViews(-images, read, of, 1, teacher=teacher)).values
    own, through = torch.autograd.grad(values.sum(), [images, weight], allow_unused=True)
    assert through is None, "the teacher does not learn by it"
    torch.testing.assert_close(own, torch.full_like(own, 0.2), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="num_steps is 1; accepted: 2 or more"):
        EndpointDistance(num_steps=1)


def test_the_second_net_learns_the_student_s_images_and_not_the_student() -> None:
    of, images = process(), torch.full((64, *PIXEL), 0.7, requires_grad=True)
    weight = torch.tensor(0.0, requires_grad=True)
    right = gaussian(of, 0.7, 0.0)
    views = generator_views(of, images, None, lambda *at: right(*at) + weight)
    values = FakeScore().terms(views).values
    own, critic = torch.autograd.grad(values.sum(), [images, weight], allow_unused=True)
    assert own is None and float(values.detach().max()) < 1e-6
    assert float(critic) == pytest.approx(0.0, abs=1e-3)
    views = generator_views(of, images, None, lambda *at: right(*at) + 0.5 + 0.0 * weight)
    assert float(FakeScore().terms(views).values.mean()) == pytest.approx(0.25, abs=1e-3)


def test_a_loss_says_who_is_missing() -> None:
    of = process()
    views = generator_views(of, torch.zeros(2, *PIXEL), None, None)
    with pytest.raises(ValueError, match="the objective reads 'teacher', but nothing stands behind it"):
        ScoreDistillation().terms(views)
