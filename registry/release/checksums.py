"""The sha256 of every file of a registered version: written when it is registered, checked when it is pulled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from attar.registry.artifacts.fingerprint import folder_digests

# In the form that `sha256sum --check` reads, so that whoever has the folder can check it without us.
CHECKSUMS = "SHA256SUMS"
# MLflow writes this one into what it downloads.
WRITTEN_BY_MLFLOW = "registered_model_meta"


# The model card of a version.
CARD = "README.md"


class DamagedModelError(ValueError):
    """A registered version is not what was registered."""

    exit_code = 1


def write_checksums(folder: Path) -> str:
    """Write the list of a finished folder's files and return the list's own sha256."""
    (folder / CHECKSUMS).unlink(missing_ok=True)
    text = "".join(f"{entry['sha256']}  {name}\n" for name, entry in folder_digests(folder).items())
    (folder / CHECKSUMS).write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def listed_files(folder: Path, digest: str) -> dict[str, str]:
    """Return the sha256 of every file that a version was registered with. Raises DamagedModelError when the list is not `digest`."""
    listing = folder / CHECKSUMS
    if not listing.is_file() or hashlib.sha256(listing.read_bytes()).hexdigest() != digest:
        raise DamagedModelError(f"{CHECKSUMS} is not the list that was registered")
    return read_listing(listing.read_text())


def read_listing(text: str) -> dict[str, str]:
    """Return the sha256 of every file that a list names. Raises DamagedModelError for a name that leads out of the folder."""
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
    for name in listed:
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise DamagedModelError(f"{CHECKSUMS} names {name!r}, which is no file of a version")
    return listed


def wanted_files(who: str, listed: Mapping[str, str], form: str) -> dict[str, str]:
    """Return the files of a form and the card, name to sha256; all where none is named. Raises ValueError for an unknown form."""
    if not form:
        return dict(listed)
    forms = sorted({name.partition("/")[0] for name in listed if "/" in name})
    [chosen, *others] = (
        [name for name in forms if name == form] or [name for name in forms if name.startswith(form)] or [""]
    )
    if not chosen or others:
        problem = f"{form!r} could be {', '.join([chosen, *others])}" if others else f"no form {form!r}"
        raise ValueError(f"{who}: {problem}; it has {', '.join(forms)}")
    return {name: sha256 for name, sha256 in listed.items() if name == CARD or name.startswith(f"{chosen}/")}


def verify_checksums(folder: Path, digest: str, of: Callable[[str], bool] = lambda name: True) -> None:
    """Raise DamagedModelError naming the first file that is missing, changed or not in the list. Also when the list is not `digest`.

    `of`: which of the listed files should be there; all.
    """
    expected = {name: sha256 for name, sha256 in listed_files(folder, digest).items() if of(name)}
    actual = {name: entry["sha256"] for name, entry in folder_digests(folder).items()}
    for name in sorted(expected.keys() | actual.keys() - {CHECKSUMS, WRITTEN_BY_MLFLOW}):
        if name not in actual:
            raise DamagedModelError(f"{name} is missing")
        if name not in expected:
            raise DamagedModelError(f"{name} was not registered")
        if actual[name] != expected[name]:
            raise DamagedModelError(f"{name} is not what was registered: its sha256 differs")
