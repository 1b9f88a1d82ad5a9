"""What a run would do: which nodes are in the store, and what the others will cost. Also where impossible combinations are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from attar.pipelines.recipe.mistakes import Mistakes, RecipeError, shown
from attar.pipelines.recipe.node import Node
from attar.pipelines.recipe.whole import Recipe
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.files import free_bytes
from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.rates import forecast_seconds
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.size_forecast import flops_of_token
from attar.stages.contract import Forecast

State = Literal["hit", "miss", "waiting", "forced"]


@dataclass(frozen=True)
class PlannedNode:
    """One node of a plan. `waiting`: whether it is stored is known only once the nodes before it have run."""

    node: Node
    state: State
    key: str
    forecast: Forecast
    stored_facts: Facts = field(default_factory=dict)
    # what it would take on this machine; None: nothing of its kind and size was measured here; 0: it is stored
    seconds: float | None = None

    @property
    def facts(self) -> Facts:
        """What is known of the node's result: from its artifact where it is stored, else forecast."""
        return self.stored_facts or self.forecast.facts

    @property
    def flops_per_token(self) -> float:
        """FLOPs to decode one token with the model that the node makes or measures. 0: it does not, or it is not known."""
        counted = self.forecast.facts.get("flops_per_token")
        return float(counted) if counted else flops_of_token(self.forecast.facts)

    def as_dict(self) -> dict[str, Any]:
        """Return the planned node as plain JSON values."""
        return {
            "node": self.node.name,
            "stage": self.node.stage.name,
            "shards": self.node.shards,
            "state": self.state,
            "key": self.key,
            "num_flops": self.forecast.num_flops,
            "flops_per_token": self.flops_per_token,
            "peak_memory_bytes": self.forecast.peak_memory_bytes,
            "disk_bytes": self.forecast.disk_bytes,
            "seconds": self.seconds,
            "facts": self.forecast.facts,
        }


def make_plan(recipe: Recipe, store: Store, forced: frozenset[str] | set[str] = frozenset()) -> list[PlannedNode]:
    """Return the nodes in order with their state and forecast. Raises RecipeError with all that stages refuse of what they will be given.

    Facts come from stored artifacts where there are some, else from the forecasts of the nodes before.
    """
    artifacts: dict[str, Artifact] = {}
    facts: dict[str, Facts] = {}
    planned, mistakes = [], Mistakes()
    for node in recipe.nodes.values():
        if not node.upstream <= facts.keys():
            continue  # what it will be given is refused already
        inputs = {slot: tuple(facts[name] for name in names) for slot, names in node.inputs.items()}
        with mistakes.noted(f"node {shown(node.name)}: "):
            forecast = _forecast(node, inputs)
            state, key = _state(node, store, artifacts, forced)
            if state != "hit" and node.upstream <= artifacts.keys():
                with _as_refusals(node):
                    node.stage.check(node.config, stage_inputs(node, artifacts))
            if state == "hit":
                artifacts[node.name] = store.load(node.stage.name, key)
            stored = artifacts[node.name].facts if node.name in artifacts else {}
            planned.append(PlannedNode(node, state, key, forecast, stored))
            facts[node.name] = planned[-1].facts
    mistakes.refuse()
    return planned


def _forecast(node: Node, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    with _as_refusals(node):
        if node.shards > 1 and node.stage.sharding is not None:
            node.stage.sharding.check(node.shards, node.config, inputs)
        return node.stage.forecast(node.config, inputs)


@contextmanager
def _as_refusals(node: Node) -> Iterator[None]:
    """Raise RecipeError for what a node's stage refuses, `config.` before a line that begins with one of its fields."""
    try:
        yield
    except ValueError as error:
        first_word = re.split(r"\W", str(error), maxsplit=1)[0]
        where = ", config." if first_word in node.stage.config_type.model_fields else ": "
        raise RecipeError(f"node {shown(node.name)}{where}{error}") from error


def with_seconds(plan: Iterable[PlannedNode], home: Path) -> list[PlannedNode]:
    """Return the plan with each node's time. It is known where this machine has done work of its kind and size before."""
    nodes = list(plan)
    works = [(node.node.stage.name, node.forecast.num_flops, node.forecast.disk_bytes) for node in nodes]
    times = forecast_seconds(home, works)
    return [
        replace(node, seconds=0.0 if node.state == "hit" else seconds)
        for node, seconds in zip(nodes, times, strict=True)
    ]


def lack_of_disk(plan: Iterable[PlannedNode], home: Path) -> str:
    """Return one line where the plan takes more of the disk than is free; else nothing. As far as its sizes are known."""
    num_bytes = sum(planned.forecast.disk_bytes for planned in plan if planned.state != "hit")
    free = free_bytes(home)
    if num_bytes <= free:
        return ""
    needed = f"what is to be built takes at least {num_bytes / 1e9:,.1f} GB"
    return f"{needed}, {free / 1e9:,.1f} GB are free under {home}: attar gc, or ATTAR_HOME on a larger disk"


def stage_inputs(node: Node, artifacts: Mapping[str, Artifact]) -> Any:
    """Return the inputs object of a node's stage, filled with the artifacts of the nodes that feed it."""
    values: dict[str, Any] = {}
    for slot_name, names in node.inputs.items():
        chosen = tuple(artifacts[name] for name in names)
        values[slot_name] = chosen if node.stage.slots[slot_name].is_many else chosen[0]
    return node.stage.input_type(**values)


def _state(node: Node, store: Store, artifacts: Mapping[str, Artifact], forced: Any) -> tuple[State, str]:
    if node.name in forced:
        return "forced", ""
    if not node.upstream <= artifacts.keys():
        return "waiting", ""
    key = node.stage.key(node.config, stage_inputs(node, artifacts))
    return ("hit" if store.holds(node.stage.name, key) else "miss"), key
