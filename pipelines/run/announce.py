"""Events that an automation of Prefect can wait for: `attar.model.registered`, `attar.nightly.failed` and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event

EVENTS = {
    "model.registered": "a run has registered a new version",
    "model.promoted": "a version became champion by decision",
    "model.rejected": "a person decided against a version",
    "model.refused": "a version was worse than the champion, or had failed its gate, and was not put to a person",
    "model.rolled_back": "the former champion is champion again",
    "nightly.candidate": "a nightly run has a new candidate that is no worse than the champion",
    "nightly.worse": "a nightly run's candidate is worse than the champion",
    "nightly.failed": "a nightly run failed",
    "nightly.unchanged": "neither recipe, nor base model, nor data have changed: nothing was run",
}


def announce(what: str, subject: str, payload: Mapping[str, Any]) -> None:
    """Emit `attar.WHAT` about `attar.SUBJECT`, a registered model or a recipe. The payload is what a notification can print."""
    assert what in EVENTS, f"{what} is not listed"
    kind = what.partition(".")[0]
    emit_event(
        event=f"attar.{what}",
        resource={"prefect.resource.id": f"attar.{kind}.{subject}", "prefect.resource.name": subject},
        payload=dict(payload),
    )
