"""The presets as they ship: each one's identities, limits and theorems, on its own objectives read from its recipe.

A student is a table of logits here, one row a learned token, so that every loss and gradient is exact.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.next_token import NextToken
from attar.compressors.distill.losses.views import Views
from attar.compressors.distill.teachers.sources import Ema, PreviousEpoch
from tests.laws.method_steps import (
    Outcome,
    config_of,
    group,
    only,
    reduction_of,
    same,
    step,
    table,
)

LAST = Clock(9, 10, 3, 4)


def test_ps_kd_without_a_share_is_cross_entropy() -> None:
    plain = reduction_of("ps-kd", "objectives.ps_kd.schedule.linear_ramp.end=0.0")
    result = step(plain, group([1, 0, 0, 1]), table(0), LAST, past=table(1))
    same(result, step(only(NextToken()), group([1, 0, 0, 1]), table(0)))
    mixed = step(reduction_of("ps-kd"), group([1, 0, 0, 1]), table(0), LAST, past=table(1))
    assert (mixed.gradient - result.gradient).abs().max() > 1e-3, "with a share it is not"


def test_ps_kd_share_rises_to_its_end_in_the_last_epoch() -> None:
    reduction = reduction_of("ps-kd")
    shares = [reduction.at(Clock(epoch, 5, epoch, 5)).objectives["ps_kd"].target.share for epoch in range(5)]  # type: ignore[attr-defined]
    assert shares == pytest.approx([0.8 * (epoch + 1) / 5 for epoch in range(5)])
    assert config_of("ps-kd").past == PreviousEpoch()


def test_ps_kd_gradient_factor_at_the_label() -> None:
    """d loss / d logit of the label = (p - 1) [1 - a (1 - p_past) / (1 - p)], summed loss."""
    student, past, examples = table(0), table(1), group([1, 0, 0, 1])
    result = step(reduction_of("ps-kd"), examples, student, LAST, past=past)
    labels = torch.tensor([token for logits in examples for token in logits.answer_ids])[:, None]
    p, p_past = (logits.softmax(-1).gather(-1, labels) for logits in (student, past))
    expected = (p - 1) * (1 - 0.8 * (1 - p_past) / (1 - p)) / len(labels)
    torch.testing.assert_close(result.gradient.gather(-1, labels), expected, atol=1e-6, rtol=1e-4)


def generations(anchor: torch.Tensor, start: torch.Tensor, num: int, share: float | None = None) -> list[float]:
    """KL(base || student) a generation, each student being its target exactly, as a table can be."""
    change = [] if share is None else [f"objectives.meta.target.mix.share={share}"]
    objective = reduction_of("recursive-meta-distillation", *change).objectives["meta"]
    assert isinstance(objective, Distil)
    now, gaps = start, []
    for _ in range(num + 1):
        gaps.append(float((anchor.exp() * (anchor - now)).sum(-1).mean()))
        # the student itself is elsewhere: a target that reads it would not contract
        now = objective.target(
            Views(torch.zeros_like(now), torch.zeros(len(now), dtype=torch.long), past=now, anchor=anchor)
        )
    return gaps


def test_recursive_meta_contracts_to_the_base_teacher() -> None:
    """KL(P0 || Pg) <= (1 - 0.3)^g KL(P0 || P_start) by joint convexity, and P0 is the fixed point."""
    anchor, start = (table(seed).double().log_softmax(-1) for seed in (0, 1))
    gaps = generations(anchor, start, 12)
    assert gaps[0] > 0.1
    assert all(gap <= 0.7**index * gaps[0] + 1e-12 for index, gap in enumerate(gaps))
    assert generations(anchor, anchor, 3) == pytest.approx([0.0] * 4, abs=1e-12)
    assert generations(anchor, start, 1, share=1.0)[1] == pytest.approx(0.0, abs=1e-12), "a whole share lands at once"


def test_recursive_meta_without_an_anchor_drifts() -> None:
    """Each generation errs a little: with share 0 the errors add up, with 0.3 they stay bounded."""
    anchor = table(0).double().log_softmax(-1)

    def drift(share: float) -> float:
        objective = reduction_of("recursive-meta-distillation", f"objectives.meta.target.mix.share={share}").objectives[
            "meta"
        ]
        now, generator = anchor, torch.Generator().manual_seed(5)
        for _ in range(40):
            views = Views(now, torch.zeros(len(now), dtype=torch.long), past=now, anchor=anchor)
            noise = 0.2 * torch.randn(now.shape, generator=generator, dtype=torch.float64)
            now = (objective.target(views) + noise).log_softmax(-1)  # type: ignore[attr-defined]
        return float((anchor.exp() * (anchor - now)).sum(-1).mean())

    assert drift(0.0) > 5 * drift(0.3)


def test_curiosft_toward_itself_without_heat_is_fine_tuning() -> None:
    cold = reduction_of(
        "curiosft",
        "objectives.curiosity.target.entropy_temper.lowest=1.0",
        "objectives.curiosity.target.entropy_temper.highest=1.0",
    )
    result = step(cold, group([1, 0, 0, 1]), table(0), past=table(0))
    same(result, step(only(NextToken()), group([1, 0, 0, 1]), table(0)))
    hot = step(reduction_of("curiosft"), group([1, 0, 0, 1]), table(0), past=table(0))
    assert (hot.gradient - result.gradient).abs().max() > 1e-3


def test_curiosft_keeps_order_heats_the_unsure_and_follows_every_five_steps() -> None:
    config = config_of("curiosft")
    target = config.reduction.objectives["curiosity"].target  # type: ignore[attr-defined]
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0]]).log_softmax(-1), torch.tensor([[0.3, 0.0, 0.1]]).log_softmax(-1)
    logits = torch.cat([sure, unsure, table(0)[:, :3].log_softmax(-1)])
    heated = target(Views(logits, torch.zeros(len(logits), dtype=torch.long), past=logits))
    assert torch.equal(heated.argsort(dim=-1), logits.argsort(dim=-1))
    heats = target.temperatures(logits)
    assert float(heats[0]) == pytest.approx(1.1), "without that rule a sure token would get 1.5"
    assert float(heats[1]) > 1.2
    assert config.past == Ema(decay=0.01, every=5), "nearly a copy, no average of decay 0.99"


def test_opsd_without_a_hint_is_zero_with_zero_gradient() -> None:
    result = step(reduction_of("opsd"), group([0, 0, 1, 0]), table(0), teacher=table(0))
    assert float(result.loss) == pytest.approx(0.0, abs=1e-7) and result.gradient.abs().max() < 1e-7
    assert float(step(reduction_of("opsd"), group([0, 0, 1, 0]), table(0), teacher=table(1)).loss) > 0.05


def test_opsd_clip_bounds_each_token_and_is_nothing_when_wide() -> None:
    def clipped(limit: float) -> Outcome:
        change = f"objectives.opsd.token_weight.clip.limit_nats={limit}"
        return step(reduction_of("opsd", change), group([0, 0, 1, 0]), table(0), teacher=table(1))

    plain = replace(reduction_of("opsd").objectives["opsd"], token_weights=())  # type: ignore[type-var]
    same(clipped(1e9), step(only(plain), group([0, 0, 1, 0]), table(0), teacher=table(1)))
    assert float(clipped(0.01).loss) <= 0.01 + 1e-7
    assert clipped(0.01).gradient.abs().max() < plain_gradient_max(plain)


def plain_gradient_max(objective: object) -> torch.Tensor:
    return step(only(objective), group([0, 0, 1, 0]), table(0), teacher=table(1)).gradient.abs().max()
