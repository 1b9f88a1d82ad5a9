"""Where a sweep begins: at the values that past runs suggest under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.pipelines.deployments.search_space import Dimension
from attar.pipelines.suggest.budget import read_budget
from attar.pipelines.suggest.evidence import Case, cases_of
from attar.pipelines.suggest.planner import suggest
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import run_records


def suggested_values(
    home: Path, budget: str, recipe: str, space: Sequence[Dimension], search: str
) -> list[dict[str, Any]]:
    """Return what the first trials take. The best recipes under a budget, as far as their values lie in the space.

    Raises ValueError for a budget that means nothing, for too little evidence of this recipe, and for a grid, which has an order of its own.
    """
    limits = read_budget(budget)
    if search == "grid":
        raise ValueError("budget: a grid visits every combination; accepted with search bayesian")
    return starting_points(cases_of(run_records(home), Store(home)), limits, recipe, space)


def starting_points(
    cases: Sequence[Case], limits: Sequence[Any], recipe: str, space: Sequence[Dimension]
) -> list[dict[str, Any]]:
    """Return the suggestions among the cases of one recipe as values by field; none twice."""
    name = Path(recipe).name.removesuffix(".yaml")
    known = [case for case in cases if case.recipe in (recipe, name)]
    points: list[dict[str, Any]] = []
    for suggestion in suggest(known, limits):
        point = _values(suggestion.settings, space)
        if point is not None and point not in points:
            points.append(point)
    return points


def _values(settings: Mapping[str, Any], space: Sequence[Dimension]) -> dict[str, Any] | None:
    """Return the value of each field as the search draws it. None where one is unknown or outside the space."""
    values = {axis.field: axis.drawn(settings.get(axis.field)) for axis in space}
    return None if any(value is None for value in values.values()) else values
