"""A registered version with its numbers and its origin, and two of them side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow import MlflowClient

from attar.registry.artifacts.environment import attar_home
from attar.registry.artifacts.lineage import Ancestor, trace
from attar.registry.artifacts.store import Store
from attar.registry.release.alias_lock import patiently
from attar.registry.release.figures import MEASURED, is_figure
from attar.registry.release.model_registry import artifact_keys
from attar.registry.release.reference import NoSuchVersionError, resolve
from attar.registry.tracking.mlflow_home import open_client

# Numbers of the model itself; the ONNX graph's are `onnx/...`
MODEL = "model/"
# Which share of quality, size and speed a version is judged by, and whether lower is better.
QUALITY = (("accuracy", False), ("perplexity", True))


@dataclass(frozen=True)
class Version:
    """One version of a registered model. `metrics`: as measured when it was registered, `model/accuracy` and so on."""

    name: str
    number: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"

    @property
    def keys(self) -> dict[str, str]:
        """Key in the store of each form, `model` the first of them, and of what was measured, such as `evaluation`."""
        return artifact_keys(self.tags)

    @property
    def forms(self) -> list[str]:
        """The forms that it has, by name."""
        return sorted(name for name in self.keys if name not in MEASURED)

    @property
    def has_passed_gate(self) -> bool:
        """Whether the gate of its recipe let it through."""
        return self.tags.get("validation_status") == "passed"


def read_version(spec: str) -> Version:
    """Return the version that `NAME` (its champion), `NAME@ALIAS` or `NAME/VERSION` names.

    Raises NoSuchVersionError when there is none, ValueError when the registry does not say.
    """
    return patiently(lambda: _read(spec))


def _read(spec: str) -> Version:
    client = open_client(attar_home())
    return _version(client, resolve(client, spec))


def find_version(name: str, alias: str) -> Version | None:
    """Return the version that holds an alias, or None. A registry that does not answer is no None: a champion would be passed over."""
    try:
        return read_version(f"{name}@{alias}")
    except NoSuchVersionError:
        return None


def compare_versions(first: Version, second: Version) -> list[dict[str, Any]]:
    """Return rows of {what, first, second, ratio}: numbers with second / first, then the settings and inputs that differ."""
    rows = [_row("version", f"{first.number} {_marks(first)}".strip(), f"{second.number} {_marks(second)}".strip())]
    for metric in sorted(first.metrics.keys() | second.metrics.keys()):
        before, after = first.metrics.get(metric), second.metrics.get(metric)
        rows.append(
            _row(metric, before, after, after / before if before and after is not None and is_figure(metric) else None)
        )
    for tag in sorted(first.tags.keys() | second.tags.keys()):
        if first.tags.get(tag) != second.tags.get(tag):
            rows.append(_row(tag, first.tags.get(tag), second.tags.get(tag)))
    before_made, after_made = (dict(_settings(version)) for version in (first, second))
    for setting in sorted(before_made.keys() | after_made.keys()):
        if before_made.get(setting) != after_made.get(setting):
            rows.append(_row(setting, before_made.get(setting), after_made.get(setting)))
    return rows


def origin(store: Store, model_key: str) -> dict[str, str]:
    """Return what a stored model was made from. The sources of its base model and of its data, as they stand in the recipe."""
    sources: dict[str, set[str]] = {"parent": set(), "data": set()}
    for _, ancestor in _ancestors(_lineage(store, model_key)):
        if ancestor.stage in ("ingest_model", "ingest_data"):
            kind = "parent" if ancestor.stage == "ingest_model" else "data"
            sources[kind].add(f"{ancestor.config.get('source', '?')} ({ancestor.fingerprint[:12]})")
    return {kind: ", ".join(sorted(source)) for kind, source in sources.items() if source}


def _version(client: MlflowClient, version: Any) -> Version:
    model = client.get_logged_model(str(version.source).removeprefix("models:/"))
    # the figures that the version's page has no room for
    tags = {**(model.tags or {}), **version.tags}
    metrics = {metric.key: float(metric.value) for metric in model.metrics or ()}
    aliases = client.get_registered_model(version.name).aliases
    held = tuple(sorted(alias for alias, number in aliases.items() if str(number) == str(version.version)))
    return Version(version.name, str(version.version), held, tags, metrics)


def _settings(version: Version) -> Iterator[tuple[str, str]]:
    """Yield every setting of every stage behind a version, as far as this machine's store still knows them."""
    store = Store(attar_home())
    for path, ancestor in _ancestors(_lineage(store, version.tags.get("attar.model_key", ""))):
        for name, value in ancestor.config.items():
            yield f"{path}.{name}", json.dumps(value, sort_keys=True)


def _lineage(store: Store, key: str) -> Ancestor | None:
    for artifact in store.artifacts():
        if artifact.key == key:
            return trace(store, artifact)
    return None


def _ancestors(top: Ancestor | None) -> Iterator[tuple[str, Ancestor]]:
    """Yield each ancestor once, with a name that tells two of one stage apart by the way to them."""
    seen: set[str] = set()
    pending = [(top.stage, top)] if top is not None else []
    while pending:
        path, ancestor = pending.pop(0)
        if ancestor.key in seen:
            continue
        seen.add(ancestor.key)
        yield path, ancestor
        for index, parent in enumerate(ancestor.inputs):
            is_several = sum(other.via == parent.via for other in ancestor.inputs) > 1
            pending.append((f"{path} < {parent.stage}{f' {index}' if is_several else ''}", parent))


def _marks(version: Version) -> str:
    return " ".join(f"@{alias}" for alias in version.aliases)


def _row(what: str, first: Any, second: Any, ratio: float | None = None) -> dict[str, Any]:
    return {"what": what, "first": first, "second": second, "ratio": ratio}
