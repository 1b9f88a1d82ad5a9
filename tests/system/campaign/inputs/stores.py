"""Damaged stores: looking never fails, and a run gives back what was sealed, or builds it again."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attar.pipelines.cli.listing import list_artifacts
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.lineage import trace
from attar.registry.artifacts.store import Slot, Store
from attar.registry.release.collect import collect_garbage
from attar.registry.tracking.mlflow_home import open_client
from tests.system.campaign.inputs.mutate import changed_bytes, changed_text, changed_value

COUNT = 500
# Nothing of this is to be refused: what is damaged is built again.
CLEAN = ()
KEYS = [letter * 64 for letter in "abc"]


@dataclass(frozen=True)
class Template:
    """A whole store to damage copies of, and what each artifact holds."""

    home: Path
    artifacts: dict[str, DatasetArtifact]


def prepare(scratch: Path) -> Template:
    """Build three artifacts, each made from the one before; one registry for all copies, without a model."""
    store = Store(scratch / "template")
    artifacts: dict[str, DatasetArtifact] = {}
    for key in KEYS:
        artifacts[key] = _run(store, key)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch / 'mlflow.db'}"
    open_client(scratch)
    collect_garbage(store.root, keep_runs=0, is_dry_run=True)
    return Template(store.root, artifacts)


def attempt(template: Template, seed: int, folder: Path) -> None:
    """Damage a copy, look at it in every way, run, and compare with what was sealed."""
    random_, home = random.Random(seed), folder / "home"
    shutil.copytree(template.home, home)
    for _ in range(random_.choice([1, 1, 2, 4])):
        _damage(home, random_)
    _inspect(home)
    for key in KEYS:
        artifact = _run(Store(home), key)
        sealed = template.artifacts[key]
        assert (artifact.fingerprint, artifact.facts) == (sealed.fingerprint, sealed.facts), (
            "another artifact passes as a hit"
        )
        for name in ("rows.jsonl", "records/metrics.jsonl", "big.bin", "empty"):
            assert not (artifact.path / name).is_symlink()
            assert (artifact.path / name).read_bytes() == (sealed.path / name).read_bytes(), f"{name} passes as a hit"
        Store(home).verify(artifact)


def _inspect(home: Path) -> None:
    os.environ["ATTAR_HOME"] = str(home)
    list_artifacts()
    store = Store(home)
    for key in KEYS:
        with _one_line():
            trace(store, store.find(key[:10]))
    with _one_line():
        collect_garbage(home, keep_runs=1, is_dry_run=True)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "\n" in str(error):
            raise AssertionError("a refusal of several lines") from error


def _run(store: Store, key: str) -> DatasetArtifact:
    before = KEYS[KEYS.index(key) - 1] if KEYS.index(key) else ""
    entry = {"stage": "make", "kind": "dataset", "key": before, "fingerprint": "0" * 64}
    slot = Slot(
        stage="make",
        version=1,
        config={"seed": 0, "nested": {"a": [1.5, None]}},
        inputs={"data": [entry]} if before else {},
    )

    def build(workdir: Path) -> DatasetArtifact:
        content = workdir / "content"
        (content / "records").mkdir()
        (content / "rows.jsonl").write_text(json.dumps({"id": key, "text": "\u00e9"}))
        (content / "records" / "metrics.jsonl").write_text("{}\n")
        (content / "big.bin").write_bytes(random.Random(key).randbytes(10_000))
        (content / "empty").touch()
        return DatasetArtifact.at(content, num_rows=1, name=key[:4], share=0.5)

    return store.get_or_build(slot, DatasetArtifact, key, build).artifact


def _damage(home: Path, random_: random.Random) -> None:
    victims = [path for path in [*(home / "store").rglob("*"), *(home / "locks").rglob("*")] if os.path.lexists(path)]
    manifests = [path for path in victims if path.name == "manifest.json" and path.is_file()]
    if manifests and random_.random() < 0.5:
        victim = random_.choice(manifests)
        try:
            content = json.loads(victim.read_text())
        except ValueError:
            content = {}
        text = (
            json.dumps(changed_value(content, random_))
            if random_.random() < 0.7
            else changed_text(victim.read_text(errors="replace"), random_)
        )
        victim.write_bytes(text.encode(errors="surrogatepass"))
        return
    if not victims:
        return
    victim = random_.choice(sorted(victims))
    action = random_.choice(
        ["bytes", "bytes", "gone", "link", "dead link", "pipe", "folder", "file", "stray", "other's", "empty"]
    )
    if action == "bytes" and victim.is_file():
        victim.write_bytes(changed_bytes(victim.read_bytes(), random_))
    elif action == "stray" and victim.is_dir():
        (victim / random_.choice(["x", "\u00e9", "manifest.json.part"])).write_text("x")
    elif action == "other's":
        other = random_.choice([path for path in victims if path != victim] or [victim])
        if other.is_file() and victim.is_file():
            shutil.copyfile(other, victim)
    else:
        aside = home / "aside" / str(random_.random())
        aside.parent.mkdir(exist_ok=True)
        os.rename(victim, aside)
        _put(victim, action, aside)


def _put(victim: Path, action: str, aside: Path) -> None:
    if action == "link":
        victim.symlink_to(aside)
    elif action == "dead link":
        victim.symlink_to(aside / "nothing")
    elif action == "pipe":
        os.mkfifo(victim)
    elif action == "folder":
        victim.mkdir()
    elif action in ("file", "empty"):
        victim.write_text("x" if action == "file" else "")
