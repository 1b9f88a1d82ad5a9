"""Bring a registered version back, whole and as it was registered, or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from attar.registry.artifacts.confinement import confined
from attar.registry.artifacts.environment import attar_home, tracking_uri
from attar.registry.release.attestation import ATTESTATION_TAG, check_statement, verifying_key
from attar.registry.release.checksums import (
    CHECKSUMS,
    WRITTEN_BY_MLFLOW,
    DamagedModelError,
    listed_files,
    verify_checksums,
)
from attar.registry.release.model_registry import CHAMPION, CHECKSUMS_TAG
from attar.registry.tracking.mlflow_home import global_tracking_uri, open_client
from attar.registry.tracking.reach import reachable

# The model card of a version.
CARD = "README.md"
REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^@/]+)(?:@(?P<alias>[\w.-]+)|/(?P<version>\d+))?")


@dataclass(frozen=True)
class Release:
    """A registered version with the folders of its forms. `digest`: the sha256 of its list of checksums, which stands for every file."""

    name: str
    number: str
    digest: str
    forms: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"

    def form_named(self, form: str) -> str:
        """Return the form whose folder has this name, else the only one whose name begins so. Raises ValueError where there is none."""
        beginning = [name for name in self.forms if name.startswith(form)]
        [chosen, *others] = [name for name in self.forms if name == form] or beginning or [""]
        if not chosen or others:
            problem = f"{form!r} could be {', '.join([chosen, *others])}" if others else f"no form {form!r}"
            raise ValueError(f"{self}: {problem}; it has {', '.join(self.forms)}")
        return chosen


def find_release(reference: str, *, key: str = "") -> Release:
    """Return the version that NAME, NAME@ALIAS or NAME/VERSION names, and what forms it has. None of them is copied.

    Raises what `download_model` does of a version that is not there, has no checksums, or does not bear the signature of `key`.
    """
    with reachable(tracking_uri(attar_home())), tempfile.TemporaryDirectory() as folder:
        client = open_client(attar_home())
        version = _resolve(client, reference)
        digest = _checked_digest(version, reference, key)
        _refuse_foreign_files(client, version)
        _fetch(client, version, CHECKSUMS, Path(folder))
        forms = _form_folders(listed_files(Path(folder), digest))
        return Release(version.name, str(version.version), digest, forms)


def download_model(
    reference: str, folder: Path, *, needs_checksums: bool = True, form: str = "", key: str = ""
) -> Path:
    """Copy a registered version into `folder`, which may be there if it is empty, and return it.

    `form`: the folder of one form alone, such as `onnx-int8`, or how its name begins where one does; the card comes with it.
    `reference`: NAME (its champion), NAME@ALIAS or NAME/VERSION, with or without `models:/`. Every file's sha256 is compared with what
    was recorded when the version was registered; without `needs_checksums` a version that another tool registered passes too.
    With `key`, a PEM file with a public ed25519 key, the version must bear a statement that its holder signed; see attestation.py.
    Raises ValueError when there is no such version or `folder` holds something, DamagedModelError when a file differs,
    UnsignedModelError when the signature is missing or another's,
    RegistryUnreachableError when the registry does not answer. The folder appears whole or not at all.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty; give a folder that is, or that does not exist")
    uri = tracking_uri(attar_home())
    with reachable(uri):
        client = open_client(attar_home())
        version = _resolve(client, reference)
        digest = _checked_digest(version, reference, key, needs_checksums=needs_checksums)
        aside = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            whole = _download_form(client, version, aside, form, digest) if form else _download(client, version, aside)
            if digest and not form:
                verify_checksums(whole, digest)
            os.rename(whole, folder)  # an empty folder is replaced
        except DamagedModelError as error:
            raise DamagedModelError(
                f"{reference}: version {version.version} in the registry is damaged: {error}"
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _checked_digest(version: ModelVersion, reference: str, key: str, *, needs_checksums: bool = True) -> str:
    """Return the sha256 of a version's list of checksums. Raises where there is none, or where it is not what the key's holder signed."""
    digest = version.tags.get(CHECKSUMS_TAG, "")
    who = f"{reference}: version {version.version}"
    if needs_checksums and not digest:
        raise DamagedModelError(f"{who} has no recorded checksums; register it again")
    if key:
        check_statement(version.tags.get(ATTESTATION_TAG, ""), digest, verifying_key(key), who)
    return digest


def _form_folders(listed: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name.partition("/")[0] for name in listed if "/" in name}))


