"""What a registered version says of itself, gathered once. How it was made, from what data, with what figures and verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.lineage import Ancestor, in_order


@dataclass(frozen=True)
class DataUse:
    """A data set behind the version, and what it was used for."""

    dataset: Ancestor
    uses: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Release:
    """One version: its lineage read once, and each form's facts, figures and checks."""

    name: str
    model: Ancestor
    # the model and all that it was made from, each once, whatever is used before its user
    ancestors: tuple[Ancestor, ...]
    # the models that were brought in
    bases: tuple[Ancestor, ...]
    data: tuple[DataUse, ...]
    # folder in the version -> facts of what lies there
    forms: Mapping[str, Facts]
    # the same names and `original` -> measure -> value
    figures: Mapping[str, Mapping[str, float]]
    checks: Sequence[Mapping[str, Any]]
    # score of the removed window under each metric that scored it
    scan: Mapping[str, float] = field(default_factory=dict)
    # what reads the Hugging Face folder: versions of transformers
    readers: str = "transformers"

    @staticmethod
    def of(
        name: str,
        model: Ancestor,
        evaluation: Ancestor,
        *,
        forms: Mapping[str, Facts],
        figures: Mapping[str, Mapping[str, float]],
        checks: Sequence[Mapping[str, Any]],
        readers: str = "transformers",
        scores: Callable[[Sequence[Ancestor]], Mapping[str, float]] = lambda ancestors: {},
    ) -> Release:
        """Return the release of a model and its evaluation by their lineages. `scores` reads those of the scans among the ancestors."""
        ancestors = tuple(in_order(model))
        return Release(
            name=name,
            model=model,
            ancestors=ancestors,
            bases=tuple(ancestor for ancestor in ancestors if ancestor.stage == "ingest_model"),
            data=_data_uses(model, evaluation),
            forms=forms,
            figures=figures,
            checks=checks,
            scan=scores(ancestors),
            readers=readers,
        )

    @property
    def license(self) -> str:
        """Licence of the base model; `unknown` where its source does not say."""
        return str(next((base.facts["license"] for base in self.bases if "license" in base.facts), "unknown"))


def _data_uses(model: Ancestor, evaluation: Ancestor) -> tuple[DataUse, ...]:
    learned = _data_sources(model, without=("tasks",))
    apart = {key: dataset for key, dataset in _data_sources(model).items() if key not in learned}
    measured = _data_sources(evaluation, without=("model", "original"))
    roles = (("made with", learned), ("kept apart from what it was made with", apart), ("measured on", measured))
    return tuple(
        DataUse(dataset, tuple(use for use, datasets in roles if key in datasets))
        for key, dataset in (learned | apart | measured).items()
    )


def _data_sources(lineage: Ancestor, without: Sequence[str] = ()) -> dict[str, Ancestor]:
    """Return the data sets behind an artifact by key. `without`: inputs not to follow, as curate's tasks."""
    if lineage.stage in ("ingest_data", "ingest_images"):
        return {lineage.key: lineage}
    sources: dict[str, Ancestor] = {}
    for ancestor in lineage.inputs:
        if ancestor.via not in without:
            sources |= _data_sources(ancestor, without)
    return sources
