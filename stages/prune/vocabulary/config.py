"""What `trim_vocabulary` is told: how many tokens stay, and which besides those that a corpus needs."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, field_validator

from attar.compressors.catalogue import did_you_mean
from attar.compressors.prune.vocabulary.scripts import SCRIPTS
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.stages.contract import StageConfig


class TrimVocabularyConfig(StageConfig):
    """Which tokens stay. What the corpus, the chat template, all bytes, special and added tokens need, and what is asked for here."""

    num_tokens: int | None = Field(default=None, ge=1)
    """Tokens that the result has, exactly: what must stay, the corpus's most frequent, keep_scripts, then the tokenizer's first ones.
    None: what must stay, what the corpus uses, keep_scripts."""

    min_count: int = Field(default=1, ge=1)
    """How often the corpus must use a token for it to count as used."""

    keep_scripts: tuple[str, ...] = ()
    """Scripts of which every token stays, such as Latin or Cyrillic, used or not."""

    @field_validator("keep_scripts")
    @classmethod
    def _known_scripts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in SCRIPTS:
                raise ValueError(f"keep_scripts: unknown script {name!r}.{did_you_mean(name, SCRIPTS)}")
        return value


@dataclass(frozen=True, kw_only=True)
class TrimVocabularyInputs:
    """The model, and rows and texts of the kind that it is for. Rows that are held out choose no token: the result is measured on them."""

    model: ModelArtifact
    data: tuple[DatasetArtifact, ...]
