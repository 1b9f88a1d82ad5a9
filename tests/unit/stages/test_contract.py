"""The contract: what a signature says is what a stage takes, and what identifies its work."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, get_args

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attar.registry.artifacts.handles import AdapterArtifact, AnyModel, EncoderArtifact, ModelArtifact, ScanArtifact
from attar.stages.catalogue import STAGES
from attar.stages.contract import NoInputs, StageConfig
from attar.stages.merge.stage import merge
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.runtime.described import DescribedModel
from attar.stages.scan.stage import scan


def test_slots_come_from_the_signature() -> None:
    slots = prune.slots
    assert slots["model"].kinds == get_args(AnyModel) and slots["model"].is_required
    assert slots["scan"].kinds == (ScanArtifact,) and not slots["scan"].is_required
    assert merge.slots["students"].is_many and merge.slots["students"].kinds == (AdapterArtifact, ModelArtifact)
    assert prune.output_types == get_args(AnyModel)
    assert prune.makes == "model or encoder or classifier or tagger or image_classifier"
    assert prune.follows == "model" and prune.output_type(PruneConfig(blocks=[1]), EncoderArtifact) is EncoderArtifact
    assert scan.output_types == (ScanArtifact,) and scan.makes == "scan"


def test_key_follows_config_and_content_but_not_place() -> None:
    def key(config: PruneConfig, fingerprint: str, path: str = "/a") -> str:
        return prune.key(config, PruneInputs(model=ModelArtifact(Path(path), fingerprint=fingerprint)))

    base = key(PruneConfig(blocks=[1]), "f1")
    assert key(PruneConfig(blocks=[1]), "f1", "/elsewhere") == base
    assert key(PruneConfig(blocks=[2]), "f1") != base
    assert key(PruneConfig(blocks=[1]), "f2") != base


@pytest.mark.parametrize("name", STAGES)
def test_every_config_is_frozen_closed_and_described(name: str) -> None:
    config_type = STAGES[name].config_type
    assert issubclass(config_type, StageConfig)
    assert config_type.model_config["frozen"] and config_type.model_config["extra"] == "forbid"
    undescribed = [field for field, info in config_type.model_fields.items() if not info.description]
    assert not undescribed
    with pytest.raises(ValidationError, match="extra_forbidden"):
        config_type.model_validate({"no_such_field": 1})


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_says_what_it_does(name: str) -> None:
    assert STAGES[name].summary.endswith(".")
    assert STAGES[name].input_type is NoInputs or STAGES[name].slots


class Ours(DescribedModel):
    known: ClassVar[int] = 0
    """No field."""

    plain: int = 0
    """Of one line."""

    ranged: float = Field(default=1.0, ge=0.0)
    """Of
    two lines."""

    silent: int = 0

    named: int = Field(default=0, description="in the field")

    class Inner(DescribedModel):
        plain: int = 0
        """Of an inner class."""

    inner: Inner = Inner()


class OfPydantic(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True, extra="forbid", title="Ours")

    plain: int = 0
    """Of one line."""

    ranged: float = Field(default=1.0, ge=0.0)
    """Of
    two lines."""

    silent: int = 0

    named: int = Field(default=0, description="in the field")


def test_fields_are_described_as_pydantic_does_it() -> None:
    class Local(Ours):
        plain: int = 1
        """Of a class within a function."""

    made, expected = Ours.model_json_schema(), OfPydantic.model_json_schema()
    assert made["$defs"]["Inner"]["properties"]["plain"]["description"] == "Of an inner class."
    assert {name: made["properties"][name] for name in expected["properties"]} == expected["properties"]
    assert Local.model_fields["plain"].description == "Of a class within a function."
    assert Local.model_fields["ranged"].description == Ours.model_fields["ranged"].description == "Of\ntwo lines."
    assert Ours(plain=3).inner == Ours.Inner() and Local().plain == 1
