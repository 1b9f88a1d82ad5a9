"""What is signed of a version: how it was made, from what, and what the gate said."""

from __future__ import annotations

from attar.registry.release.attestation import signed_statement, signing_key
from attar.stages.register.release import Release


def check_signing() -> None:
    """Raise ValueError, before work, when the key that is to sign cannot."""
    signing_key()


def statement_of(release: Release, checksums: str) -> str:
    """Return the signed statement of a version. `checksums`: sha256 of its list of files. Empty where this machine has no key."""
    signer = signing_key()
    if signer is None:
        return ""
    sources = {source.key: source for source in (*release.bases, *(use.dataset for use in release.data))}
    return signed_statement(
        signer,
        checksums,
        steps=[{"stage": step.stage, "key": step.key, "config": dict(step.config)} for step in release.ancestors],
        materials={
            f"{source.stage} {source.config.get('source', source.key)}": source.fingerprint
            for source in sources.values()
        },
        verdict=[dict(check) for check in release.checks],
    )
