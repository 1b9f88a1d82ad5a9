"""Rollouts: who writes, from which model, and what the step learns of it."""

from __future__ import annotations

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from attar.compressors.adapt.lora import Lora
from attar.compressors.distill.examples.packing import collate
from attar.compressors.distill.examples.rollouts import MixedWrites, RepairedWrites, StudentWrites, TeacherWrites
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.loop.drawing import cut_index
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import OtherModel
from attar.stages.ingest.tiny_model import random_model
from tests.unit.compressors.distill.teachers.small_training import (
    EXAMPLES,
    rollouts,
)


def test_rollouts_are_the_students_own_and_say_how_likely_they_were() -> None:
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    clock = Clock(0, 1, 0, 1)
    written = rollouts(StudentWrites(num_samples=3, max_new_tokens=5)).examples(student, EXAMPLES[:2], clock)
    again = rollouts(StudentWrites(num_samples=3, max_new_tokens=5)).examples(student, EXAMPLES[:2], clock)
    later = rollouts(StudentWrites(num_samples=3, max_new_tokens=5)).examples(student, EXAMPLES[:2], Clock(1, 2, 0, 1))
    assert (
        [answer.answer_ids for answer in written]
        == [answer.answer_ids for answer in again]
        != [answer.answer_ids for answer in later]
    )
    assert [answer.facts.group for answer in written] == [0, 0, 0, 1, 1, 1] and student.training
    batch = collate(written, range(6), is_packed=True)
    with torch.no_grad():
        own = student.logits(batch).log_softmax(-1).gather(-1, batch.next_ids[:, None]).squeeze(-1)
    old = torch.cat([answer.facts.old_logprobs for answer in written if answer.facts.old_logprobs is not None])
    torch.testing.assert_close(own, old, atol=1e-4, rtol=1e-4)
    for group in (written[:3], written[3:]):
        assert sum(example.facts.advantage for example in group) == pytest.approx(0.0, abs=1e-6)
        right = [example for example in group if example.facts.is_correct]
        assert {example.facts.pass_rate for example in group} == {len(right) / 3}
        for example in group:  # a sibling is another answer that is right
            others = [other for other in right if other is not example]
            assert example.facts.has_hint == bool(others)
            assert example.hinted_ids is None or example.hinted_ids == [*example.prompt_ids, *others[0].answer_ids]


def test_a_mix_takes_its_share_from_the_student() -> None:
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    for share, expected in ((0.0, 0), (1.0, 8)):
        policy = MixedWrites(student_fraction=share, max_new_tokens=3)
        examples = rollouts(policy).examples(student, EXAMPLES, Clock(0, 1, 0, 1))
        assert sum(example not in EXAMPLES for example in examples) == expected
    counts = [
        sum(
            example not in EXAMPLES
            for example in rollouts(MixedWrites(max_new_tokens=2)).examples(student, EXAMPLES, Clock(step, 9, 0, 1))
        )
        for step in range(6)
    ]
    assert 12 <= sum(counts) <= 36, "half of 48, by chance"


def test_the_teacher_writes_behind_its_hint_and_both_sides_are_learned() -> None:
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    teacher = OtherModel(Student(random_model("llama", seed=1)[0].requires_grad_(False)).eval())
    made = rollouts(TeacherWrites(max_new_tokens=4, both_sides=True), teacher=teacher)
    made.hint = lambda example, answer, verdict, sibling: list(example.hinted_ids or [])
    plain, hinted = made.examples(student, EXAMPLES[:1], Clock(0, 1, 0, 1))
    assert plain.prompt_ids == EXAMPLES[0].prompt_ids and plain.hinted_ids == EXAMPLES[0].hinted_ids
    assert hinted.prompt_ids == EXAMPLES[0].hinted_ids and hinted.hinted_ids == EXAMPLES[0].prompt_ids
    assert hinted.facts.is_hinted and not plain.facts.is_hinted and plain.answer_ids == hinted.answer_ids
    # what drew them is the teacher behind the hint
    batch = collate([hinted], [0], is_packed=True)
    own = teacher.model.logits(batch).log_softmax(-1).gather(-1, batch.next_ids[:, None]).squeeze(-1)
    torch.testing.assert_close(own.detach(), plain.facts.old_logprobs, atol=1e-4, rtol=1e-4)


def test_what_does_not_end_is_cut_behind_its_half_and_finished_by_the_teacher() -> None:
    assert {cut_index(10, seed) for seed in range(200)} == {6, 7, 8, 9}
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    teacher = OtherModel(Student(random_model("llama", seed=1)[0].requires_grad_(False)).eval())
    made = rollouts(RepairedWrites(max_new_tokens=6, num_repair_tokens=400), teacher=teacher)
    examples = made.examples(student, EXAMPLES, Clock(0, 1, 0, 1))
    alone = rollouts(StudentWrites(max_new_tokens=6)).examples(student, EXAMPLES, Clock(0, 1, 0, 1))
    opened = {example.name: example.answer_ids for example in alone if example.answer_ids[-1] != 0}
    assert len(opened) >= 4 and made.facts()["num_repaired"] == len(examples) >= 4
    assert {example.name for example in examples} <= set(opened), (
        "what ended by itself is the student's own word, unjudged"
    )
    for example in examples:
        own = opened[example.name]
        num_same = next((i for i, (a, b) in enumerate(zip(example.answer_ids, own, strict=False)) if a != b), 6)
        assert num_same >= 4 and example.answer_ids[-1] == 0, "more than half is the student's, the end the teacher's"
        assert example.facts.old_logprobs is None


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    AcceleratorState._reset_state()
    PartialState._reset_state()
