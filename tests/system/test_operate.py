"""Servers, worker and deployments as a user has them: `attar up`, runs through Prefect's API, `attar down`, no process left."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from attar.registry.artifacts.store import Store
from attar.registry.release.promotion import make_champion
from attar.registry.release.versions import read_version
from tests.system.forked import attar_forked
from tests.system.operated import (
    ALL,
    FORM,
    OUT_OF_BOUNDS,
    Api,
    Environment,
    attar,
    attar_here,
    command_lines,
    doctor_checks,
    events_named,
    owned,
    scheduled,
    stored_result,
    until,
    worker_of,
)

# each flow run is a process that imports all of it: seconds on a quiet machine, a minute on one with ten others at work
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def compressed(api: Api) -> dict[str, Any]:
    """A run of the form, triggered as the UI does it."""
    return api.wait(api.trigger("compress", {"form": FORM}), "COMPLETED")


@pytest.fixture(scope="module")
def first_night(api: Api) -> dict[str, Any]:
    return api.wait(api.trigger("nightly", {"recipes": ["wee.yaml", "wee.yaml"]}), "COMPLETED")


def test_up_answers_where_it_says_and_a_second_up_says_what_runs(environment: Environment, up: dict[str, Any]) -> None:
    for url in (up["prefect"], up["mlflow"]):
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert answer.status == 200 and b"<html" in answer.read().lower()
    assert all(f"\n{name} answers after" in up["printed"] for name in ("prefect", "mlflow", "worker")), up["printed"]
    again = json.loads(attar_here(environment | up["client"], "up", "--json").stdout)
    assert again["was_running"] and again["prefect"] == up["prefect"] and again["mlflow"] == up["mlflow"]


def test_a_second_up_applies_a_changed_file_and_leaves_what_was_switched_alone_else(
    environment: Environment, api: Api, up: dict[str, Any], tmp_path: Path
) -> None:
    def again(file: Path) -> tuple[str, bool]:
        done = attar_here(environment | up["client"], "up", "--prefect-file", str(file), "--json")
        assert done.returncode == 0, done.stderr
        (schedule,) = api.deployment("nightly")["schedules"]
        return schedule["schedule"]["cron"], schedule["active"]

    nightly = api.deployment("nightly")
    path = f"deployments/{nightly['id']}/schedules/{nightly['schedules'][0]['id']}"
    api.ask(path, {"active": False}, "PATCH")
    ours = Path("prefect.yaml").resolve()
    assert again(ours) == ("30 4 * * *", False)
    (tmp_path / "later.yaml").write_text(ours.read_text().replace("30 4 * * *", "45 5 * * *"))
    assert again(tmp_path / "later.yaml") == ("45 5 * * *", True)
    assert again(ours) == ("30 4 * * *", True)


def test_every_deployment_of_the_file_is_there_as_written(api: Api) -> None:
    written = {
        deployment["name"]: deployment for deployment in yaml.safe_load(Path("prefect.yaml").read_text())["deployments"]
    }
    assert sorted(written) == ALL
    for name, entry in written.items():
        deployment = api.deployment(name)
        assert deployment["entrypoint"] == entry["entrypoint"] and not deployment["pull_steps"], (
            "no folder of this machine is baked in"
        )
        assert (
            deployment["enforce_parameter_schema"]
            and deployment["parameter_openapi_schema"]["additionalProperties"] is False
        )
        assert (deployment["work_pool_name"], deployment["work_queue_name"]) == tuple(entry["work_pool"].values())
        fields = deployment["parameter_openapi_schema"]["properties"]
        assert all("description" in field or "$ref" in field or "allOf" in field for field in fields.values()), name
    nightly = api.deployment("nightly")
    [schedule] = nightly["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("30 4 * * *", "Europe/Berlin")
    until(lambda: bool(scheduled(api, nightly["id"])))
    starts = [run["expected_start_time"] for run in scheduled(api, nightly["id"])]
    assert all(start.endswith(("T02:30:00Z", "T03:30:00Z")) for start in starts)
    assert nightly["global_concurrency_limit"]["limit"] == 1
    assert nightly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


@pytest.mark.parametrize(("name", "parameters", "message"), OUT_OF_BOUNDS)
def test_what_breaks_a_bound_is_refused_by_the_api(
    api: Api, name: str, parameters: dict[str, Any], message: str
) -> None:
    before = api.ask("flow_runs/count", {})
    with pytest.raises(urllib.error.HTTPError) as refusal:
        api.trigger(name, parameters)
    assert refusal.value.code in (409, 422) and message in refusal.value.read().decode()
    assert api.ask("flow_runs/count", {}) == before, "no run was made, so nothing could start"


def test_the_form_compresses_a_model(api: Api, compressed: dict[str, Any], served: None, home: Path) -> None:
    tasks = api.ask("task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [compressed["id"]]}}})
    assert {"original", "questions", "block_scan", "smaller", "scores", "release"} <= {task["name"] for task in tasks}
    assert {task["state"]["name"] for task in tasks} == {"Completed"}
    assert not any(task["tags"] for task in tasks), (
        "a tag's slot is asked for with no second try: a server's restart would end the run"
    )
    version = read_version("formed")
    assert version.tags["attar.prefect_flow_run"] == compressed["id"]
    assert version.tags["attar.recipe"] == "formed" and version.tags["attar.parent"].startswith(FORM["model"])
    assert "reasoning_gym:chain_sum" in version.tags["attar.data"] and version.tags["attar.mlflow_run"]
    assert "stage: prune" in api.artifact(compressed["id"], "recipe")
    checks = {row["check"]: row for row in api.artifact(compressed["id"], "gate")}
    assert checks["num_parameters_ratio"]["verdict"] == "passed"
    assert any(event["payload"]["version"] == "1" for event in events_named(api, "attar.model.registered"))


def test_a_run_on_the_command_line_shows_in_the_same_places(
    environment: Environment, api: Api, up: dict[str, Any]
) -> None:
    done = attar_forked(environment, "run", "wee.yaml", "--until", "smaller", "--json")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert api.ask(f"flow_runs/{run['prefect_flow_run_id']}")["state"]["type"] == "COMPLETED"
    page = f"{up['mlflow']}/api/2.0/mlflow/runs/get?run_id={run['mlflow_run_id']}"
    with urllib.request.urlopen(page, timeout=30) as answer:
        assert json.loads(answer.read())["run"]["info"]["status"] == "FINISHED"


def test_a_night_makes_a_candidate_skips_what_is_unchanged_and_sees_news(
    api: Api, first_night: dict[str, Any], served: None, home: Path
) -> None:
    first, again = api.artifact(first_night["id"], "nightly")
    assert first_night["name"] == "night of wee.yaml, wee.yaml", "a list of runs says what each is of"
    assert first["outcome"] == "candidate" and first["version"] == "wee/1"
    assert again["outcome"] == "unchanged" and read_version("wee@candidate").number == "1"
    assert read_version("wee/1").aliases == ("candidate",), "the gate held, but a night promotes nothing"
    report = (home / "runs" / read_version("wee/1").tags["attar.run"] / "report.html").read_text()
    assert "The gate passed: candidate, until somebody decides." in report
    make_champion("wee", "1", "the first")
    (home.parent / "prose.txt").write_text(
        "A different night brings different text, and a second candidate with it. " * 30
    )
    night = api.wait(api.trigger("nightly", {"recipes": ["wee.yaml", "absent.yaml"]}), "FAILED")
    rows = {row["recipe"]: row for row in api.artifact(night["id"], "nightly")}
    assert rows["wee.yaml"]["version"] == "wee/2" and rows["wee.yaml"]["champion"] == "1"
    assert rows["wee.yaml"]["outcome"] in ("candidate", "worse")
    assert rows["absent.yaml"]["outcome"] == "failed" and "no such file" in night["state"]["message"]
    assert [event["payload"]["recipe"] for event in events_named(api, "attar.nightly.unchanged")] == ["wee.yaml"]
    assert [event["payload"]["recipe"] for event in events_named(api, "attar.nightly.failed")] == ["absent.yaml"]


def test_a_run_is_begun_again_and_compared(api: Api, first_night: Any, served: None, home: Path) -> None:
    earlier = read_version("wee/1").tags["attar.run"]
    again = {"name": "wee.yaml", "overrides": ["release.config.name=again"], "from_node": "after"}
    made = stored_result(home, api.wait(api.trigger("recipe", again), "COMPLETED"))
    assert (made["nodes"]["smaller"], made["nodes"]["after"]) == ("Cached", "Completed")
    compared = api.wait(api.trigger("compare", {"first": earlier, "second": made["run"]}), "COMPLETED")
    assert compared["name"] == f"compare {earlier} and {made['run']}"


def test_promotion_waits_for_a_person_and_refuses_a_worse_model(
    api: Api, first_night: dict[str, Any], served: None
) -> None:
    number = read_version("wee@candidate").number
    waiting = api.trigger("promote", {"name": "wee", "max_quality_loss": 1.0})
    question = api.question(waiting)
    assert "model/perplexity" in question and f"wee version {number}" in question, "the report"
    is_first = "champion: none yet" in question
    assert is_first or "no question was put to both" in question or "answers lost" in question, "what changed"
    until(lambda: waiting not in command_lines(), 60.0, lambda: "a process waits with the person")
    answer = api.ask(f"flow_runs/{waiting}/resume", {"run_input": {"approve": True, "reason": "looks good"}})
    assert answer["status"] == "ACCEPT"
    api.wait(waiting, "COMPLETED")
    assert set(read_version(f"wee/{number}").aliases) >= {"champion"} and read_version("wee@previous").number == "1"
    assert "promoted: looks good" in read_version("wee").tags["attar.decision"]
    # version 1 beside the new champion, with no loss allowed at all, in the direction in which it is worse
    better, worse = sorted(("1", number), key=lambda which: read_version(f"wee/{which}").metrics["model/perplexity"])
    make_champion("wee", better, "the better one")
    refused = api.wait(api.trigger("promote", {"name": "wee", "version": worse, "max_quality_loss": 0.0}), "FAILED")
    assert refused["state"]["message"].startswith("refused: perplexity")
    assert read_version("wee").number == better
    assert events_named(api, "attar.model.promoted") and events_named(api, "attar.model.refused")


def test_rollback_brings_the_former_champion_back_and_an_automation_hears_of_it(
    api: Api, first_night: dict[str, Any], served: None
) -> None:
    before = read_version("wee@previous").number
    trigger = {
        "type": "event",
        "posture": "Reactive",
        "expect": ["attar.model.rolled_back"],
        "threshold": 1,
        "within": 0,
    }
    listening = api.ask("automations/", {"name": "told", "trigger": trigger, "actions": [{"type": "do-nothing"}]})
    api.wait(api.trigger("rollback", {"name": "wee", "reason": "slow"}), "COMPLETED")
    assert read_version("wee").number == before
    [event] = events_named(api, "attar.model.rolled_back")
    assert event["payload"]["version"] == before and event["resource"]["prefect.resource.id"] == "attar.model.wee"
    [triggered] = events_named(api, "prefect.automation.triggered")
    assert triggered["resource"]["prefect.resource.id"] == f"prefect.automation.{listening['id']}"


def test_a_stage_takes_handles_and_returns_one(api: Api, first_night: dict[str, Any], home: Path) -> None:
    store = Store(home)
    model = next(
        artifact
        for artifact in store.artifacts()
        if store.manifest(artifact)["stage"] == "ingest_model" and artifact.facts["num_blocks"] == 3
    )
    handle = {"stage": "ingest_model", "key": model.key}
    run = api.wait(
        api.trigger("stage", {"name": "prune", "config": {"blocks": [2]}, "inputs": {"model": [handle]}}), "COMPLETED"
    )
    made = stored_result(home, run)
    assert (
        made["stage"] == "prune" and made["kind"] == "model" and made["facts"]["num_blocks"] == 2 and not made["is_hit"]
    )
    store.verify(store.load("prune", made["key"]))
    wrong = api.trigger("stage", {"name": "prune", "config": {"blocks": [7]}, "inputs": {"model": [handle]}})
    message = api.wait(wrong, "FAILED")["state"]["message"]
    assert "blocks" in message and "7" in message and "NameError" not in message, "the stage's own reason"


def test_a_sweep_shows_what_nothing_beats(api: Api, environment: Environment) -> None:
    space = [{"field": "smaller.config.blocks", "values": [[1], [0, 1], [2]]}]
    options = {"space": space, "recipe": "wee.yaml", "node": "after", "search": "grid", "num_trials": 3}
    options |= {"quality": "perplexity"}
    run = api.wait(api.trigger("sweep", options), "COMPLETED")
    rows = api.artifact(run["id"], "pareto")
    assert sorted(row["smaller.config.blocks"] for row in rows) == ["[0, 1]", "[1]", "[2]"]
    numbers = [(float(row["perplexity"]), float(row["parameters M"]), float(row["decode ms/token"])) for row in rows]
    reported = {row["trial"]: row["perplexity held out"] for row in rows}
    assert all(bool(reported[row["trial"]]) is (row["best"] == "*") for row in rows), (
        "what is reported was not chosen on"
    )
    for row, trial_numbers in zip(rows, numbers, strict=True):
        is_beaten = any(
            all(a <= b for a, b in zip(other, trial_numbers, strict=True)) and other != trial_numbers
            for other in numbers
        )
        assert (row["best"] == "*") is not is_beaten


def test_gc_frees_what_nothing_needs(api: Api, first_night: dict[str, Any], home: Path, served: None) -> None:
    before = {artifact.key for artifact in Store(home).artifacts()}
    run = api.wait(api.trigger("gc", {"keep_runs": 0}), "COMPLETED")
    after = {artifact.key for artifact in Store(home).artifacts()}
    assert len(before - after) == stored_result(home, run)["num_artifacts"] > 0
    assert read_version("wee").tags["attar.model_key"] in after


def test_doctor_is_content_and_says_who_listens(environment: Environment, up: dict[str, Any]) -> None:
    checks = doctor_checks(environment | up["client"])
    services = ("service prefect", "service mlflow", "service worker")
    for check in (*services, "prefect", "work pool", "deployments", "registry"):
        assert checks[check]["verdict"] in ("ok", "note"), checks[check]
    assert checks["deployments"]["observed"] == ", ".join(ALL)


def test_a_killed_worker_comes_back(environment: Environment, up: dict[str, Any], home: Path) -> None:
    before = worker_of(home)
    psutil.Process(before[0]).kill()
    until(lambda: worker_of(home)[0] not in (0, before[0]) and worker_of(home)[1] == "healthy")
    checks = doctor_checks(environment | up["client"])
    assert checks["service worker"]["verdict"] == "note" and "started again" in checks["service worker"]["observed"]


def test_down_leaves_no_process(environment: Environment, up: dict[str, Any], home: Path) -> None:
    """Last in the file: what all the runs before have left goes, too."""
    assert len(owned(home)) >= 4
    done = json.loads(attar(environment, "down", "--json").stdout)
    assert done["stopped"][-3:] == ["prefect", "mlflow", "worker"]
    assert owned(home) == []
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(up["prefect"], timeout=5)
    assert "nothing runs" in attar(environment, "down").stdout
    logs = {path.stem for path in (home / "logs").iterdir()}
    assert logs >= {"prefect", "mlflow", "worker", "supervisor"}
