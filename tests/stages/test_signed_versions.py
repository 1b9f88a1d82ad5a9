"""A version that its operator signed arrives; one that nobody, somebody else, or the holder of another version signed does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from attar.registry.artifacts.store import Store
from attar.registry.release.attestation import (
    ATTESTATION_TAG,
    SIGNING_KEY,
    UnsignedModelError,
    signed_statement,
    signing_key,
)
from attar.registry.release.model_registry import register_model
from attar.registry.release.pull import download_model
from attar.registry.tracking.mlflow_home import open_client
from tests.databases import copy_database

PEM = serialization.Encoding.PEM


def write_keys(folder: Path, name: str) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def write(content: str):
    def into(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "MLmodel").write_text("flavors: {}\n")
        (folder / "weights").write_text(content)

    return into


def register(scratch: Path, key: str, content: str) -> None:
    def sign(checksums: str) -> str:
        signer = signing_key()
        if signer is None:
            return ""
        steps = [{"stage": "prune", "config": {"num_blocks": 2}}]
        return signed_statement(signer, checksums, steps=steps, materials={"base": "ab" * 32}, verdict=[])

    register_model(
        "small", key, write(content), metrics={}, params={}, tags={}, scratch=scratch, is_champion=True, sign=sign
    )


@pytest.fixture
def home(store: Store, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    copy_database(mlflow_database, store.root / "mlflow.db")
    return store.root


def test_signed_by_the_operator_or_not_at_all(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = write_keys(tmp_path / "keys", "own")
    _, other = write_keys(tmp_path / "keys", "other")
    register(home / "scratch", "unsigned", "plain")
    monkeypatch.setenv(SIGNING_KEY, str(private))
    register(home / "scratch", "signed", "one")
    register(home / "scratch", "signed too", "two")
    folder = download_model("small/2", tmp_path / "arrived", key=str(public))
    assert (folder / "weights").read_text() == "one"
    client = open_client(home)
    envelope = json.loads(client.get_model_version("small", "2").tags[ATTESTATION_TAG])
    assert envelope["payloadType"] == "application/vnd.in-toto+json" and len(envelope["signatures"]) == 1
    for reference, key, reason in (
        ("small/1", public, "it is not signed"),
        ("small/2", other, "it was not signed with this key"),
    ):
        with pytest.raises(UnsignedModelError, match=reason):
            download_model(reference, tmp_path / "absent", key=str(key))
    # another version's statement, which the key's holder did sign
    client.set_model_version_tag(
        "small", "2", ATTESTATION_TAG, client.get_model_version("small", "3").tags[ATTESTATION_TAG]
    )
    with pytest.raises(UnsignedModelError, match="what was signed is another version"):
        download_model("small/2", tmp_path / "absent", key=str(public))
    client.set_model_version_tag("small", "2", ATTESTATION_TAG, "{}")
    with pytest.raises(UnsignedModelError, match="cannot be read"):
        download_model("small/2", tmp_path / "absent", key=str(public))
    assert not (tmp_path / "absent").exists()
    assert download_model("small/2", tmp_path / "unchecked").is_dir(), "without a key as before"


def test_a_signature_is_checked_over_an_earlier_copy_too(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = write_keys(tmp_path / "keys", "own")
    monkeypatch.setenv(SIGNING_KEY, str(private))
    register(home / "scratch", "first", "one")
    register(home / "scratch", "second", "two")
    monkeypatch.delenv(SIGNING_KEY)
    register(home / "scratch", "unsigned", "three")
    folder = download_model("small/1", tmp_path / "copy", key=str(public))
    with pytest.raises(UnsignedModelError, match="it is not signed"):
        download_model("small/3", folder, key=str(public))
    assert (folder / "weights").read_text() == "one", "the copy stays as it was"
    assert (download_model("small/2", folder, key=str(public)) / "weights").read_text() == "two"
    open_client(home).delete_model_version_tag("small", "2", ATTESTATION_TAG)
    with pytest.raises(UnsignedModelError, match="it is not signed"):
        download_model("small/2", folder, key=str(public))


def test_keys_that_cannot_sign_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert signing_key() is None
    rsa = tmp_path / "rsa.pem"
    rsa.write_bytes(
        generate_private_key(65537, 2048).private_bytes(
            PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (tmp_path / "text.pem").write_text("no key")
    for path, reason in (
        (rsa, "holds no ed25519 key; make one with: openssl"),
        (tmp_path / "text.pem", "is no key in PEM"),
        (tmp_path / "none.pem", "No such file"),
    ):
        monkeypatch.setenv(SIGNING_KEY, str(path))
        with pytest.raises(ValueError, match=reason) as refused:
            signing_key()
        assert "\n" not in str(refused.value)