def _download(client: MlflowClient, version: ModelVersion, aside: Path) -> Path:
    _refuse_foreign_files(client, version)
    source = client.get_model_version_download_uri(version.name, version.version)
    with global_tracking_uri(client.tracking_uri):
        download_artifacts(artifact_uri=source, dst_path=str(aside), tracking_uri=client.tracking_uri)
    inner = list(aside.iterdir())
    whole = aside if len(inner) != 1 or (aside / "MLmodel").exists() else inner[0]
    (whole / WRITTEN_BY_MLFLOW).unlink(missing_ok=True)
    return whole


def _download_form(client: MlflowClient, version: ModelVersion, aside: Path, form: str, digest: str) -> Path:
    """Download one form, the list of checksums and the card. Raises ValueError for a form that the version does not have."""
    _refuse_foreign_files(client, version)
    _fetch(client, version, CHECKSUMS, aside)
    listed = listed_files(aside, digest)
    chosen = Release(version.name, str(version.version), digest, _form_folders(listed)).form_named(form)
    _fetch(client, version, chosen, aside)
    if CARD in listed:
        _fetch(client, version, CARD, aside)
    verify_checksums(aside, digest, of=lambda name: name == CARD or name.startswith(f"{chosen}/"))
    return aside


def _fetch(client: MlflowClient, version: ModelVersion, name: str, aside: Path) -> None:
    """Download one file or folder of a version under its own name."""
    source = client.get_model_version_download_uri(version.name, version.version).rstrip("/")
    with global_tracking_uri(client.tracking_uri):
        download_artifacts(artifact_uri=f"{source}/{name}", dst_path=str(aside), tracking_uri=client.tracking_uri)


def _refuse_foreign_files(client: MlflowClient, version: ModelVersion) -> None:
    """Refuse a version that is files of this machine which a request may not name: whoever reaches the registry says where a version lies."""
    location = str(version.source)
    if location.startswith("models:/m-"):
        location = client.get_logged_model(location.removeprefix("models:/")).artifact_location
    parts = urlsplit(location)
    if parts.scheme in ("", "file"):
        confined(Path(unquote(parts.path)))


def _resolve(client: MlflowClient, reference: str) -> ModelVersion:
    """Return the version that is meant. Raises ValueError saying what there is instead."""
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(f"{reference!r} is no registered model; accepted: NAME, NAME@ALIAS, NAME/VERSION")
    name, alias, number = match["name"], match["alias"], match["version"]
    try:
        registered = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        names = ", ".join(sorted(model.name for model in client.search_registered_models(max_results=20))) or "none"
        raise ValueError(f"{reference}: no model of that name is registered; there are: {names}") from error
    wanted = number or registered.aliases.get(alias or CHAMPION)
    versions = {str(version.version): version for version in client.search_model_versions(f"name='{name}'")}
    if str(wanted) not in versions:
        aliases = ", ".join(f"{alias} ({held})" for alias, held in sorted(registered.aliases.items())) or "none"
        numbers = ", ".join(sorted(versions, key=int)) or "none"
        who = f"version {number}" if number else f"alias {alias or CHAMPION}"
        raise ValueError(f"{reference}: no {who}; aliases: {aliases}; versions: {numbers}")
    return client.get_model_version(name, str(wanted))
