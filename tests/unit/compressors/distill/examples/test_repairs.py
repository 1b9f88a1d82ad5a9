"""What a teacher finishes of a student's answers: those that stay open, and no other."""

from __future__ import annotations

from attar.compressors.adapt.lora import Lora
from attar.compressors.distill.examples.rollouts import RepairedWrites, StudentWrites
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import OtherModel
from attar.stages.ingest.tiny_model import random_model
from tests.unit.compressors.distill.teachers.small_training import EXAMPLES, rollouts


def test_a_repair_learns_nothing_that_ends_by_itself_and_the_data_answers_its_share() -> None:
    student = Student(Lora(rank=2)(random_model("llama")[0], 0))
    teacher = OtherModel(Student(random_model("llama", seed=1)[0].requires_grad_(False)).eval())
    ends = tuple(range(0, 259, 2))  # every second token ends an answer: nearly all end, within eight tokens
    made = rollouts(RepairedWrites(max_new_tokens=8), teacher=teacher)
    made.stop_ids = ends
    assert made.examples(student, EXAMPLES, Clock(0, 1, 0, 1)) == EXAMPLES, "nothing was open: the data's own"
    assert made.facts()["num_repaired"] == 0
    # open is what is longer than 1.5 times the data's own answer, of one to four tokens
    limited = rollouts(RepairedWrites(max_new_tokens=8, num_repair_tokens=400, length_ratio=1.5), teacher=teacher)
    alone = rollouts(StudentWrites(max_new_tokens=8)).examples(student, EXAMPLES, Clock(0, 1, 0, 1))
    given = {example.name: example for example in EXAMPLES}
    for example in limited.examples(student, EXAMPLES, Clock(0, 1, 0, 1)):
        most = int(1.5 * len(given[example.name].answer_ids))
        own = next(other.answer_ids for other in alone if other.name == example.name)
        num_same = next((i for i, (a, b) in enumerate(zip(example.answer_ids, own, strict=False)) if a != b), 8)
        assert most // 2 < num_same, "behind the half of what the limit left"
    mixed = rollouts(RepairedWrites(student_fraction=0.0), teacher=teacher)
    assert mixed.examples(student, EXAMPLES, Clock(0, 1, 0, 1)) == EXAMPLES and mixed.facts()["num_repaired"] == 0
