"""MLflow's model registry: store a model as a LoggedModel, and give it a version and aliases. `registry/release/pull.py` brings it back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from attar.registry.artifacts.environment import attar_home, tracking_uri
from attar.registry.artifacts.subjects import CAUSAL
from attar.registry.release.alias_lock import NOT_THERE, moving_aliases, while_busy
from attar.registry.release.attestation import ATTESTATION_TAG
from attar.registry.release.checksums import write_checksums
from attar.registry.release.delta.byte_ranges import write_ranges
from attar.registry.release.figures import HIGH, KEYS_TAG, LOW
from attar.registry.release.naming import CANDIDATE, CHAMPION, CHECKSUMS_TAG, KEY_TAG, PREVIOUS
from attar.registry.tracking.metric_names import metric_name
from attar.registry.tracking.mlflow_home import experiment_id, global_tracking_uri, open_client
from attar.registry.tracking.reach import reachable

# what a version's one line of description says, divided by the original's
SUMMARY_TAGS = {
    "model.accuracy_ratio": "accuracy",
    "model.perplexity_ratio": "perplexity",
    "model.frechet_distance_ratio": "Frechet distance",
    "model.num_forwards_ratio": "forwards",
    "model.num_parameters_ratio": "parameters",
}


@dataclass(frozen=True)
class Registration:
    """A registered version: its name, number, LoggedModel and who holds which alias after it."""

    name: str
    version: str
    model_id: str
    is_champion: bool
    previous_version: str


def register_model(
    name: str,
    key: str,
    write: Callable[[Path], None],
    *,
    metrics: Mapping[str, float],
    params: Mapping[str, str],
    tags: Mapping[str, str],
    scratch: Path,
    is_champion: bool,
    figures: Mapping[str, str] | None = None,
    sign: Callable[[str], str] = lambda checksums: "",
    model_type: str = CAUSAL.model_type,
) -> Registration:
    """Store what `write(folder)` writes as a LoggedModel, register it as a new version of `name` and set its aliases.

    `tags` are for the version's page; `figures`, all there are, become tags of the LoggedModel with them.
    The candidate alias always moves to it; champion only when `is_champion`, and then previous moves to the former champion.
    `sign` returns the signed statement of a list of checksums by its sha256, empty where nothing signs.
    Called again with the same `key` after an interruption, it finishes the version it had begun instead of making a second one.
    """
    with reachable(tracking_uri(attar_home())):
        # asked again as a whole: it finds by its key what it has begun
        return while_busy(
            lambda: _register(
                name, key, write, metrics, params, tags, figures or {}, scratch, is_champion, sign, model_type
            )
        )


def _register(
    name: str,
    key: str,
    write: Callable[[Path], None],
    metrics: Mapping[str, float],
    params: Mapping[str, str],
    tags: Mapping[str, str],
    figures: Mapping[str, str],
    scratch: Path,
    is_champion: bool,
    sign: Callable[[str], str],
    model_type: str,
) -> Registration:
    client = open_client(attar_home())
    version = _version_of_key(client, name, key)
    if version is None:
        known = {**tags, **figures}
        model_id, checksums = _log_model(client, name, write, metrics, params, known, scratch, model_type)
        statement = sign(checksums)
        signed = {ATTESTATION_TAG: statement} if statement else {}
        shown = {**tags, **signed, CHECKSUMS_TAG: checksums, KEY_TAG: key}
        version = _create_version(client, name, model_id, shown, _summary(known))
    number = str(version.version)
    with moving_aliases(name):
        while_busy(lambda: _set_aliases(client, name, number, is_champion))
    # the SQL registry gives version numbers as text or as numbers, depending on the call, and knows the model by the source alone
    model_id = str(version.source).removeprefix("models:/")
    return Registration(name, str(version.version), model_id, is_champion, _alias_version(client, name, PREVIOUS))


def _set_aliases(client: MlflowClient, name: str, number: str, is_champion: bool) -> None:
    client.set_registered_model_alias(name, CANDIDATE, number)
    former = _alias_version(client, name, CHAMPION)
    if is_champion and former != number:
        if former:
            client.set_registered_model_alias(name, PREVIOUS, former)
        client.set_registered_model_alias(name, CHAMPION, number)


def registered_keys() -> set[str]:
    """Return the artifact keys that registered versions were made from; what gc must keep."""
    client = open_client(attar_home())
    keys = set()
    for model in client.search_registered_models():
        for version in client.search_model_versions(f"name='{model.name}'"):
            keys.update(artifact_keys(version.tags).values())
    return keys


def artifact_keys(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the keys of the artifacts behind a version by name. Versions of before had a tag for each."""
    older = {tag[6:-4]: key for tag, key in tags.items() if tag.startswith("attar.") and tag.endswith("_key")}
    return {**older, **json.loads(tags.get(KEYS_TAG, "{}"))}


