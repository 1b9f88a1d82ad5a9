"""Presets that weigh tokens, rows or a family of divergences, as they ship: their laws, on objectives read from their recipes.

A student is a table of logits here, one row a learned token, so that every loss and gradient is exact.
"""

from __future__ import annotations

import math

import pytest
import torch

from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.kullback import ForwardKL
from attar.compressors.distill.losses.reduction import Reduction
from attar.compressors.distill.losses.views import Targets
from attar.compressors.models.head import OutputHead
from attar.pipelines.recipe.whole import load_recipe
from tests.builders import TableTeacher, token_loss
from tests.laws.method_steps import (
    LENGTH,
    VOCAB,
    Outcome,
    config_of,
    group,
    only,
    reduction_of,
    same,
    step,
    table,
)


def test_tsd_kd_ranking_step_raises_the_agreement() -> None:
    student, teacher = table(0), table(1)
    alone = Reduction(*({"opener": part["opener"]} for part in (reduction_of("tsd-kd").objectives, {"opener": 1.0})))  # type: ignore[arg-type]
    result = step(alone, group([0.0] * 4), student, teacher=teacher)
    is_opener = result.gradient.abs().sum(-1) > 0
    assert 4 <= int(is_opener.sum()) < 4 * LENGTH, "at least one token a sequence, not all"
    moved = student.clone()
    for _ in range(200):
        moved -= 2.0 * step(alone, group([0.0] * 4), moved, teacher=teacher).gradient
    assert agreement(moved, teacher, is_opener) > agreement(student, teacher, is_opener) + 0.2


def agreement(student: torch.Tensor, teacher: torch.Tensor, rows: torch.Tensor) -> float:
    """Kendall's tau of the two orders, mean over rows."""
    first, other = student[rows], teacher[rows]
    signs = [(x[:, :, None] - x[:, None, :]).sign() for x in (first, other)]
    return float((signs[0] * signs[1]).sum((1, 2)).mean()) / (VOCAB * (VOCAB - 1))


def test_tsd_kd_sharpens_exactly_a_tenth_of_the_tokens() -> None:
    alone = Reduction({"sharpen": reduction_of("tsd-kd").objectives["sharpen"]}, {"sharpen": 1.0})
    result = step(alone, group([0.0] * 4), table(0))
    touched = (result.gradient.abs().sum(-1) > 0).view(4, LENGTH).sum(-1)
    assert touched.tolist() == [math.ceil(0.1 * LENGTH)] * 4
    after = (table(0) - result.gradient).log_softmax(-1)
    before = table(0).log_softmax(-1)
    assert (after.exp() * -after).sum() < (before.exp() * -before).sum()


def test_paced_ignores_what_is_always_or_never_solved() -> None:
    for rewards in ([1.0] * 4, [0.0] * 4):
        assert step(reduction_of("paced"), group(rewards), table(0), teacher=table(1)).gradient.abs().max() == 0.0
    assert step(reduction_of("paced"), group([1.0, 0, 0, 0]), table(0), teacher=table(1)).gradient.abs().max() > 1e-3


def test_paced_without_exponents_is_unweighted() -> None:
    flat = reduction_of("paced", "objectives.paced.sample_weight.beta_kernel={alpha: 0.0, beta: 0.0}")
    result = step(flat, group([1.0] * 4), table(0), teacher=table(1))
    same(result, step(only(Distil(divergence=ForwardKL())), group([1.0] * 4), table(0), teacher=table(1)))


