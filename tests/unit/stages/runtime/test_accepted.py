"""A bound is told as what is accepted, in the words of every other refusal: field, value, accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from attar.pipelines.recipe.explain import explanations
from attar.stages.contract import StageConfig
from attar.stages.runtime.accepted import accepted


class Inner(BaseModel):
    """A config within."""


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (Annotated[int, Field(ge=1)], 0, "at least 1"),
        (Annotated[float, Field(gt=0.0)], 0.0, "above 0"),
        (Annotated[float, Field(lt=1.0)], 1.5, "below 1"),
        (Annotated[float, Field(le=0.25)], 2, "at most 0.25"),
        (Annotated[int, Field(multiple_of=4)], 3, "a multiple of 4"),
        (Annotated[str, Field(min_length=1)], "", "1 characters or more"),
        (Annotated[str, Field(max_length=2)], "abc", "2 characters at most"),
        (Annotated[str, Field(pattern="^[a-z]+$")], "A", "what matches ^[a-z]+$"),
        (Annotated[list[int], Field(min_length=1)], [], "1 entries or more"),
        (Annotated[list[int], Field(max_length=1)], [1, 2], "1 entries at most"),
        (Literal["a", "b"], "c", "'a' or 'b'"),
        (int, "many", "a whole number"),
        (int, 1.5, "a whole number"),
        (float, "x", "a number"),
        (Annotated[float, Field(allow_inf_nan=False)], float("nan"), "a finite number"),
        (bool, "perhaps", "true or false"),
        (str, 7, "text"),
        (list[int], 3, "a list"),
        (tuple[int, ...], 3, "a list"),
        (dict[str, int], 3, "a mapping"),
        (Path, 3, "a path"),
        (Inner, 3, "a mapping of fields"),
    ],
)
def test_each_complaint_says_what_is_accepted(kind: Any, value: Any, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(kind).validate_python(value)
    (complaint,) = refused.value.errors()
    assert accepted(complaint) == words


def test_a_sentence_of_our_own_stays() -> None:
    assert accepted({"type": "value_error", "msg": "Value error, shares are [0]; accepted: numbers above 0"}) == ""


def test_no_bound_of_a_stage_is_told_in_the_words_of_the_library() -> None:
    """Every field of every stage, given what no field takes and what is below most bounds."""
    from attar.stages.catalogue import STAGES

    num_told = 0
    for stage in STAGES.values():
        for name in stage.config_type.model_fields:
            for value in (-7, object()):
                given = {name: value}
                try:
                    stage.config_type.model_validate(given)
                except ValidationError as error:
                    lines = explanations(error, given, stage.config_type)
                    assert lines and not [line for line in lines if "Input should" in line or "should have" in line]
                    num_told += sum(f"config.{name} is " in line for line in lines)
    assert issubclass(stage.config_type, StageConfig) and num_told > 200
