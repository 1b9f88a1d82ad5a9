"""Deployments `promote`, which waits for a person, and `rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import INPUTS, RUN_ID
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed, Failed
from pydantic import ConfigDict, Field

from attar.pipelines.deployments.flips import VersionFlips, version_flips
from attar.pipelines.deployments.workplace import enter_workplace
from attar.pipelines.run.announce import announce
from attar.registry.artifacts.store import Store
from attar.registry.release.model_registry import CHAMPION
from attar.registry.release.promotion import Verdict, judge, log_flips, make_champion, roll_back, turn_down
from attar.registry.release.versions import find_version, read_version

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=200)]
SECONDS_PER_DAY = 86_400


class Decision(RunInput):
    """Make this version champion?"""

    model_config = ConfigDict(extra="forbid")

    approve: bool = Field(False, description="On: it becomes champion. Off: it stays candidate.")
    reason: str = Field("", max_length=2000, description="For whoever reads the registry later.")


@flow(name="promote", flow_run_name="promote {name} {version}", persist_result=True, result_serializer="json")
def promote(
    name: Name,
    version: Annotated[str, Field(pattern=r"^(candidate|\d+)$")] = "candidate",
    max_quality_loss: Annotated[float, Field(ge=0, le=1)] = 0.01,
    wait_days: Annotated[float, Field(gt=0, le=90)] = 14.0,
) -> Any:
    """Put a version to a person: it waits, holding no machine, until someone has decided. A worse model is refused at once.

    Args:
        name: Name in the MLflow registry.
        version: Number of a version, or candidate for the newest.
        max_quality_loss: Share of the champion's accuracy (or perplexity) that the version may lose.
        wait_days: Days after which an undecided run fails.
    """
    home = enter_workplace()
    # the flow runs from the top when it is resumed: what was put to the person is decided on, not what is newest by then
    number = _pinned_version(name, version)
    verdict = judge(read_version(f"{name}/{number}"), find_version(name, CHAMPION), max_quality_loss)
    facts = {"version": number, "champion": verdict.champion.number if verdict.champion else ""}
    if verdict.champion is not None and verdict.champion.number == number:
        return Completed(message=f"version {number} is champion already", data={**facts, "decision": "none"})
    flips = VersionFlips(**_shown(name, number, facts["champion"], str(home)))
    facts["flips"] = str(flips)
    if verdict.is_worse:
        announce("model.refused", name, {**facts, "reasons": list(verdict.reasons)})
        return Failed(message=f"refused: {'; '.join(verdict.reasons)}")
    decision = suspend_flow_run(
        wait_for_input=Decision.with_initial_data(description=report_of(verdict, flips)),
        timeout=int(wait_days * SECONDS_PER_DAY),
        key=f"decision-{number}",
    )
    if not decision.approve:
        turn_down(name, number, decision.reason)
        announce("model.rejected", name, {**facts, "reason": decision.reason})
        return Completed(message=f"version {number} stays candidate", data={**facts, "decision": "rejected"})
    make_champion(name, number, decision.reason)
    announce("model.promoted", name, {**facts, "reason": decision.reason})
    return Completed(message=f"version {number} is champion", data={**facts, "decision": "approved"})


@flow(name="rollback", flow_run_name="roll back {name}", persist_result=True, result_serializer="json")
def rollback(
    name: Name, reason: Annotated[str, Field(max_length=2000)] = "rolled back from the Prefect UI"
) -> dict[str, str]:
    """Make the previous version champion again.

    Args:
        name: Name in the MLflow registry.
        reason: For whoever reads the registry later.
    """
    enter_workplace()
    fallen, restored = roll_back(name, reason)
    announce("model.rolled_back", name, {"version": restored.number, "champion": fallen.number, "reason": reason})
    return {"champion": restored.number, "was": fallen.number}


def report_of(verdict: Verdict, flips: VersionFlips) -> str:
    """Return what the person who decides is shown, as Markdown."""
    champion = f"version {verdict.champion.number}" if verdict.champion else "none yet"
    lines = [f"**{verdict.candidate}**, champion: {champion}.", ""]
    lines += ["| measure | candidate | champion | ratio |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row.values())} |" for row in verdict.rows]
    lines += ["", *flips.as_markdown()]
    made = {tag: value for tag, value in verdict.candidate.tags.items() if tag.startswith("attar.")}
    shown = ("recipe", "parent", "data", "run", "mlflow_run", "prefect_flow_run")
    lines += ["", *(f"- {kind}: {made[f'attar.{kind}']}" for kind in shown if f"attar.{kind}" in made)]
    return "\n".join(lines)


@task(name="which version", persist_result=True, result_serializer="json", cache_policy=INPUTS + RUN_ID)
def _pinned_version(name: str, version: str) -> str:
    """Return the number that `candidate` meant when this flow run began: kept with the run."""
    return read_version(f"{name}@candidate" if version == "candidate" else f"{name}/{version}").number


@task(name="what changed", persist_result=True, result_serializer="json", cache_policy=INPUTS + RUN_ID)
def _shown(name: str, number: str, champion: str, home: str) -> dict[str, Any]:
    """Put figures and flips before the person, as tables in Prefect and MLflow. Kept with the run: once, however often it is resumed."""
    candidate = read_version(f"{name}/{number}")
    other = read_version(f"{name}/{champion}") if champion else None
    verdict = judge(candidate, other, 0.0)
    beside = f"{name}: version {number} beside the champion"
    create_table_artifact(list(verdict.rows), key="promotion", description=beside)
    flips = version_flips(candidate, other, Store(Path(home)))
    if flips.rows:
        create_table_artifact(
            [dict(row) for row in flips.rows], key="promotion-flips", description=f"{beside}: {flips}"
        )
        log_flips(candidate, champion, flips.rows)
    return flips.as_dict()
