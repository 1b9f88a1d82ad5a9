"""Trainings without a gradient, and losses that a setting would turn into others: refused while the recipe loads."""

from __future__ import annotations

import re
from typing import Any

import pytest

from attar.stages.finetune.config import FinetuneConfig
from attar.stages.guidance.data.config import GuideDataConfig

POLICY = {"clipped_ratio": "clipped_ratio", "teacher_ratio": {"teacher_ratio": {"alpha": 0.5}}}
KERNEL = {"divergence": "forward_kl", "sample_weight": "beta_kernel"}


def training(objective: Any, rollout: Any) -> FinetuneConfig:
    teacher = {"kind": "self", "rule": {"kind": "start"}}
    return FinetuneConfig(objectives={"own": objective}, rollout=rollout, teacher=teacher)


@pytest.mark.parametrize("writer", ["student", "teacher"])
@pytest.mark.parametrize("name", POLICY)
def test_an_advantage_among_one_answer_is_refused(name: str, writer: str) -> None:
    objective = {"divergence": POLICY[name], "target": {"identity": {"of": "teacher"}}}
    for rollout in ({"kind": writer}, {"kind": writer, "num_samples": 1}):
        with pytest.raises(
            ValueError, match="compares the answers to a prompt; num_samples is 1; accepted: num_samples of"
        ):
            training(objective, rollout)
    assert training(objective, {"kind": writer, "num_samples": 2}).reduction.objectives


@pytest.mark.parametrize("writer", ["student", "mixed", "teacher", "repair"])
def test_a_pass_rate_of_one_answer_is_refused_and_so_are_equal_answers(writer: str) -> None:
    with pytest.raises(ValueError, match="compares the answers to a prompt"):
        training(KERNEL, {"kind": writer, "num_samples": 1})
    with pytest.raises(ValueError, match="all the same at temperature 0; accepted: above 0"):
        training(KERNEL, {"kind": writer, "num_samples": 4, "temperature": 0.0})
    assert training(KERNEL, {"kind": writer, "num_samples": 4}).reduction.objectives
    # unweighted: nothing is compared
    flat = {**KERNEL, "sample_weight": {"beta_kernel": {"alpha": 0.0, "beta": 0.0}}}
    assert training(flat, {"kind": writer, "num_samples": 1}).reduction.objectives


def test_a_pass_rate_that_the_rows_bring_along_needs_no_rollout() -> None:
    assert FinetuneConfig(
        objectives={"own": KERNEL}, teacher={"kind": "self", "rule": {"kind": "start"}}
    ).reduction.objectives


@pytest.mark.parametrize("divergence", ["student_entropy", "cross_entropy"])
def test_what_reads_single_entries_is_refused_over_a_part_of_the_vocabulary(divergence: str) -> None:
    """100 of 400 entries, 200 draws: the entropy of the part was 2.16 where the whole one is 3.71 nats."""
    objective = {"divergence": divergence}
    message = re.escape("objectives.own reads the probability of single entries")
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(
            objectives={"own": objective},
            teacher={"kind": "self", "rule": {"kind": "start"}},
            compute={"vocabulary_sample": 100},
        )
    assert FinetuneConfig(
        objectives={"own": objective}, teacher={"kind": "self", "rule": {"kind": "start"}}
    ).reduction.objectives


def test_what_is_right_over_a_part_of_the_vocabulary_stays() -> None:
    labels = {"divergence": "cross_entropy", "target": {"identity": {"of": "labels"}}}
    for objective in (1.0, labels, {"divergence": "forward_kl"}, {"divergence": "total_variation"}):
        name = "next_token" if objective == 1.0 else "own"
        assert FinetuneConfig(
            objectives={name: objective},
            teacher={"kind": "self", "rule": {"kind": "start"}},
            compute={"vocabulary_sample": 100},
        ).compute.vocabulary_sample


def test_scales_that_are_all_one_are_refused_before_anything_is_drawn() -> None:
    with pytest.raises(ValueError, match="scales.min and scales.max are 1, which is no guidance"):
        GuideDataConfig(scales={"min": 1.0, "max": 1.0})
    assert GuideDataConfig(scales={"min": 2.0, "max": 2.0})
