"""The manifests for a cluster are what its API takes, run nothing as root, and say what the compose file says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

DOCKER = Path(__file__).parents[4] / "docker"
KUBERNETES = "1.33"
FILES = sorted((DOCKER / "kubernetes").glob("*.yaml"))
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
# what the two tell their containers otherwise: where the sign-in's file lies, and the pod's own address
OTHERWISE = {"MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_SERVER_ALLOWED_HOSTS", "POD_IP", "ATTAR_GPU_HOST"}


def manifests(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in FILES:
        for manifest in manifests(path):
            if manifest["kind"] in ("Deployment", "StatefulSet", "Job"):
                yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_api_takes_every_manifest(path: Path) -> None:
    for manifest in manifests(path):
        kubernetes_validate.validate(json.loads(json.dumps(manifest)), KUBERNETES, strict=True)


def test_every_manifest_is_applied_and_every_secret_is_drawn() -> None:
    listed = (DOCKER / "kustomization.yaml").read_text()
    assert all(f"kubernetes/{path.name}" in listed for path in FILES)
    [secrets] = yaml.safe_load(listed)["secretGenerator"]
    assert {Path(file).name for file in secrets["files"]} == set(COMPOSE["secrets"])


@pytest.mark.parametrize(("name", "pod"), pods(), ids=[name for name, _ in pods()])
def test_a_pod_runs_closed_up(name: str, pod: dict[str, Any]) -> None:
    assert (
        pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    )
    assert pod["automountServiceAccountToken"] is False
    [container] = pod["containers"]
    closed = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert container["securityContext"] == closed
    volumes = {volume["name"] for volume in pod["volumes"]} | ({"database"} if name == "postgres" else set())
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize(("name", "pod"), pods(), ids=[name for name, _ in pods()])
def test_a_container_is_told_what_the_compose_file_tells_it(name: str, pod: dict[str, Any]) -> None:
    service = COMPOSE["services"][name]
    [container] = pod["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert env.keys() - OTHERWISE - {"PGDATA"} == service["environment"].keys() - OTHERWISE
    for variable, value in service["environment"].items():
        if variable not in OTHERWISE and "${" not in str(value):
            assert env[variable] == str(value), variable
    if "command" in service and name != "worker-gpu":
        plain = [part for part in service["command"] if "${" not in part]
        assert [part for part in container["args"] if not part.startswith("--artifacts-destination")] == plain
