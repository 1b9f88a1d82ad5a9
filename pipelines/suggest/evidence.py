"""What past runs of this home measured. A case a model, with how it was made and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attar.registry.artifacts.handles import Artifact
from attar.registry.artifacts.manifest import CorruptArtifactError
from attar.registry.artifacts.store import Store
from attar.registry.tracking.run_record import NodeRecord, RunRecord

DONE = ("Completed", "Cached")
# Settings that say where or how fast, not what: they make no model another.
UNHEEDED = ("seed", "batch_size", "source", "sha256", "expect", "precision", "name", "source_revision")


@dataclass(frozen=True)
class Case:
    """A measured model: the nodes of its run that made it, their settings by `node.config.path`, and its figures."""

    run: str
    recipe: str
    model: str
    settings: Mapping[str, Any]
    stages: Mapping[str, str]
    figures: Mapping[str, float] = field(default_factory=dict)


def cases_of(records: Sequence[RunRecord], store: Store) -> list[Case]:
    """Return each measured model of the runs once, the newest measurement of it."""
    cases: dict[str, Case] = {}
    for record in records:
        originals = _originals(record, store)
        for node in record.nodes.values():
            if node.stage == "evaluate" and node.state in DONE and node.inputs.get("model"):
                name = node.inputs["model"][0]
                made = record.nodes[name]
                if made.stage != "ingest_model" and made.key:
                    case = _case(record, name, node, originals, store)
                    if case is not None:
                        cases[made.fingerprint or made.key] = case
    return list(cases.values())


def _case(
    record: RunRecord, name: str, node: NodeRecord, originals: Sequence[Mapping[str, Any]], store: Store
) -> Case | None:
    facts = _facts(node, store)
    if facts is None:
        return None
    upstream = _upstream(record, name)
    settings = {
        f"{other}.config.{path}": value
        for other in upstream
        for path, value in _flat(record.nodes[other].config)
        if path.rpartition(".")[2] not in UNHEEDED and record.nodes[other].stage != "ingest_data"
    }
    figures = {"bytes": facts.get("disk_bytes"), "seconds": facts.get("decode_seconds_per_token")}
    for original in originals[:1]:
        for figure, fact in (("retention", "accuracy"), ("perplexity", "perplexity")):
            if facts.get(fact) is not None and original.get(fact):
                figures[figure] = float(facts[fact]) / float(original[fact])
    figures["kl"] = _kl(record, name, store)
    figures["minutes"] = _minutes(record, upstream, store)
    known = {figure: float(value) for figure, value in figures.items() if value is not None and math.isfinite(value)}
    stages = {other: record.nodes[other].stage for other in upstream}
    return Case(record.id, record.recipe, name, settings, stages, known)


def _originals(record: RunRecord, store: Store) -> list[Mapping[str, Any]]:
    """Return the figures of the models that were brought in, as far as they were evaluated."""
    nodes = [
        node
        for node in record.nodes.values()
        if node.stage == "evaluate"
        and node.state in DONE
        and record.nodes[node.inputs["model"][0]].stage == "ingest_model"
    ]
    return [facts for node in nodes if (facts := _facts(node, store)) is not None]


def _facts(node: NodeRecord, store: Store) -> Mapping[str, Any] | None:
    artifact = _stored(node, store)
    return None if artifact is None else dict(artifact.facts)


def _stored(node: NodeRecord, store: Store) -> Artifact | None:
    try:
        return store.load(node.stage, node.key) if node.key else None
    except (CorruptArtifactError, OSError):
        return None


def _kl(record: RunRecord, name: str, store: Store) -> float | None:
    """Return the mean KL of a model over the texts of a comparison in its run."""
    for node in record.nodes.values():
        if node.stage == "compare" and node.state in DONE and node.inputs.get("model") == [name]:
            values = [
                float(value)
                for fact, value in (_facts(node, store) or {}).items()
                if fact.startswith("kl_nats_") and not fact.endswith(("_low", "_high"))
            ]
            if values:
                return sum(values) / len(values)
    return None


def _minutes(record: RunRecord, upstream: Sequence[str], store: Store) -> float | None:
    """Return how long a model and all that it is made from took to build, whenever that was."""
    seconds = 0.0
    for other in upstream:
        artifact = _stored(record.nodes[other], store)
        if artifact is None:
            return None
        seconds += float(store.manifest(artifact).get("build_seconds", 0.0))
    return seconds / 60


def _upstream(record: RunRecord, name: str) -> list[str]:
    """Return a node and all that it needs."""
    seen, pending = [], [name]
    while pending:
        current = pending.pop(0)
        if current not in seen:
            seen.append(current)
            pending += [other for names in record.nodes[current].inputs.values() for other in names]
    return seen


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values of a config by path; lists as text, but for numbers and texts nothing else."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            yield f"{prefix}{name}", value
        elif isinstance(value, list) and value:
            yield f"{prefix}{name}", ",".join(map(str, value))
