"""Bring a registered version back, whole and as it was registered, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion

from attar.registry.artifacts.environment import attar_home, tracking_uri
from attar.registry.artifacts.files import folder_bytes
from attar.registry.release.attestation import ATTESTATION_TAG, check_statement, verifying_key
from attar.registry.release.checksums import (
    CHECKSUMS,
    WRITTEN_BY_MLFLOW,
    DamagedModelError,
    listed_files,
    verify_checksums,
    wanted_files,
)
from attar.registry.release.delta.assembly import assemble
from attar.registry.release.delta.byte_ranges import RANGES, read_ranges
from attar.registry.release.delta.local_copy import LocalCopy, Pulled, exchange_folder
from attar.registry.release.delta.remote_files import RemoteFiles, refuse_foreign_files
from attar.registry.release.naming import CHECKSUMS_TAG
from attar.registry.release.reference import resolve
from attar.registry.tracking.mlflow_home import global_tracking_uri, open_client
from attar.registry.tracking.reach import reachable


def download_model(
    reference: str, folder: Path, *, needs_checksums: bool = True, form: str = "", key: str = ""
) -> Path:
    """Copy a registered version into `folder` and return it; see `pull_version`."""
    return pull_version(reference, folder, needs_checksums=needs_checksums, form=form, key=key).folder


def pull_version(
    reference: str,
    folder: Path,
    *,
    needs_checksums: bool = True,
    form: str = "",
    key: str = "",
    copy: LocalCopy | None = None,
) -> Pulled:
    """Copy a registered version into `folder`. A new or empty one, or one that an earlier pull filled, of which what is the same stays.

    `form`: the folder of one form alone, such as `onnx-int8`, or how its name begins where one does; the card comes with it.
    `reference`: NAME (its champion), NAME@ALIAS or NAME/VERSION, with or without `models:/`. Every file's sha256 is compared with what
    was recorded when the version was registered; without `needs_checksums` a version that another tool registered passes too.
    With `key`, a PEM file with a public ed25519 key, the version must bear a statement that its holder signed; see attestation.py.
    `copy`: what `LocalCopy.of(folder)` has begun to read.
    Raises ValueError when there is no such version or `folder` holds something else, DamagedModelError when a file differs,
    UnsignedModelError when the signature is missing or another's, RegistryUnreachableError when the registry does not answer.
    The version appears whole in one step; until then the folder stays as it was.
    """
    copy = copy or LocalCopy.of(folder)
    uri = tracking_uri(attar_home())
    with reachable(uri):
        client = open_client(attar_home())
        version = resolve(client, reference)
        who, digest = f"{reference}: version {version.version}", version.tags.get(CHECKSUMS_TAG, "")
        check_registered(who, version, key, needs_checksums=needs_checksums or copy is not None)
        if copy is not None and copy.is_version(_who(version), digest, form):
            return Pulled(folder, str(version.version), 0, folder_bytes(folder))
        aside = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            whole, moved = _bring(client, version, aside, form, digest, copy)
            total = folder_bytes(whole)
            exchange_folder(whole, folder)
        except DamagedModelError as error:
            raise DamagedModelError(f"{who} in the registry is damaged: {error}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return Pulled(folder, str(version.version), total if moved is None else moved, total)


def check_registered(who: str, version: ModelVersion, key: str, *, needs_checksums: bool) -> None:
    """Raise DamagedModelError where no checksums were recorded, UnsignedModelError where the key's holder did not sign them."""
    digest = version.tags.get(CHECKSUMS_TAG, "")
    if needs_checksums and not digest:
        raise DamagedModelError(f"{who} has no recorded checksums; register it again")
    if key:
        check_statement(version.tags.get(ATTESTATION_TAG, ""), digest, verifying_key(key), who)


def _bring(
    client: MlflowClient, version: ModelVersion, aside: Path, form: str, digest: str, copy: LocalCopy | None
) -> tuple[Path, int | None]:
    """Return the version's folder, checked, and how many bytes came; None: all of them."""
    if copy is not None:
        return aside, _update(client, version, aside, form, digest, copy)
    if form:
        _download_form(client, version, aside, form, digest)
        return aside, None
    whole = _download(client, version, aside)
    if digest:
        verify_checksums(whole, digest)
    return whole, None


def _update(client: MlflowClient, version: ModelVersion, aside: Path, form: str, digest: str, copy: LocalCopy) -> int:
    """Put a version together from the copy and what differs from it. Return how many bytes came."""
    files = RemoteFiles.of(client, version)
    moved = files.fetch(CHECKSUMS, aside)
    listed = listed_files(aside, digest)
    wanted, ranges = wanted_files(_who(version), listed, form), {}
    if RANGES in listed:
        moved += files.fetch(RANGES, aside)
        ranges = read_ranges((aside / RANGES).read_text(errors="replace"))
        if RANGES not in wanted:
            (aside / RANGES).unlink()
    moved += assemble(copy, files, wanted, ranges, aside)
    verify_checksums(aside, digest, of=wanted.__contains__)
    return moved


def _download(client: MlflowClient, version: ModelVersion, aside: Path) -> Path:
    refuse_foreign_files(client, version)
    source = client.get_model_version_download_uri(version.name, version.version)
    with global_tracking_uri(client.tracking_uri):
        download_artifacts(artifact_uri=source, dst_path=str(aside), tracking_uri=client.tracking_uri)
    inner = list(aside.iterdir())
    whole = aside if len(inner) != 1 or (aside / "MLmodel").exists() else inner[0]
    (whole / WRITTEN_BY_MLFLOW).unlink(missing_ok=True)
    return whole


def _download_form(client: MlflowClient, version: ModelVersion, aside: Path, form: str, digest: str) -> None:
    """Download one form, the list of checksums and the card. Raises ValueError for a form that the version does not have."""
    files = RemoteFiles.of(client, version)
    files.fetch(CHECKSUMS, aside)
    wanted = wanted_files(_who(version), listed_files(aside, digest), form)
    for name in wanted:
        files.fetch(name, aside)
    verify_checksums(aside, digest, of=wanted.__contains__)


def _who(version: ModelVersion) -> str:
    return f"{version.name} version {version.version}"
