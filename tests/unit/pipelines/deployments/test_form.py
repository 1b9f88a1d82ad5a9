"""The form of `compress`: every default works, every bound and every rule across fields is in the schema that the server checks."""

from __future__ import annotations

import json
import typing
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from pydantic import ValidationError

from attar.compressors.prune.depth.metrics import BLOCK_METRICS
from attar.pipelines.deployments.compress import compress
from attar.pipelines.deployments.form import RULES, CompressForm
from attar.pipelines.deployments.form_recipe import recipe_of
from attar.pipelines.recipe.whole import RecipeError
from attar.stages.ingest.source_line import PATTERNS

BASE = {"model": "random:llama?num_blocks=4", "questions": "reasoning_gym:chain_sum", "num_rows": 12}


def refusals(form: dict[str, Any]) -> list[str]:
    """What Prefect's server would say to these parameters."""
    schema = parameter_schema(compress).model_dump_for_openapi()
    return [error.message for error in validate({"form": form}, schema)]


def test_the_empty_form_is_a_whole_recipe() -> None:
    assert refusals({}) == []
    stages = [node.stage.name for node in recipe_of(CompressForm()).nodes.values()]
    assert {"scan", "prune", "self_data", "finetune", "merge", "export", "evaluate", "register"} <= set(stages)


def test_every_field_explains_itself_and_has_its_place() -> None:
    fields = CompressForm.model_json_schema()["properties"]
    assert [fields[name]["position"] for name in fields] == list(range(len(fields)))
    for name, entry in fields.items():
        assert entry["title"] and entry["description"].endswith("."), name
        assert "default" in entry, f"{name} would have to be filled in"
        assert "anyOf" not in entry and "oneOf" not in entry, f"{name}: a union makes the form jump"
        if entry.get("type") in ("integer", "number"):
            assert "maximum" in entry and {"minimum", "exclusiveMinimum"} & entry.keys(), f"{name} has no bounds"


def test_the_choices_are_those_of_the_catalogues() -> None:
    assert set(typing.get_args(CompressForm.model_fields["block_metric"].annotation)) == set(BLOCK_METRICS)
    pattern = CompressForm.model_json_schema()["properties"]["model"]["pattern"]
    assert all(f"{scheme}:" in pattern for scheme in PATTERNS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_blocks": 999}, "999 is greater than the maximum of 128"),
        ({"num_blocks": -1}, "less than the minimum of 0"),
        ({"learning_rate": 0}, "0 is less than or equal to the minimum of 0"),
        ({"shrink": "depth"}, "'depth' is not one of ['blocks', 'width', 'nothing']"),
        ({"model": "/etc/passwd"}, "does not match"),
        ({"name": "../up"}, "does not match"),
        ({"num_block": 3}, "'num_block' was unexpected"),
        ({"num_blocks": "six"}, "is not of type 'integer'"),
    ],
)
def test_a_breach_is_seen_by_the_server(wrong: dict[str, Any], message: str) -> None:
    assert message in "; ".join(refusals(wrong))
    with pytest.raises(ValidationError):
        CompressForm.model_validate(wrong)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule[2].partition(":")[0])
def test_schema_and_model_agree_on_every_rule(rule: Any) -> None:
    """Each rule is broken once with the field given and once with it left at its default; both sides must say the same."""
    when, then, why = rule
    [(name, schema)] = then.items()
    [(keyword, limit)] = schema.items()
    broken = {
        "minimum": limit - 1 if keyword == "minimum" else None,
        "exclusiveMaximum": limit,
        "const": "lora" if limit == "none" else not limit,
    }[keyword]
    for form in ({**when, name: broken}, when):
        message = complaint(form)
        assert bool(message) == bool(refusals(form)), form
        assert not message or any(reason in message for *_, reason in RULES)
    assert refusals({**when, name: broken}), why


def complaint(form: dict[str, Any]) -> str:
    """What the model itself says to a form, or nothing."""
    try:
        CompressForm.model_validate(form)
    except ValidationError as error:
        return str(error)
    return ""


def test_what_is_chosen_is_what_is_built() -> None:
    nodes = recipe_of(
        CompressForm(**BASE, shrink="width", width_fraction=0.5, heal="none", rewrite_data=False, export_onnx=False)
    ).nodes
    assert (
        nodes["smaller"].stage.name == "narrow"
        and json.loads(nodes["smaller"].config.model_dump_json())["size"]["ffn_fraction"] == 0.5
    )
    assert not {"student", "rewritten", "onnx"} & nodes.keys()
    assert nodes["release"].inputs["model"] == ("smaller",)
    nodes = recipe_of(
        CompressForm(**BASE, block_metric="patch_residual", num_blocks=2, patch=True, rewrite_data=False, heal="full")
    ).nodes
    assert nodes["block_scan"].config.model_dump()["sizes"] == [2] and nodes["smaller"].inputs["data"] == ("questions",)
    assert nodes["student"].config.model_dump()["adapt"]["kind"] == "full" and nodes["student"].inputs["data"] == (
        "questions",
    )
    assert nodes["release"].config.model_dump()["gate"].keys() == {
        "min_accuracy_retention",
        "max_perplexity_ratio",
        "max_size_ratio",
    }


def test_an_expert_reaches_every_field_and_a_typo_is_named() -> None:
    form = CompressForm(
        **BASE, overrides={"student.config.schedule.seed": 7, "block_scan.config.calibration.num_samples": 4}
    )
    assert recipe_of(form).nodes["student"].config.model_dump()["schedule"]["seed"] == 7
    with pytest.raises(RecipeError, match=r"node 'student', config.sed: unknown field. Did you mean 'schedule.seed'\?"):
        recipe_of(CompressForm(**BASE, overrides={"student.config.sed": 7}))
    with pytest.raises(RecipeError, match="the recipe has no node 'studnt'. Did you mean 'student'"):
        recipe_of(CompressForm(**BASE, overrides={"studnt.config.seed": 7}))
