"""The automations that close runs whose process is gone. Without them a run whose worker was killed with it stays Running for ever.

Every run of Attar sends heartbeats (PREFECT_FLOWS_HEARTBEAT_FREQUENCY, set by `configure_prefect`) and carries the tag `attar`: other
people's runs on the same server may beat more seldom. After one beat, another event of the run is expected within the time; whichever:
states carry names of their own (Cached, Suspended), and a list of them would turn a finished run into a crashed one. Running counts as
a beat, since a process killed in its first second has sent none, and so does Cancelling, since the worker that should end it may be gone.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

from attar.pipelines.operate.prefect_home import RUN_TAG

# Four heartbeats: a machine under load is late by one or two.
SILENCE_SECONDS = 120
# A worker took the run and fell before its process was there. An image that takes longer to pull is there when the node is asked for again.
UNSTARTED_SECONDS = 300
EVERY_EVENT = "prefect.flow-run.*"


def close_zombies(client: SyncPrefectClient, silence_seconds: int = SILENCE_SECONDS) -> None:
    """Create the automations, or bring those that are there to what is said here."""
    ours = (
        _automation(
            "attar: close runs whose process is gone",
            ("heartbeat", "Running", "Cancelling"),
            silence_seconds,
            "no sign of life for two minutes: its process, its worker or its machine was killed. Retry goes on from what is stored",
        ),
        _automation(
            "attar: close runs that were taken and never started",
            ("Pending", "Submitting"),
            UNSTARTED_SECONDS,
            "not started within 5 minutes: the worker that took it was killed, or its container cannot start",
        ),
    )
    for automation in ours:
        automations = client.read_automations_by_name(automation.name)
        for duplicate_automation in automations[1:]:
            client.delete_automation(duplicate_automation.id)
        if automations:
            client.update_automation(automations[0].id, automation)
        else:
            client.create_automation(automation)


def _automation(name: str, after: tuple[str, ...], seconds: int, message: str) -> AutomationCore:
    return AutomationCore(
        name=name,
        description="A run of Attar that falls silent is Crashed.",
        enabled=True,
        trigger=EventTrigger(
            after={f"prefect.flow-run.{event}" for event in after},
            expect={EVERY_EVENT},
            match={"prefect.resource.id": EVERY_EVENT},  # type: ignore[arg-type]
            match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{RUN_TAG}"},  # type: ignore[arg-type]
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[ChangeFlowRunState(name=None, state=StateType.CRASHED, message=message, force=False)],
    )
