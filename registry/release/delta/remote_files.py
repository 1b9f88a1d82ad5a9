"""The files of a registered version in MLflow's artifact store: whole ones, and ranges of them where the store can."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.environment_variables import MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.request_utils import cloud_storage_http_request
from mlflow.utils.rest_utils import http_request

from attar.registry.artifacts.confinement import confined
from attar.registry.release.checksums import DamagedModelError
from attar.registry.tracking.mlflow_home import global_tracking_uri

READ_BYTES = 1 << 20
# Of MLflow's server, behind which its artifact store stands (https://mlflow.org/docs/latest/rest-api.html).
SERVED, SIGNED = "/mlflow-artifacts/artifacts", "/mlflow-artifacts/presigned"


class NoRangesError(Exception):
    """The store gives whole files alone."""


@dataclass(frozen=True)
class RemoteFiles:
    """Files of one version, read from where MLflow keeps them."""

    repository: Any
    tracking_uri: str

    @staticmethod
    def of(client: MlflowClient, version: ModelVersion) -> RemoteFiles:
        """Return the files of a version. Raises ValueError for files of this machine that a request may not name."""
        refuse_foreign_files(client, version)
        with global_tracking_uri(client.tracking_uri):
            return RemoteFiles(get_artifact_repository(_location(client, version)), client.tracking_uri)

    def fetch(self, name: str, folder: Path) -> int:
        """Copy a file, under its own name, or what lies below a folder. Return the size of a file; raises DamagedModelError for none."""
        try:
            with global_tracking_uri(self.tracking_uri):
                self.repository.download_artifacts(name, dst_path=str(folder))
        except (MlflowException, OSError) as error:
            if not self._holds(name):
                raise DamagedModelError(f"{name} is missing") from error
            raise
        return (folder / name).stat().st_size

    def read(self, name: str, start: int, num_bytes: int) -> Iterator[bytes]:
        """Yield the bytes of a range of a file. Raises NoRangesError where the store gives whole files alone."""
        parts = urlsplit(self.repository.artifact_uri)
        if parts.scheme in ("", "file"):
            yield from _from_disk(Path(unquote(parts.path)) / name, start, num_bytes)
            return
        wanted = {"Range": f"bytes={start}-{start + num_bytes - 1}"}
        response = self._answer(name, wanted)
        if response is None:
            raise NoRangesError(name)
        with response:
            if response.status_code != 206:  # the whole file, or a refusal
                raise NoRangesError(name)
            yield from response.iter_content(READ_BYTES)

    def _holds(self, name: str) -> bool:
        with global_tracking_uri(self.tracking_uri):
            listed = self.repository.list_artifacts(posixpath.dirname(name) or None)
        return any(entry.path == name for entry in listed)

    def _answer(self, name: str, headers: dict[str, str]) -> Any:
        """Return what HTTP answers: a cloud store by an address that is signed for a while, MLflow's server by itself. None: neither."""
        with global_tracking_uri(self.tracking_uri):
            url, known = self._signed_address(name)
            if url:
                return cloud_storage_http_request("get", url, stream=True, headers={**known, **headers})
            if SERVED in self.repository.artifact_uri:
                credentials = get_default_host_creds(self.repository.artifact_uri)
                return http_request(credentials, f"/{quote(name)}", "GET", stream=True, extra_headers=headers)
        return None

    def _signed_address(self, name: str) -> tuple[str, dict[str, str]]:
        """Return an address of a cloud store and the headers that it wants. Empty where there is none."""
        base, served, root = self.repository.artifact_uri.partition(SERVED)
        if not served:
            sign = getattr(self.repository, "get_download_presigned_url", None)
            try:
                signed = sign(name) if sign is not None else None
            except Exception:  # noqa: BLE001 - of any cloud's library: the whole file's download says what is wrong
                signed = None
            return ("", {}) if signed is None else (signed.url, signed.headers)
        if not MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD.get():
            return "", {}
        answer: Any = http_request(get_default_host_creds(base), f"{SIGNED}{root}/{quote(name)}", "GET")
        if answer.status_code != 200:  # it keeps the files itself
            return "", {}
        content = answer.json()
        return content["url"], content.get("headers", {})


def refuse_foreign_files(client: MlflowClient, version: ModelVersion) -> None:
    """Refuse a version that is files of this machine which a request may not name. Whoever reaches the registry says where a version lies."""
    parts = urlsplit(_location(client, version))
    if parts.scheme in ("", "file"):
        confined(Path(unquote(parts.path)))


def _location(client: MlflowClient, version: ModelVersion) -> str:
    location = str(version.source)
    if location.startswith("models:/m-"):
        return client.get_logged_model(location.removeprefix("models:/")).artifact_location
    return location


def _from_disk(path: Path, start: int, num_bytes: int) -> Iterator[bytes]:
    if not path.is_file():
        raise NoRangesError(path.name)
    with path.open("rb") as stream:
        stream.seek(start)
        while num_bytes > 0 and (block := stream.read(min(READ_BYTES, num_bytes))):
            num_bytes -= len(block)
            yield block
