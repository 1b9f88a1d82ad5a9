"""Laws of a warm start from a teacher's predictions: zero at the teacher, toward it elsewhere, and nothing through it."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.diffusion.net import guided
from attar.compressors.distill.losses.denoising.matching import TeacherMatching
from attar.compressors.distill.losses.denoising.views import DenoisingViews
from tests.unit.compressors.distill.losses.denoising.exact_denoisers import PIXEL, batch, gaussian, process


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_student_that_predicts_what_its_teacher_does_rests_and_another_is_drawn_to_it(scale: float) -> None:
    of, weight = process(), torch.tensor(0.4, requires_grad=True)
    objective = TeacherMatching(guidance_scale=scale)
    teacher, read = gaussian(of, weight, 0.3), batch(objective.start, of, torch.randn(32, *PIXEL))
    target = guided(teacher, scale, 1)(read.states, read.times, read.shown).detach()
    at_rest = objective.terms(DenoisingViews(target, read, of, 1, teacher=teacher))
    assert float(at_rest.values.abs().max()) == 0.0
    output = (target + 0.1).requires_grad_(True)
    values = objective.terms(DenoisingViews(output, read, of, 1, teacher=teacher)).values
    own, through = torch.autograd.grad(values.sum(), [output, weight], allow_unused=True)
    assert through is None, "the teacher does not learn by it"
    torch.testing.assert_close(own, torch.full_like(own, 0.2), atol=1e-5, rtol=0)


def test_it_is_judged_by_a_teacher_that_stays_alone() -> None:
    assert TeacherMatching().held_out(()) == TeacherMatching() and TeacherMatching().held_out(("teacher",)) is None
    with pytest.raises(ValueError, match=r"drop_fraction is 1.0; accepted: from 0, below 1"):
        TeacherMatching(drop_fraction=1.0)