def test_paced_switch_turns_the_gradient() -> None:
    """First half: the gradient of KL(T || S), S - T a token; second half: that of KL(S || T)."""
    reduction, examples = reduction_of("paced"), group([1.0, 0, 0, 0])
    first, second = (
        step(reduction, examples, table(0), Clock(at, 10, 0, 1), teacher=table(1)).gradient for at in (4, 5)
    )
    student, teacher = table(0).log_softmax(-1), table(1).log_softmax(-1)
    torch.testing.assert_close(first, (student.exp() - teacher.exp()) / len(student), atol=1e-6, rtol=1e-4)
    gap = student - teacher
    reverse = student.exp() * (gap - (student.exp() * gap).sum(-1, keepdim=True)) / len(student)
    torch.testing.assert_close(second, reverse, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("preset", ["gkd", "minillm", "distillm"])
def test_family_is_zero_only_between_equals(preset: str) -> None:
    reduction = reduction_of(preset)
    equal = step(reduction, group([0.0] * 4), table(0), teacher=table(0))
    other = step(reduction, group([0.0] * 4), table(0), teacher=table(1))
    assert abs(float(equal.loss)) < 1e-6 and equal.gradient.abs().max() < 1e-6 and float(other.loss) > 0.05
    moved = step(reduction, group([0.0] * 4), table(0) - other.gradient, teacher=table(1))
    assert float(moved.loss) < float(other.loss)


def test_reverse_kl_in_full_is_the_mean_of_the_sampled_form() -> None:
    """Per token: sum over all outcomes, as drawn, of the policy-gradient form is the gradient that the preset takes."""
    student, teacher = table(0), table(1)
    result = step(reduction_of("minillm"), group([0.0] * 4), student, teacher=teacher)
    logits = student.clone().requires_grad_()
    own, gap = logits.log_softmax(-1), (student.log_softmax(-1) - teacher.log_softmax(-1))
    drawn = (own.exp().detach() * gap * own).sum() / len(student)  # E_y [sg(d) grad log S(y)]
    torch.testing.assert_close(result.gradient, torch.autograd.grad(drawn, logits)[0], atol=1e-6, rtol=1e-4)


def test_skew_kl_is_bounded_and_tends_to_kl() -> None:
    apart = torch.full((4 * LENGTH, VOCAB), -40.0)
    student, teacher = apart.clone(), apart.clone()
    student[:, 0], teacher[:, 1] = 40.0, 40.0
    far = step(reduction_of("distillm"), group([0.0] * 4), student, teacher=teacher)
    assert float(far.loss) == pytest.approx(-math.log(0.1), abs=1e-4)
    small = reduction_of("distillm", "objectives.skew.divergence.skew_kl.skew=0.000001")
    same_as = step(only(Distil(divergence=ForwardKL())), group([0.0] * 4), table(0), teacher=table(1))
    near = step(small, group([0.0] * 4), table(0), teacher=table(1))
    torch.testing.assert_close(near.loss, same_as.loss, atol=1e-4, rtol=1e-4)


def test_squared_error_toward_a_mix_is_the_mix_of_squared_errors() -> None:
    """The target alpha y + (1 - alpha) T has the gradient of alpha ||S - y||^2 + (1 - alpha) ||S - T||^2: the paper's two terms."""
    examples, student, teacher = group([0.0] * 4), table(0), table(1)

    def at(share: float) -> Outcome:
        change = f"objectives.guided.target.mix.share={share}"
        return step(reduction_of("even-your-teacher", change), examples, student, teacher=teacher)

    mixed, labels, echo = at(0.35), at(1.0), at(0.0)
    torch.testing.assert_close(mixed.gradient, 0.35 * labels.gradient + 0.65 * echo.gradient, atol=1e-7, rtol=1e-4)
    assert (labels.gradient - echo.gradient).abs().max() > 1e-3


def test_fitted_share_reaches_the_target() -> None:
    config = config_of("even-your-teacher")
    fitted = config.with_fitted(0.85)
    assert fitted.reduction.objectives["guided"].target.share == 0.85  # type: ignore[attr-defined]
    assert load_recipe("methods/even-your-teacher").nodes["student"].inputs["fitted"] == ("share",)
    with pytest.raises(ValueError, match="names no number"):
        config_of("even-your-teacher", "fitted=objectives.guided.target.mix.shore")


def test_data_pruning_weights_follow_the_fraction() -> None:
    """(1 - a) CE + a KL with a = 1 - f / 2 within [1/2, 1]; the teacher saw all rows, the student a part."""
    recipe = load_recipe("methods/data-pruning-kd")
    fraction = recipe.nodes["part"].config.budget.keep_fraction  # type: ignore[attr-defined]
    share = min(1.0, max(0.5, 1 - 0.5 * fraction))
    weights = config_of("data-pruning-kd").reduction.weights
    assert weights == pytest.approx({"next_token": 1 - share, "forward_kl": share})
    assert recipe.nodes["lesson"].inputs["data"] == ("questions",) and recipe.nodes["student"].inputs["data"] == (
        "part",
    )
    assert recipe.nodes["teacher"].inputs["students"] == ("lesson",)


def test_data_pruning_teacher_helps_most_where_little_is_left() -> None:
    """Handwritten digits: a teacher of all of them, students of a twentieth, with and without wrong labels."""
    images, labels, test_images, test_labels = digits()
    generator = torch.Generator().manual_seed(0)
    teacher = fitted(reduction_of("data-pruning-kd", "objectives={next_token: 1.0}"), images, labels, None)
    with torch.no_grad():
        logprobs = teacher(images).log_softmax(-1)
    chosen = torch.randperm(len(images), generator=generator)[: len(images) // 20]
    wrong = torch.randint(10, (len(labels),), generator=generator)
    noisy = torch.where(torch.rand(len(labels), generator=generator) < 0.3, wrong, labels)
    results = {}
    for name, given in (("clean", labels), ("noisy", noisy)):
        for share in (0.0, 0.5, 1.0):
            reduction = reduction_of("data-pruning-kd", f"objectives={{next_token: {1 - share}, forward_kl: {share}}}")
            student = fitted(reduction, images[chosen], given[chosen], logprobs[chosen])
            results[name, share] = float((student(test_images).argmax(-1) == test_labels).float().mean())
    assert results["clean", 1.0] >= results["clean", 0.0] + 0.02
    assert results["noisy", 1.0] > results["noisy", 0.5] > results["noisy", 0.0]


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    images, labels = torch.tensor(pixels, dtype=torch.float32) / 16.0, torch.tensor(digits)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    train, test = order[:1200], order[1200:]
    return images[train], labels[train], images[test], labels[test]


def fitted(
    reduction: Reduction, images: torch.Tensor, labels: torch.Tensor, teacher_logits: torch.Tensor | None
) -> torch.nn.Module:
    """Fit a small network by the preset's own objectives, classes taking the place of tokens."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    counts = dict.fromkeys(reduction.objectives, len(labels))
    for _ in range(250):
        teacher = None if teacher_logits is None else TableTeacher(teacher_logits)
        loss, _ = token_loss(reduction, net(images), OutputHead(torch.eye(10)), Targets(labels), counts, teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()
