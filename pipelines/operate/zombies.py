"""The automation that closes runs whose process is gone: without it a run whose worker was killed with it stays Running for ever.

Every run of Attar sends heartbeats (PREFECT_FLOWS_HEARTBEAT_FREQUENCY, set by `configure_prefect`) and carries the tag `attar`: other
people's runs on the same server may beat more seldom. After one beat, another event of the run is expected within the time; whichever:
states carry names of their own (Cached, Suspended), and a list of them would turn a finished run into a crashed one.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

from pipelines.pool_run import RUN_TAG

NAME = "attar: close runs whose process is gone"
# Four heartbeats: a machine under load is late by one or two.
SILENCE_SECONDS = 120
MESSAGE = "no sign of life for two minutes: its process, its worker or its machine was killed. Retry goes on from what is stored"
EVERY_EVENT = "prefect.flow-run.*"


def close_zombies(client: SyncPrefectClient, silence_seconds: int = SILENCE_SECONDS) -> None:
    """Create the automation, or bring the one that is there to what is said here."""
    automation = AutomationCore(
        name=NAME,
        description="A run that has sent heartbeats and falls silent is Crashed.",
        enabled=True,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={EVERY_EVENT},
            match={"prefect.resource.id": EVERY_EVENT},  # type: ignore[arg-type]
            match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{RUN_TAG}"},  # type: ignore[arg-type]
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_seconds),
        ),
        actions=[ChangeFlowRunState(name=None, state=StateType.CRASHED, message=MESSAGE, force=False)],
    )
    found = client.read_automations_by_name(NAME)
    for one in found[1:]:
        client.delete_automation(one.id)
    if found:
        client.update_automation(found[0].id, automation)
    else:
        client.create_automation(automation)
