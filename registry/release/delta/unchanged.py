"""Whether a copy is what the registry has, asked without MLflow. To import it takes longer than all else of an unchanged pull.

What cannot be told so is left to `pull_version`.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from attar.registry.artifacts.environment import (
    DATABASE,
    attar_home,
    is_database_whole,
    local_tracking_uri,
    tracking_uri,
)
from attar.registry.artifacts.files import folder_bytes
from attar.registry.release.attestation import ATTESTATION_TAG, check_statement, verifying_key
from attar.registry.release.delta.local_copy import LocalCopy, Pulled
from attar.registry.release.naming import CHAMPION, CHECKSUMS_TAG, REFERENCE

TIMEOUT_SECONDS = 10.0
# What lets MLflow look elsewhere or ask otherwise than here.
SETTINGS = ("MLFLOW_REGISTRY_URI", "MLFLOW_WORKSPACE", "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_SERVER_CERT_PATH",
            "MLFLOW_TRACKING_CLIENT_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS")  # fmt: skip
DELETED = "Deleted_Internal"


def unchanged_copy(reference: str, copy: LocalCopy, *, form: str = "", key: str = "") -> Pulled | None:
    """Return the copy as what was pulled, where it is the version that is meant. None: it is not, or MLflow must be asked.

    Raises UnsignedModelError as `pull_version` does.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        return None
    number, tags = _registered(match["name"], match["alias"] or CHAMPION, match["version"] or "")
    digest, who = tags.get(CHECKSUMS_TAG, ""), f"{reference}: version {number}"
    if not digest or not copy.is_version(who, digest, form):
        return None
    if key:
        check_statement(tags.get(ATTESTATION_TAG, ""), digest, verifying_key(key), who)
    return Pulled(copy.folder, number, 0, folder_bytes(copy.folder))


def _registered(name: str, alias: str, number: str) -> tuple[str, dict[str, str]]:
    """Return a version's number and tags; empty where they cannot be told."""
    uri = tracking_uri(attar_home())
    try:
        if any(os.environ.get(setting) for setting in SETTINGS):
            return "", {}
        if uri == local_tracking_uri(attar_home()) and is_database_whole(attar_home()):
            return _from_database(attar_home() / DATABASE, name, alias, number)
        if uri.startswith(("http://", "https://")):
            return _from_server(uri.rstrip("/"), name, alias, number)
    except (sqlite3.Error, OSError, ValueError, KeyError, TypeError):
        pass  # another schema, no answer, another answer: MLflow tells
    return "", {}


def _from_database(path: Path, name: str, alias: str, number: str) -> tuple[str, dict[str, str]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        if not number:
            question = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
            [(number,)] = database.execute(question, (name, alias)).fetchall()
        question = "SELECT current_stage FROM model_versions WHERE name = ? AND version = ?"
        [(stage,)] = database.execute(question, (name, int(number))).fetchall()
        question = "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?"
        tags = database.execute(question, (name, int(number))).fetchall()
    return ("", {}) if stage == DELETED else (str(number), dict(tags))


def _from_server(uri: str, name: str, alias: str, number: str) -> tuple[str, dict[str, str]]:
    path, query = (
        ("model-versions/get", {"version": number}) if number else ("registered-models/alias", {"alias": alias})
    )
    request = urllib.request.Request(f"{uri}/api/2.0/mlflow/{path}?{urlencode({'name': name, **query})}")
    user, password, token = (
        os.environ.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD", "TOKEN")
    )
    if user:
        request.add_header("Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
    elif token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        version: Any = json.loads(answer.read())["model_version"]
    return str(version["version"]), {tag["key"]: tag["value"] for tag in version.get("tags", ())}
