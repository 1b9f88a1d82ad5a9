"""What a run would reuse and build, and what that costs, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.entries import as_recipe
from attar.one_line import told_in_one_line
from attar.pipelines.cli.cautions import cautions
from attar.pipelines.cli.forecast_table import plan_rows, plan_total
from attar.pipelines.recipe.notebook_table import html_table, text_table
from attar.pipelines.recipe.plan import PlannedNode, lack_of_disk, make_plan, with_seconds
from attar.pipelines.recipe.whole import Recipe
from attar.registry.artifacts.environment import attar_home
from attar.registry.artifacts.store import Store


@dataclass(frozen=True, repr=False)
class Plan:
    """The nodes of a recipe in order, each with its state and forecast; `warnings` are lines for its author."""

    recipe: Recipe
    nodes: tuple[PlannedNode, ...]
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> list[dict[str, Any]]:
        """Return the nodes as plain JSON values, as `attar plan --json` prints them."""
        return [planned.as_dict() for planned in self.nodes]

    def __repr__(self) -> str:
        return text_table(plan_rows(self.nodes), self._caption, self._note)

    def _repr_html_(self) -> str:
        return html_table(plan_rows(self.nodes), self._caption, self._note)

    @property
    def _caption(self) -> str:
        return f"Plan of {self.recipe.name}"

    @property
    def _note(self) -> str:
        return " ".join([plan_total(self.nodes), *self.warnings])


@told_in_one_line
def plan(
    recipe: Recipe | str | Path,
    *,
    overrides: Sequence[str] = (),
    until: str = "",
    from_node: str = "",
    store: Store | None = None,
) -> Plan:
    """Return what a run would reuse and build, and what it would cost. Runs nothing.

    `until`: only this node and what it needs. `from_node`: this node and all after it would be built again.
    Raises RecipeError with a line for each mistake.
    """
    store = store or Store(attar_home())
    checked = as_recipe(recipe, overrides)
    checked = checked.until(until) if until else checked
    forced = checked.downstream(from_node) if from_node else set()
    nodes = with_seconds(make_plan(checked, store, forced), store.root)
    lack = lack_of_disk(nodes, store.root)
    return Plan(checked, tuple(nodes), (*cautions(nodes), *([lack] if lack else [])))
