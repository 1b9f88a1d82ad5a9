"""The page's libraries: taken from files or npm, by their sha512 or not at all, and kept."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from attar.pipelines.browser.npm_packages import PACKAGES, NpmPackage, library_files


def packed(folder: Path, content: bytes = b"export {}") -> NpmPackage:
    """Write a tarball as `npm pack` does, and return the package that it is."""
    folder.mkdir(parents=True, exist_ok=True)
    package = NpmPackage("@owner/lib", "1.2.3", "", ("dist/lib.mjs",))
    with tarfile.open(folder / package.tarball, "w:gz") as archive:
        for name in ("package/dist/lib.mjs", "package/dist/other.mjs"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    digest = hashlib.sha512((folder / package.tarball).read_bytes()).digest()
    return replace(package, integrity=f"sha512-{base64.b64encode(digest).decode()}")


def test_files_are_taken_from_a_folder_once_and_no_others(tmp_path: Path) -> None:
    package = packed(tmp_path / "given")
    home = tmp_path / "home"
    files = library_files(home, tmp_path / "given", packages=(package,))
    assert {name: path.read_bytes() for name, path in files.items()} == {"lib.mjs": b"export {}"}
    assert [path.name for path in (home / "browser").rglob("*")] == ["owner-lib-1.2.3", "lib.mjs"]
    assert library_files(home, tmp_path / "nowhere", packages=(package,)) == files, "the home has them"


def test_a_package_that_is_not_what_it_should_be_is_refused(tmp_path: Path) -> None:
    package = packed(tmp_path / "given")
    packed(tmp_path / "given", b"something else")
    with pytest.raises(ValueError, match=r"owner-lib-1\.2\.3\.tgz is not @owner/lib@1\.2\.3: its sha512 differs"):
        library_files(tmp_path / "home", tmp_path / "given", packages=(package,))
    assert not list((tmp_path / "home" / "browser").iterdir())


def test_without_files_and_npm_a_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = packed(tmp_path / "given")
    with pytest.raises(
        ValueError, match=r"which has no owner-lib-1\.2\.3\.tgz; make it with: npm pack @owner/lib@1\.2\.3"
    ):
        library_files(tmp_path / "home", tmp_path, packages=(package,))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="install npm, or run `npm pack @huggingface/transformers@"):
        library_files(tmp_path / "home", packages=(package,))


def test_npm_packs_and_its_failure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = packed(tmp_path / "registry")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\n/bin/cp {tmp_path}/registry/*.tgz "$6"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    lines: list[str] = []
    assert library_files(tmp_path / "home", say=lines.append, packages=(package,))["lib.mjs"].is_file()
    assert lines == ["fetching @owner/lib@1.2.3 by npm"]
    npm.write_text("#!/bin/sh\necho 'npm error code E404' >&2\nexit 1\n")
    with pytest.raises(ValueError, match=r"^npm did not fetch @owner/lib@1\.2\.3: npm error code E404$"):
        library_files(tmp_path / "other", packages=(package,))


def test_the_packages_are_pinned_and_hashed() -> None:
    for package in PACKAGES:
        assert package.version[0].isdigit() and len(base64.b64decode(package.integrity.removeprefix("sha512-"))) == 64
