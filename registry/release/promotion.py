"""Judge a candidate against the champion and promote it or turn it down. Or go back to the former champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow.exceptions import MlflowException

from attar.registry.artifacts.environment import attar_home
from attar.registry.artifacts.store import Store
from attar.registry.release.alias_lock import moving_aliases, patiently
from attar.registry.release.figures import is_figure, with_interval
from attar.registry.release.model_registry import CHAMPION, PREVIOUS
from attar.registry.release.versions import MODEL, QUALITY, Version, find_version, origin, read_version
from attar.registry.tracking.mlflow_home import open_client

# Which version a champion took over from, so that going back twice goes back two.
REPLACES_TAG = "attar.replaces"


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate may be put to a person. `reasons`: why not; `rows`: its numbers beside the champion's."""

    candidate: Version
    champion: Version | None
    reasons: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]

    @property
    def is_worse(self) -> bool:
        """Whether there is any reason against it."""
        return bool(self.reasons)


def judge(candidate: Version, champion: Version | None, max_quality_loss: float) -> Verdict:
    """Return the verdict on a candidate: its own gate, then its quality beside the champion's.

    Quality is accuracy where both measured it (candidate / champion >= 1 - max_quality_loss), else perplexity
    (champion / candidate >= 1 - max_quality_loss). Size and speed are shown; they are for a person to weigh.
    """
    reasons = [] if candidate.has_passed_gate else [f"{candidate} has not passed the gate of its recipe"]
    if champion is not None and champion.number != candidate.number:
        reasons += _quality_reasons(candidate, champion, max_quality_loss)
    return Verdict(candidate, champion, tuple(reasons), tuple(_rows(candidate, champion)))


def make_champion(name: str, number: str, reason: str) -> Version | None:
    """Make a version champion and the former one previous; return the former. Doing it again changes nothing."""
    with moving_aliases(name):
        return _make_champion(name, number, reason)


def _make_champion(name: str, number: str, reason: str) -> Version | None:
    client = open_client(attar_home())
    former = find_version(name, CHAMPION)
    if former is not None and former.number == number:
        return find_version(name, PREVIOUS)
    if former is not None:
        replaced = former.number
        patiently(lambda: client.set_model_version_tag(name, number, REPLACES_TAG, replaced))
        patiently(lambda: client.set_registered_model_alias(name, PREVIOUS, replaced))
    patiently(lambda: client.set_registered_model_alias(name, CHAMPION, number))
    _note(name, number, "attar.decision", f"promoted: {reason}")
    return former


def turn_down(name: str, number: str, reason: str) -> None:
    """Write into a version that it was decided against. Its aliases stay as they are."""
    _note(name, number, "attar.decision", f"rejected: {reason}")


def roll_back(name: str, reason: str) -> tuple[Version, Version]:
    """Make the previous version champion again; return (what was champion, what is). Raises ValueError when there is no previous.

    `previous` then moves to the version that this one had replaced, or goes: going back twice never comes forward again.
    """
    with moving_aliases(name):
        return _roll_back(name, reason)


def _roll_back(name: str, reason: str) -> tuple[Version, Version]:
    client = open_client(attar_home())
    fallen, restored = find_version(name, CHAMPION), find_version(name, PREVIOUS)
    if fallen is None:
        raise ValueError(f"{name} has no champion: there is nothing to roll back")
    if restored is None:
        raise ValueError(f"{name} has no previous version: version {fallen.number} stays champion")
    number, before = restored.number, restored.tags.get(REPLACES_TAG, "")
    patiently(lambda: client.set_registered_model_alias(name, CHAMPION, number))
    if before:
        patiently(lambda: client.set_registered_model_alias(name, PREVIOUS, before))
    else:
        patiently(lambda: client.delete_registered_model_alias(name, PREVIOUS))
    _note(name, fallen.number, "attar.decision", f"rolled back: {reason}")
    return fallen, read_version(f"{name}@{CHAMPION}")


def link_version(name: str, number: str, links: Mapping[str, str], store: Store) -> None:
    """Tag a version with the run that made it, its base model and its data. Tags that are there stay."""
    client = open_client(attar_home())
    try:
        known = dict(client.get_model_version(name, number).tags)
    except MlflowException as error:
        raise ValueError(f"{name} version {number}: {error.message.splitlines()[0]}") from error
    made_from = {f"attar.{kind}": what for kind, what in origin(store, known.get("attar.model_key", "")).items()}
    for tag, value in {**links, **made_from}.items():
        if value and tag not in known:
            client.set_model_version_tag(name, number, tag, value)


def log_flips(candidate: Version, champion: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Put what a candidate answers otherwise than the champion as a table under the run that made it. Nothing where no run is known."""
    run_id = candidate.tags.get("attar.mlflow_run", "")
    if run_id and rows:
        client = open_client(attar_home())
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        file = f"flips_{candidate.number}_against_{champion}.json"
        patiently(lambda: client.log_table(run_id, columns, file))


def _quality_reasons(candidate: Version, champion: Version, max_loss: float) -> list[str]:
    for metric, is_lower_better in QUALITY:
        new, old = candidate.metrics.get(MODEL + metric), champion.metrics.get(MODEL + metric)
        if new is None or old is None:
            continue
        share = (old / new if new else 0.0) if is_lower_better else (new / old if old else 1.0)
        if not share >= 1.0 - max_loss:  # not a number is worse, too
            with_intervals, other = (
                with_interval(version.metrics, MODEL + metric) for version in (candidate, champion)
            )
            return [f"{metric} {with_intervals}, the champion (version {champion.number}) has {other}"]
        return []
    return [f"neither accuracy nor perplexity was measured for both {candidate} and version {champion.number}"]


def _rows(candidate: Version, champion: Version | None) -> list[dict[str, Any]]:
    rows = []
    champions = champion.metrics if champion else {}
    for metric in sorted(filter(is_figure, candidate.metrics)):
        value, other = candidate.metrics[metric], champions.get(metric)
        row = {"measure": metric, "candidate": with_interval(candidate.metrics, metric, 5)}
        row["champion"] = "" if other is None else with_interval(champions, metric, 5)
        rows.append({**row, "candidate / champion": f"{value / other:.3f}" if other else ""})
    return rows


def _note(name: str, number: str, tag: str, text: str) -> None:
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    client = open_client(attar_home())
    patiently(lambda: client.set_model_version_tag(name, number, tag, f"{stamp} {text}"[:5000]))
