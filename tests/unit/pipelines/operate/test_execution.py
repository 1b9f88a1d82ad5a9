"""Where nodes run: what a recipe may say, what it changes, and the job templates of pools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import prefect
import pytest
import yaml
from jsonschema import Draft202012Validator
from prefect.utilities.templating import apply_values

from attar.pipelines.operate.job_template import CLOSED, TEMPLATES, job_template
from attar.pipelines.operate.run_start import COMMAND
from attar.pipelines.recipe.execution import IN_PROCESS
from attar.pipelines.recipe.file import RecipeError
from attar.pipelines.recipe.whole import build_recipe

IMAGE = "registry.example/attar@sha256:" + "0" * 64
NODES = {
    "original": {"stage": "ingest_model", "config": {"source": "random:llama"}},
    "smaller": {"stage": "prune", "config": {"blocks": [1]}, "inputs": {"model": "original"}},
}
# Kubernetes' schemas by version, as the package ships them; the newest that it has.
KUBERNETES = "1.33"


def with_pools(by_stage: Any = None, **nodes: Any) -> dict[str, Any]:
    marked = {name: node | ({"execution": nodes[name]} if name in nodes else {}) for name, node in NODES.items()}
    return {"nodes": marked} | ({"execution": by_stage} if by_stage is not None else {})


def test_a_node_runs_here_unless_it_or_its_stage_says_where() -> None:
    def pools(**pool_state: Any) -> dict[str, str]:
        return {name: node.execution for name, node in build_recipe(with_pools(**pool_state)).nodes.items()}

    assert pools() == {"original": IN_PROCESS, "smaller": IN_PROCESS}
    assert pools(by_stage={"prune": "gpu"}) == {"original": IN_PROCESS, "smaller": "gpu"}
    assert pools(by_stage={"prune": "gpu"}, smaller=IN_PROCESS, original="cpu") == {
        "original": "cpu",
        "smaller": IN_PROCESS,
    }


def test_where_it_runs_is_no_part_of_what_is_made() -> None:
    here, there = build_recipe(with_pools()), build_recipe(with_pools(by_stage={"prune": "gpu"}))
    assert here.fingerprint == there.fingerprint


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"by_stage": {"prnue": "gpu"}}, "recipe, execution.prnue: unknown stage. Did you mean 'prune'"),
        ({"by_stage": "gpu"}, "recipe, execution = 'gpu': accepted: stage names"),
        ({"by_stage": {"prune": "GPU pool"}}, "recipe, execution.prune = 'GPU pool': accepted: in_process, or"),
        ({"smaller": "../x"}, "node 'smaller', execution = '../x': accepted: in_process, or"),
        ({"smaller": None}, "node 'smaller', execution = None"),
    ],
)
def test_a_place_that_cannot_be_is_refused(execution: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        build_recipe(with_pools(**execution))
    assert message in str(refusal.value)


def shipped_by_prefect(package: str, kind: str) -> dict[str, Any]:
    views = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
    return json.loads(views.read_text())[package][kind]["default_base_job_configuration"]


@pytest.mark.parametrize(("package", "kind"), [("prefect-docker", "docker"), ("prefect-kubernetes", "kubernetes")])
def test_templates_have_all_that_the_worker_reads_and_defaults_that_obey_their_schema(package: str, kind: Any) -> None:
    ours, shipped = job_template(kind, IMAGE, 1), shipped_by_prefect(package, kind)
    assert shipped["variables"]["properties"].keys() - CLOSED <= ours["variables"]["properties"].keys()
    # a key without a value is left out: Prefect takes its own default
    assert shipped["job_configuration"].keys() - {"registry_credentials"} <= ours["job_configuration"].keys()
    Draft202012Validator.check_schema(ours["variables"])
    for name, variable in ours["variables"]["properties"].items():
        if "default" in variable:
            Draft202012Validator(variable).validate(variable["default"])
        assert name in json.dumps(ours["job_configuration"]), f"{name} is used"
    assert not [name for name in ours["job_configuration"]["env"] if "TOKEN" in name or "PASSWORD" in name]


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_a_run_brings_no_command_environment_image_or_folder_of_its_own(kind: Any) -> None:
    template = job_template(kind, IMAGE, 1)
    wanted = dict.fromkeys((*CLOSED, "working_dir", "args"), "the run's own")
    configuration = json.dumps(apply_values(template["job_configuration"], wanted, remove_notset=True))
    assert "the run's own" not in configuration
    assert not CLOSED & template["variables"]["properties"].keys()
    assert template["variables"]["additionalProperties"] is False, "the server refuses what is not named"
    assert template["job_configuration"]["command"] == COMMAND


@pytest.mark.parametrize("num_gpus", [0, 2])
def test_the_kubernetes_job_is_one(num_gpus: int) -> None:
    template = job_template("kubernetes", IMAGE, num_gpus)
    values = {
        name: variable["default"]
        for name, variable in template["variables"]["properties"].items()
        if "default" in variable
    }
    run = {"name": "stage", "labels": {"a": "b"}}
    manifest = apply_values(template["job_configuration"]["job_manifest"], values | run, remove_notset=True)
    # Prefect's worker writes the environment as a list
    manifest["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "b"}]
    kubernetes_validate.validate(json.loads(json.dumps(manifest)), KUBERNETES, strict=True)
    pod = manifest["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["image"] == IMAGE and container["resources"]["limits"]["nvidia.com/gpu"] == num_gpus
    assert pod["securityContext"]["runAsUser"] == 10001 and pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert manifest["spec"]["backoffLimit"] == 0, "the recipe asks again, not kubernetes"


def test_docker_hands_over_cards_where_asked_and_never_privileges() -> None:
    def options(num_gpus: int) -> dict[str, Any]:
        return job_template("docker", IMAGE, num_gpus)["job_configuration"]["container_create_kwargs"]

    assert options(1)["device_requests"] == [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}]
    assert "device_requests" not in options(0)
    assert options(0)["user"] == "10001:10001" and options(0)["cap_drop"] == ["ALL"] and options(0)["init"]


def test_an_image_without_its_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="give it by digest"):
        job_template("docker", "attar:latest", 0)


def test_the_templates_are_what_ships() -> None:
    assert sorted(path.name for path in TEMPLATES.iterdir()) == ["docker.json", "kubernetes.json", "process.json"]


COMPOSE = yaml.safe_load(Path("docker/compose.yaml").read_text())


def test_compose_gives_secrets_as_files_and_binds_to_loopback() -> None:
    for name, service in COMPOSE["services"].items():
        environment = service.get("environment", {})
        for variable, value in environment.items():
            is_secret = any(word in variable for word in ("PASSWORD", "SECRET", "AUTH_STRING", "ACCESS_KEY", "TOKEN"))
            assert not is_secret or variable.endswith("_FILE"), f"{name}: {variable} = {value}"
            if variable.endswith("_FILE"):
                assert value.removeprefix("/run/secrets/") in service["secrets"], f"{name}: {variable}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "healthcheck" in service or name == "deploy", name
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()


def test_compose_runs_our_images_without_privileges() -> None:
    ours = [service for service in COMPOSE["services"].values() if "ATTAR" in service["image"]]
    assert len(ours) == 6
    for service in ours:
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and "privileged" not in service
    mlflow = COMPOSE["services"]["mlflow"]
    assert (
        "mlflow:*" in mlflow["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"] and "--serve-artifacts" in mlflow["command"]
    )
    assert (
        mlflow["environment"]["MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"] == "true"
        and "--app-name=basic-auth" in mlflow["command"]
    )
    [device] = COMPOSE["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
