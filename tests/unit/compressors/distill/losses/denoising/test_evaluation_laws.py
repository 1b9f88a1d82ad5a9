"""Laws of a net that judges itself. Without reach it is learning from data; with it, the disagreement alone bends the target."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attar.compressors.diffusion.process import NoiseProcess
from attar.compressors.distill.examples.noised import HIDDEN
from attar.compressors.distill.losses.denoising.evaluation import SelfEvaluation, disagreement
from attar.compressors.distill.losses.denoising.noise import Denoising
from attar.compressors.distill.losses.denoising.views import DenoisingViews
from tests.unit.compressors.distill.losses.denoising.exact_denoisers import batch, gaussian, process

ANY = 1


def judge(of: NoiseProcess, mean: Any, shift: Any) -> Any:
    """Return a net whose images with a class lie by about `shift` off those without."""

    def predict(states: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        named, plain = (gaussian(of, value, 0.3)(states, times, classes) for value in (mean + shift, mean))
        return torch.where((classes == ANY)[:, None, None, None], plain, named)

    return predict


def views_of(objective: SelfEvaluation, output: Tensor | None = None, past: Any = None) -> DenoisingViews:
    """Return views on images of 3 x 3 numbers, some of them told no class. Without an output the data's own images are predicted."""
    of, images = process(), torch.rand(48, 1, 3, 3, generator=torch.Generator().manual_seed(3)) + 0.2
    read = batch(objective.start, of, images)
    shown = torch.where(read.shown == HIDDEN, ANY, read.shown)
    read = type(read)(read.images, read.states, read.times, shown, read.noises, read.uniform, ())
    if output is None:
        output = of.target(images, read.times, read.noises[:, 0])
    return DenoisingViews(output, read, of, ANY, past=past or judge(of, 0.2, 0.4))


def test_without_reach_it_is_learning_from_data() -> None:
    objective, output = SelfEvaluation(reach=0.0), torch.randn(48, 1, 3, 3)
    views = views_of(objective, output)
    assert torch.equal(objective.earlier(views.batch), views.batch.times), "s = t: lambda is 0"
    expected = Denoising(objective.drop_fraction).terms(views).values
    torch.testing.assert_close(objective.terms(views).values, expected, atol=1e-4, rtol=1e-3)
    far = SelfEvaluation(reach=1.0).terms(views).values
    assert float((far - expected).abs().max()) > 0.1, "with it, it is not"


def test_half_of_the_draws_and_all_without_a_class_learn_from_data() -> None:
    objective = SelfEvaluation(drop_fraction=0.3)
    views = views_of(objective)
    wanted = objective.wanted(views, views.batch.images + 0.5)
    bent = (wanted - views.batch.images).abs().flatten(1).max(dim=1).values > 1e-4
    is_back = objective.earlier(views.batch) < views.batch.times
    assert torch.equal(bent, is_back & (views.batch.shown != ANY))
    assert 10 < int(is_back.sum()) < 38 and 5 < int((views.batch.shown == ANY).sum()) < 25


def test_the_gradient_at_the_data_is_along_the_disagreement() -> None:
    """Where x = x_0, dL/dx is a positive number times G(x_s, -) - G(x_s, y).

    But for the part along x_0, as the target is as long as that.
    """
    objective, output = SelfEvaluation(), views_of(SelfEvaluation()).student.requires_grad_(True)
    views = views_of(objective, output)
    made = views.process.clean(views.batch.states, views.batch.times, output)
    (slope,) = torch.autograd.grad(objective.terms(views).values.sum(), output)
    earlier = objective.earlier(views.batch)
    gap = disagreement(views, made.detach(), earlier)
    # x = alpha x_t - sigma v: down in v is up in x
    sigma = views.process.sigma[views.batch.times]
    bends = (earlier < views.batch.times) & (views.batch.shown != ANY) & (sigma > 0.1)
    assert int(bends.sum()) > 8
    for row in torch.nonzero(bends).flatten().tolist():
        image = views.batch.images[row].flatten()
        along = -slope[row].flatten()
        along, expected = (
            vector - (vector @ image) / (image @ image) * image for vector in (along, gap[row].flatten())
        )
        cosine = float(torch.nn.functional.cosine_similarity(along, expected, dim=0))
        assert cosine > 0.999, (row, cosine)


def test_the_target_is_as_long_as_the_image_and_has_no_gradient() -> None:
    objective = SelfEvaluation()
    views = views_of(objective)
    wanted = objective.wanted(views, views.batch.images * 3.0)
    torch.testing.assert_close(wanted.flatten(1).norm(dim=1), views.batch.images.flatten(1).norm(dim=1))
    weight = torch.tensor(0.3, requires_grad=True)
    slopes = []
    for shift in (weight, 0.3):
        output = weight * views.batch.states
        again = views_of(objective, output, judge(views.process, 0.2, shift))
        slopes += torch.autograd.grad(objective.terms(again).values.sum(), weight)
    torch.testing.assert_close(*slopes)


def test_it_is_judged_by_data_where_the_judge_moves() -> None:
    assert SelfEvaluation(drop_fraction=0.2).held_out(("past",)) == Denoising(drop_fraction=0.2)
    assert SelfEvaluation().held_out(()) == SelfEvaluation()
    for given, line in (
        ({"drop_fraction": 0.0}, "between 0 and 1"),
        ({"reach": 1.5}, "reach is 1.5; accepted: from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=line):
            SelfEvaluation(**given)