def _log_model(
    client: MlflowClient,
    name: str,
    write: Callable[[Path], None],
    metrics: Mapping[str, float],
    params: Mapping[str, str],
    tags: Mapping[str, str],
    scratch: Path,
    model_type: str,
) -> tuple[str, str]:
    """Return the LoggedModel's id and the sha256 of the list of its files' checksums."""
    experiment = experiment_id(client, attar_home())
    run_id = os.environ.get("ATTAR_MLFLOW_RUN_ID")
    model = client.create_logged_model(
        experiment, name=name, source_run_id=run_id, params=dict(params), tags=dict(tags), model_type=model_type
    )
    try:
        location = urlsplit(model.artifact_location)
        if location.scheme in ("", "file"):
            folder = Path(unquote(location.path))  # straight into place: no second copy of the weights
            checksums = _written(folder, write)
        else:
            folder = scratch / "logged_model"
            shutil.rmtree(folder, ignore_errors=True)
            checksums = _written(folder, write)
            client.log_model_artifacts(model.model_id, str(folder))
        for metric, value in metrics.items():
            _log_metric(client, model.model_id, run_id, metric, value)
    except BaseException:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return model.model_id, checksums


def _written(folder: Path, write: Callable[[Path], None]) -> str:
    """Write a version's files, their byte ranges and their checksums; return the sha256 of the list of these."""
    write(folder)
    write_ranges(folder)
    return write_checksums(folder)


def _log_metric(client: MlflowClient, model_id: str, run_id: str | None, name: str, value: float) -> None:
    if run_id is not None:  # MLflow ties a model's metric to the run that measured it
        client.log_metric(run_id, metric_name(name), value, model_id=model_id)


def _create_version(
    client: MlflowClient, name: str, model_id: str, tags: Mapping[str, str], summary: str
) -> ModelVersion:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = client.get_logged_model(model_id)
    with global_tracking_uri(client.tracking_uri):
        return client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=model.source_run_id,
            tags=dict(tags),
            model_id=model_id,
            description=summary,
        )


def _summary(tags: Mapping[str, str]) -> str:
    """Return one line for MLflow's list of versions, where thirty tags are no reading."""
    ratios = [
        f"{what} {float(tags[name]):.2f}x{_interval(tags, name)}" for name, what in SUMMARY_TAGS.items() if name in tags
    ]
    return ", ".join([f"gate {tags['validation_status']}" if "validation_status" in tags else "no gate", *ratios])


def _interval(tags: Mapping[str, str], name: str) -> str:
    ends = [f"{float(tags[name + end]):.2f}" for end in (LOW, HIGH) if name + end in tags]
    return f" [{', '.join(ends)}]" if len(ends) == 2 else ""


def _version_of_key(client: MlflowClient, name: str, key: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name='{name}' and tag.`{KEY_TAG}`='{key}'")
    return versions[0] if versions else None


def _alias_version(client: MlflowClient, name: str, alias: str) -> str:
    try:
        return str(client.get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        return ""
