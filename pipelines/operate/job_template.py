"""What a work pool lets a run say about its own process or container. Names and labels, never the program, its rights or its folders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from attar.pipelines.operate.run_start import COMMAND

TEMPLATES = Path(__file__).parent / "pool_templates"
PoolType = Literal["process", "docker", "kubernetes"]
PLACEHOLDER = re.compile(r"\{\{ (?P<name>\w+) \}\}")
# Whoever may start a run could otherwise start any program, as any user of any image, with any folder of the host in it.
CLOSED = {"command", "env", "image", "privileged", "volumes", "container_create_kwargs", "service_account_name"}
# Docker hands over cards by a request; all of them, because a stage takes one by its slot.
DOCKER_GPUS = {"device_requests": [{"Driver": "nvidia", "Count": -1, "Capabilities": [["gpu"]]}]}


def job_template(pool_type: PoolType, image: str, num_gpus: int) -> dict[str, Any]:
    """Return the base job template of a pool, its image and GPUs filled in. Raises ValueError for a missing image.

    What decides which program runs where, and with which rights, is the pool's: no run may bring its own.
    """
    template = json.loads((TEMPLATES / f"{pool_type}.json").read_text())
    if pool_type == "process":
        return template
    variables = template["variables"]["properties"]
    if "@sha256:" not in image:
        raise ValueError(f"image {image!r}: give it by digest, NAME@sha256:..., so that every run has the same one")
    variables["image"]["default"] = image
    if pool_type == "kubernetes":
        variables["num_gpus"]["default"] = num_gpus
    elif num_gpus:
        variables["container_create_kwargs"]["default"] |= DOCKER_GPUS
    return _closed(template)


def _closed(template: dict[str, Any]) -> dict[str, Any]:
    """Put the pool's own values in place of the variables that a run must not set."""
    variables = template["variables"]
    values = {
        name: variables["properties"].pop(name).get("default") for name in CLOSED & variables["properties"].keys()
    }
    variables["required"] = [name for name in variables.get("required", ()) if name not in CLOSED]
    variables["additionalProperties"] = False
    configuration = _filled(template["job_configuration"], {**values, "command": COMMAND, "args": COMMAND.split()})
    return {**template, "job_configuration": configuration}


def _filled(value: Any, values: dict[str, Any]) -> Any:
    """Replace placeholders by values; a key whose placeholder has none goes."""
    if isinstance(value, dict):
        filled = {name: _filled(part, values) for name, part in value.items()}
        return {name: item for name, item in filled.items() if item is not None}
    if isinstance(value, list):
        return [_filled(part, values) for part in value]
    match = PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
    return values[match["name"]] if match and match["name"] in values else value
