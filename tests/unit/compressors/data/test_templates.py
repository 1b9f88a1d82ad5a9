"""Questions from templates: none twice, enough of each, the same by seed, and a right answer passes while a guess seldom does."""

from __future__ import annotations

import json
import re
from itertools import islice, pairwise
from random import Random

import pytest

from attar.compressors.catalogue import build
from attar.compressors.data.templates import TEMPLATES, Task, Template
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS

NUM_HELDOUT = 500


def right_answer(task: Task) -> str:
    """Return the answer that a good writer gives: for a record the object, else the reference in a sentence's form."""
    if task.verifier == "pattern":
        excluded = re.search(r"\(\?!.*?\)\\b\)", task.answer)
        words = re.findall(r"\\b(\w+)", task.answer[excluded.end() if excluded else 0 :])
        return f"It is the {' and the '.join(words)}."
    if task.verifier != "json_schema":
        return f"{task.answer}."
    properties = json.loads(task.answer)["properties"]
    return json.dumps({name: value["const"] for name, value in properties.items()})


@pytest.mark.parametrize("name", TEMPLATES)
def test_there_are_questions_to_train_on_and_five_hundred_to_report_none_twice(name: str) -> None:
    tasks = list(islice(TEMPLATES[name].tasks(Random(3)), NUM_HELDOUT + 300))
    assert len({task.question for task in tasks}) == NUM_HELDOUT + 300
    assert tasks == list(islice(TEMPLATES[name].tasks(Random(3)), NUM_HELDOUT + 300))
    assert tasks[:20] != list(islice(TEMPLATES[name].tasks(Random(4)), 20))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_right_answer_passes_and_that_of_another_question_does_not(name: str) -> None:
    tasks = list(islice(TEMPLATES[name].tasks(Random(0)), 30))
    check = build(ANSWER_CHECKS, tasks[0].verifier)
    assert {task.verifier for task in tasks} == {tasks[0].verifier}
    assert all(check(right_answer(task), task.answer, []) is None for task in tasks[:5])
    others = [check(right_answer(other), task.answer, []) for task, other in pairwise(tasks)]
    assert sum(objection is not None for objection in others) > len(others) / 2


@pytest.mark.parametrize("name", ["lookup", "last_word", "larger"])
def test_the_share_of_a_guesser_is_what_the_template_says_and_naming_all_is_wrong(name: str) -> None:
    random, check = Random(0), build(ANSWER_CHECKS, "pattern")
    tasks = list(islice(TEMPLATES[name].tasks(Random(1)), 150))
    right = 0
    for task in tasks:
        words = re.findall(r"\w+", re.sub(r"\\b|\(\?\w+\)", " ", task.answer))
        right += check(f"{random.choice(words)}.", task.answer, []) is None
        assert check(" ".join(words), task.answer, []) is not None
    assert right / len(tasks) == pytest.approx(TEMPLATES[name].guess, abs=0.12), "three standard errors"


def test_a_template_that_is_used_up_says_how_many_questions_it_has() -> None:
    small = Template(lambda random: Task(f"Which is {random.randint(1, 3)}?", "x", "exact"), "three questions")
    with pytest.raises(ValueError, match="the template has 3 different questions; accepted: at most as many"):
        list(islice(small.tasks(Random(0)), 4))
