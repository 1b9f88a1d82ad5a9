"""What runs are called: by recipe, model and change, never longer than a list shows."""

from __future__ import annotations

import pytest

from attar.pipelines.deployments import run_names
from attar.pipelines.deployments.form import SHIPPED_MODEL, CompressForm
from attar.pipelines.deployments.search_space import Dimension


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (SHIPPED_MODEL, "SmolLM2-135M-Instruct.Q4_1"),
        ("folder:/models/small/", "small"),
        ("gguf:/models/small.Q8_0.gguf", "small.Q8_0"),
        ("hub:owner/small-1.5@0123abc", "small-1.5"),
        ("models:/small@champion", "small"),
        ("random:llama?num_blocks=2", "llama"),
    ],
)
def test_a_source_is_called_by_what_it_ends_in(source: str, name: str) -> None:
    assert run_names.short_source(source) == name


def test_names_tell_what_a_run_works_on(monkeypatch: pytest.MonkeyPatch) -> None:
    form = CompressForm.model_validate({"name": "small", "model": "hub:owner/large@main"})
    dimension = Dimension.model_validate({"field": "pruned.config.num_blocks", "values": [1, 2]})
    parameters = {
        run_names.of_form: ({"form": form}, "small: large"),
        run_names.of_recipe: (
            {"name": "demo", "overrides": ["pruned.config.num_blocks=8"]},
            "demo, pruned.config.num_blocks=8",
        ),
        run_names.of_night: ({"recipes": ["demo", "wee.yaml"]}, "night of demo, wee.yaml"),
        run_names.of_sweep: ({"recipe": "demo", "space": [dimension]}, "sweep of demo: pruned.config.num_blocks"),
    }
    for name_of, (given, expected) in parameters.items():
        monkeypatch.setattr(run_names, "_parameters", lambda given=given: given)
        assert name_of() == expected
    monkeypatch.setattr(run_names, "_parameters", lambda: {"recipes": ["demo"] * 40})
    assert len(run_names.of_night()) == run_names.MAX_CHARS


def test_the_form_as_json_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_names, "_parameters", lambda: {"form": {"name": "small", "model": "random:llama"}})
    assert run_names.of_form() == "small: llama"
