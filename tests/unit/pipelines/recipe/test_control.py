"""A recipe as its own control: random teachers, nothing registered, and a line where there is no teacher."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.pipelines.recipe.file import RecipeError, read_document
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import build_recipe, load_recipe
from attar.registry.artifacts.store import Store

SET_CONTROL = ["control=random_teacher"]


def test_every_teacher_is_random_and_nothing_is_registered(tmp_path: Path) -> None:
    plain, control = load_recipe("demo"), load_recipe("demo", SET_CONTROL)
    assert plain.nodes.keys() - control.nodes.keys() == {"release"}
    student = control.nodes["student"].config.model_dump()
    assert student["teacher"]["kind"] == "random"
    assert student["objectives"] == plain.nodes["student"].config.model_dump()["objectives"]
    assert control.fingerprint != plain.fingerprint and control.control == "random_teacher" and not plain.control
    assert control.until("student").control == "random_teacher"
    assert len(make_plan(control, Store(tmp_path))) == len(control.nodes)


def test_what_the_teacher_reads_stays() -> None:
    name = "methods/opsd"
    before = load_recipe(name).nodes
    after = load_recipe(name, SET_CONTROL).nodes
    trained = [node for node, plain in before.items() if plain.config != after[node].config]
    assert trained
    for node in trained:
        first, second = (nodes[node].config.model_dump()["teacher"] for nodes in (before, after))
        assert second["kind"] == "random" and second["context"] == first["context"]


def test_a_control_is_read_back_from_its_own_text() -> None:
    control = load_recipe("demo", SET_CONTROL)
    again = build_recipe(control.as_dict())
    assert again.fingerprint == control.fingerprint and again.control == control.control


def test_refused_in_one_line() -> None:
    with pytest.raises(RecipeError, match=r"^recipe, control = 'random': accepted: random_teacher$"):
        build_recipe({**read_document("demo"), "control": "random"})
    with pytest.raises(RecipeError, match=r"^recipe, control = 'random_teacher': no node of it learns from a teacher"):
        load_recipe("vocabulary", SET_CONTROL)
