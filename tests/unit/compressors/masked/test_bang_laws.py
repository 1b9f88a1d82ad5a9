"""Laws of students that write a block in one pass, and of easy texts first (self-paced mixed distillation, BANG)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attar.compressors.distill.examples.masked import HiddenView, hide
from attar.compressors.distill.examples.packing import Example, collate
from attar.compressors.distill.examples.sample_facts import SampleFacts
from attar.compressors.distill.losses.composite import Distil
from attar.compressors.distill.losses.divergences.shapes import CrossEntropy
from attar.compressors.distill.losses.targets.target_ops import Identity
from attar.compressors.distill.losses.token_stats import TokenStats
from attar.compressors.distill.losses.views import Targets
from attar.compressors.distill.losses.weights.sample_weights import SelfPaced
from attar.compressors.distill.teachers.student import Student
from attar.compressors.masked.hiding import WholeBlock
from tests.builders import terms_of
from tests.unit.compressors.masked.small_filler import FORM, small_model, trained

PROMPT = [30, 31]
MODES = ([40, 41, 42, 43], [50, 51, 52, 53])
PLAIN = Distil(divergence=CrossEntropy(), target=Identity(of="labels"))


def mass_of_modes(texts: list[Example]) -> list[float]:
    """Train a student that writes a block at once, and return the probability of each mode as one whole text."""
    model = small_model()
    trained(model, 40, rule=WholeBlock(), texts=texts)
    example = Example(PROMPT, MODES[0])
    view = HiddenView(example, torch.ones(4, dtype=torch.bool))
    with torch.no_grad():
        logprobs = Student(model).eval().logits(hide(collate([example], [0], is_packed=False), [view], FORM))
    logprobs = logprobs.log_softmax(dim=-1)
    return [float(logprobs.gather(-1, torch.tensor(mode)[:, None]).sum().exp()) for mode in MODES]


def test_two_right_answers_are_mixed_and_those_of_one_writer_are_not() -> None:
    """Tokens are told apart from each other: half of each mode a token is a sixteenth of a mode a text. Why a causal teacher writes first."""
    gold = mass_of_modes([Example(PROMPT, mode) for mode in MODES])
    assert max(gold) < 0.25, "most texts are of both modes at once"
    written = mass_of_modes([Example(PROMPT, MODES[0])] * 2)
    assert written[0] > 0.9


def losses_of(weight: SelfPaced | None) -> torch.Tensor:
    """Return the losses of three texts of two tokens; the texts' means are .1, 1 and 3 nats."""
    means = torch.tensor([0.1, 1.0, 3.0]).repeat_interleave(2)
    logprobs = torch.stack([-means, torch.log1p(-torch.exp(-means))], dim=-1)
    stats = TokenStats(torch.tensor([0, 0, 1, 1, 2, 2]), (SampleFacts(),) * 3)
    targets = Targets(torch.zeros(6, dtype=torch.long), stats=replace(stats, own_logprobs=-means))
    losses, _ = terms_of(replace(PLAIN, sample_weight=weight), logprobs, targets)
    return losses


@pytest.mark.parametrize(("kappa", "num_taken"), [(0.05, 0), (0.5, 1), (2.0, 2), (4.0, 3)])
def test_a_hard_pace_takes_exactly_the_easy_texts(kappa: float, num_taken: int) -> None:
    taken = losses_of(SelfPaced(kappa_nats=kappa)) > 0
    assert taken.tolist() == [index < 2 * num_taken for index in range(6)]


@pytest.mark.parametrize("is_hard", [True, False])
def test_an_endless_pace_is_the_plain_loss(is_hard: bool) -> None:
    paced = losses_of(SelfPaced(kappa_nats=1e9, is_hard=is_hard))
    torch.testing.assert_close(paced, losses_of(None))
