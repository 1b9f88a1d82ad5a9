"""Recipes whose configs are in the flat form of earlier versions. Read for one version, with one line that shows the new form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from attar.pipelines.recipe.mistakes import one_line
from attar.stages.catalogue import STAGES
from attar.stages.runtime.older_fields import renewed

# Nodes that the line names, and how much of the new form it shows.
MAX_NAMES, MAX_SHOWN = 3, 300


def flat_fields(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, for each node with a config in the flat form, what the new form spells otherwise. Of a recipe's YAML content."""
    nodes = document.get("nodes")
    flat = {}
    for name, spec in nodes.items() if isinstance(nodes, dict) else ():
        if fields := _renewed(spec)[1]:
            flat[str(name)] = fields
    return flat


def renew_node(spec: Any) -> None:
    """Put a node's config into the form of today, in place, so that nested fields can be set in it."""
    content, flat = _renewed(spec)
    if flat:
        spec["config"] = content


def flat_caution(flat: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the one line that a recipe with flat configs is told; none for another."""
    if not flat:
        return []
    names = ", ".join(map(repr, list(flat)[:MAX_NAMES])) + (" and more" if len(flat) > MAX_NAMES else "")
    name, fields = next(iter(flat.items()))
    form = yaml.safe_dump(fields, default_flow_style=True, sort_keys=False, width=10**6).strip()
    shown = form if len(form) <= MAX_SHOWN else f"{form[:MAX_SHOWN]}..."
    return [
        one_line(
            f"config of {names} is in the flat form, which this version still reads and the next does not; now {name!r} says {shown}"
        )
    ]


def _renewed(spec: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    stage = STAGES.get(str(spec.get("stage"))) if isinstance(spec, dict) else None
    config = spec.get("config") if isinstance(spec, dict) else None
    return renewed(stage.config_type, config) if stage and isinstance(config, dict) else ({}, {})
