"""What `ingest_model` is told of a model with a head over classes: of texts, of pairs of texts, of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from attar.compressors.data.spans import OUTSIDE, kind_of, tags_for, wrong_tags
from attar.registry.artifacts.handles import Artifact, ClassifierArtifact, TaggerArtifact
from attar.stages.artifacts.classifier.class_form import (
    PAIR_FORM,
    TEXT_HEAD,
    WORD_HEAD,
    ClassForm,
    Head,
    wrong_names,
)
from attar.stages.contract import StageConfig


class ClassifierModel(StageConfig):
    """A model that puts a text into one of several classes."""

    kind: Literal["classifier"]
    """A model that puts a text into one of several classes."""

    labels: list[str] = []
    """Names of the classes in the order of the logits; empty: as config.json names them. An encoder without a head over classes gets a
    fresh one of these."""

    num_subclasses: int = Field(default=1, ge=1, le=64)
    """Of a fresh head: its outputs a class, which are summed. Above 1 for a student of a teacher whose classes are split."""

    seed: int = Field(default=0, ge=0)
    """Of a fresh head: what its weights are drawn with."""

    max_tokens: int = Field(default=0, ge=0)
    """Where texts are cut, special tokens included; 0: as the tokenizer says, without that at the last position that the model has."""

    artifact: ClassVar[type[Artifact[Any]]] = ClassifierArtifact
    head: ClassVar[Head] = TEXT_HEAD

    @field_validator("labels")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        return _refused(value, value)

    @property
    def given(self) -> tuple[str, ...]:
        """The names that it gives."""
        return tuple(self.labels)

    @property
    def fresh_form(self) -> ClassForm | None:
        """The classes of a fresh head; None where none are named."""
        return ClassForm(labels=self.given, num_subclasses=self.num_subclasses) if self.labels else None


class PairScorerModel(StageConfig):
    """A model that reads two texts at once and says how alike they are: a cross-encoder."""

    kind: Literal["pair_scorer"]
    """A model that reads two texts at once and says how alike they are, by one logit; an encoder gets a fresh head of one output."""

    seed: int = Field(default=0, ge=0)
    """Of a fresh head: what its weights are drawn with."""

    max_tokens: int = Field(default=0, ge=0)
    """Where pairs are cut, both texts and special tokens together; 0: as the tokenizer says, without that at the last position."""

    artifact: ClassVar[type[Artifact[Any]]] = ClassifierArtifact
    head: ClassVar[Head] = TEXT_HEAD
    given: ClassVar[tuple[str, ...]] = ()
    num_subclasses: ClassVar[int] = 1
    fresh_form: ClassVar[ClassForm | None] = PAIR_FORM


class TaggerModel(StageConfig):
    """A model that tags the words of a text, and so tells its spans."""

    kind: Literal["tagger"]
    """A model that tags the words of a text, and so tells its spans."""

    labels: list[str] = []
    """Kinds of spans, such as [Drug, Effect], whose tags are O, B-Drug, I-Drug and so on; or all tags in the order of the logits. Empty: as
    config.json names them. An encoder without a head over tags gets a fresh one of these."""

    seed: int = Field(default=0, ge=0)
    """Of a fresh head: what its weights are drawn with."""

    max_tokens: int = Field(default=0, ge=0)
    """Where texts are cut, special tokens included; 0: as the tokenizer says, without that at the last position that the model has."""

    artifact: ClassVar[type[Artifact[Any]]] = TaggerArtifact
    head: ClassVar[Head] = WORD_HEAD
    num_subclasses: ClassVar[int] = 1

    @field_validator("labels")
    @classmethod
    def _kinds_or_tags(cls, value: list[str]) -> list[str]:
        if OUTSIDE in value or any(map(kind_of, value)):
            for wrong in wrong_tags(value):
                raise ValueError(f"labels has {wrong}; or kinds of spans alone")
        return _refused(value, _tags(value))

    @property
    def given(self) -> tuple[str, ...]:
        """The tags that it gives."""
        return tuple(_tags(self.labels))

    @property
    def fresh_form(self) -> ClassForm | None:
        """The tags of a fresh head; None where none are named."""
        return ClassForm(labels=self.given, reads_words=True) if self.labels else None


HeadModel = ClassifierModel | PairScorerModel | TaggerModel
HEAD_KINDS = ("classifier", "pair_scorer", "tagger")


def _tags(labels: Sequence[str]) -> list[str]:
    return tags_for(labels) if labels and OUTSIDE not in labels else list(labels)


def _refused(value: list[str], names: Sequence[str]) -> list[str]:
    for wrong in wrong_names(names):
        raise ValueError(wrong)
    return value
