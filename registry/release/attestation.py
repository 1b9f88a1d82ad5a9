"""A signed statement of what a version is and how it was made. Written when it is registered, checked when it is pulled.

in-toto's Statement (https://in-toto.io/Statement/v1) with SLSA's provenance (https://slsa.dev/provenance/v1) in a DSSE envelope
(https://github.com/secure-systems-lab/dsse), signed with ed25519. The subject is the version's list of checksums, so that it stands for
every file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.registry.release.checksums import CHECKSUMS

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

# The operator's private key, a PEM file, on the machine that registers.
SIGNING_KEY = "ATTAR_SIGNING_KEY"
ATTESTATION_TAG = "attar.attestation"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT, PROVENANCE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
# Parts of the provenance that the format wants named: by what it was built, and who built it.
BUILD_TYPE, BUILDER = "urn:attar:recipe:1", "urn:attar:register"
# MLflow keeps this much of a tag.
MAX_CHARS = 100_000


class UnsignedModelError(ValueError):
    """A registered version is not what the holder of the key signed."""

    exit_code = 1


def signing_key() -> CryptoSigner | None:
    """Return what signs on this machine, None where no key is given. Raises ValueError for one that is no ed25519 key."""
    path = os.environ.get(SIGNING_KEY, "")
    if not path:
        return None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    signer_type, key_type, _ = _library()
    key = _read_key(SIGNING_KEY, path, lambda content: load_pem_private_key(content, None))
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(
            f"{SIGNING_KEY}: {path} holds no ed25519 key; make one with: openssl genpkey -algorithm ed25519"
        )
    return signer_type(key, key_type.from_crypto(key.public_key()))


def verifying_key(path: str) -> SSlibKey:
    """Return the public key in a PEM file. Raises ValueError for one that is no ed25519 key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    _, key_type, _ = _library()
    key = _read_key("key", path, load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"key: {path} holds no ed25519 public key; make it with: openssl pkey -in PRIVATE -pubout")
    return key_type.from_crypto(key)


def signed_statement(
    signer: CryptoSigner, digest: str, *, steps: Sequence[Mapping[str, Any]], materials: Mapping[str, str], verdict: Any
) -> str:
    """Return the envelope of a version whose list of checksums has this sha256.

    `steps`: stages with their configs, in their order; `materials`: name to fingerprint of the base models and data; `verdict`: the
    gate's checks. Raises ValueError for more than MLflow keeps.
    """
    *_, envelope_type = _library()
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": CHECKSUMS, "digest": {"sha256": digest}}],
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"steps": list(steps), "gate": verdict},
                "resolvedDependencies": [
                    {"name": name, "digest": {"sha256": fingerprint}} for name, fingerprint in materials.items()
                ],
            },
            "runDetails": {"builder": {"id": BUILDER}},
        },
    }
    envelope = envelope_type(json.dumps(statement, sort_keys=True).encode(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    text = json.dumps(envelope.to_dict())
    if len(text) > MAX_CHARS:
        raise ValueError(
            f"the signed statement has {len(text)} characters; accepted: {MAX_CHARS}, what MLflow keeps of a tag"
        )
    return text


def check_statement(text: str, digest: str, key: SSlibKey, who: str) -> dict[str, Any]:
    """Return the statement of a version. Raises UnsignedModelError unless the key's holder signed this very list of checksums."""
    from securesystemslib.exceptions import VerificationError

    *_, envelope_type = _library()
    if not text:
        raise UnsignedModelError(
            f"{who}: it is not signed; pull it without a key, or register it again with {SIGNING_KEY}"
        )
    try:
        envelope = envelope_type.from_dict(json.loads(text))
        envelope.verify([key], 1)
        statement = json.loads(envelope.payload)
        subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
        is_ours = envelope.payload_type == PAYLOAD_TYPE and statement["_type"] == STATEMENT
    except VerificationError as error:
        raise UnsignedModelError(f"{who}: it was not signed with this key") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnsignedModelError(f"{who}: its signed statement cannot be read") from error
    if not is_ours or subjects != {CHECKSUMS: digest}:
        raise UnsignedModelError(f"{who}: what was signed is another version than this")
    return statement


def _library() -> tuple[Any, Any, Any]:
    try:
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import CryptoSigner, SSlibKey
    except ImportError as error:
        raise ValueError("signed versions need securesystemslib: pip install 'attar[sign]'") from error
    return CryptoSigner, SSlibKey, Envelope


def _read_key(what: str, path: str, load: Any) -> Any:
    try:
        return load(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"{what}: {path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{what}: {path} is no key in PEM without a password") from error
