"""What each loss says of itself, beside what it does: where it is infinite, whether it reads the target, and whose draws it needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attar.compressors.catalogue import build
from attar.compressors.distill.losses.divergences.catalogue import CHUNKWISE, DIVERGENCES, LISTWISE
from attar.compressors.distill.losses.traits import Drawn, Traits

NO_DIVERGENCE = {"is_divergence": False}
SAMPLED = {"needs_whole": True, "needs_support": True, "needs_student_draws": True}
POLICY = {**NO_DIVERGENCE, "needs_student_draws": True, "needs_old": True, "needs_reward": True}
# name, parameters, what differs from a divergence of whole distributions that is finite everywhere
STATED: list[tuple[str, dict[str, Any], dict[str, bool]]] = [
    ("forward_kl", {}, {}),
    ("reverse_kl", {}, {"needs_support": True}),
    ("jeffreys", {}, {"needs_support": True}),
    ("jensen_shannon", {}, {}),
    ("skew_kl", {}, {}),
    ("total_variation", {}, {}),
    ("alpha", {"alpha": 0.5}, {}),
    ("alpha", {"alpha": 0.0}, {"needs_support": True}),
    ("alpha", {"alpha": -1.0}, {"needs_support": True}),
    ("chi_square", {}, {}),
    ("chi_square", {"direction": "reverse"}, {"needs_support": True}),
    ("cross_entropy", {}, {**NO_DIVERGENCE, "reads_density": True}),
    ("squared_error", {}, {"needs_whole": True}),
    ("plackett_luce", {}, {**NO_DIVERGENCE, "needs_whole": True}),
    ("student_entropy", {}, {**NO_DIVERGENCE, "needs_target": False, "reads_density": True}),
    ("sampled_token", {}, {**SAMPLED, "needs_old": True}),
    ("k2", {}, {"needs_whole": True, "needs_support": True}),
    ("k2", {"is_weighted": True}, {**SAMPLED, "needs_old": True}),
    ("k3", {}, {**SAMPLED, "needs_old": True}),
    ("k3", {"is_weighted": False}, SAMPLED),
    ("clipped_ratio", {}, {**POLICY, "needs_target": False}),
    ("teacher_ratio", {}, {**POLICY, "needs_whole": True, "needs_support": True}),
]


@pytest.mark.parametrize(("name", "params", "differs"), STATED)
def test_traits_are_as_they_stand_here(name: str, params: dict[str, Any], differs: dict[str, bool]) -> None:
    assert build(DIVERGENCES, name, params).traits == Traits(**differs)


def test_none_is_left_out() -> None:
    assert {name for name, *_ in STATED} == set(DIVERGENCES)


def test_a_loss_over_the_sequences_of_a_prompt() -> None:
    policy = build(LISTWISE, "anchored_listwise", {}).traits
    assert policy == Traits(**POLICY, needs_target=False, needs_whole=True, needs_groups=True)
    target = build(LISTWISE, "anchored_listwise", {"anchor": "target"}).traits
    assert target == Traits(**NO_DIVERGENCE, needs_whole=True, needs_support=True, needs_reward=True, needs_groups=True)


def test_a_loss_over_chunks_has_no_target_in_the_batch() -> None:
    assert build(CHUNKWISE, "chunk_likelihood", {}).traits == Traits(needs_target=False)


@pytest.mark.parametrize(("name", "params", "differs"), STATED)
def test_it_is_infinite_where_the_target_gives_no_mass_as_it_says(
    name: str, params: dict[str, Any], differs: dict[str, bool]
) -> None:
    """An outcome that the student holds with 1/2 has a target of e^-300: what is finite stays small, what is not goes to hundreds."""
    target = torch.tensor([[0.0, -300.0]], dtype=torch.float64).log_softmax(-1)
    student = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    drawn = Drawn(torch.tensor([1]), student[:, 1], torch.tensor([-1.0], dtype=torch.float64))
    loss = float(build(DIVERGENCES, name, params)(target, student, drawn).abs())
    assert (loss > 50.0) == differs.get("needs_support", False), loss


@pytest.mark.parametrize(("name", "params", "differs"), STATED)
def test_it_reads_the_target_as_it_says(name: str, params: dict[str, Any], differs: dict[str, bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second, student = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64).log_softmax(-1)
    drawn = Drawn(torch.tensor([0, 1, 2, 3]), student[:, 0], torch.ones(4, dtype=torch.float64))
    loss = build(DIVERGENCES, name, params)
    is_read = not torch.equal(loss(first, student, drawn), loss(second, student, drawn))
    assert is_read == differs.get("needs_target", True)


def test_facts_are_what_must_be_known_of_the_sequences() -> None:
    assert Traits().facts == frozenset()
    assert Traits(needs_student_draws=True).facts == {"student_draws"} and Traits(needs_old=True).facts == {
        "old_logprobs"
    }
    assert Traits(needs_reward=True).facts == {"rewards"} and Traits(needs_groups=True).facts == {"groups"}
