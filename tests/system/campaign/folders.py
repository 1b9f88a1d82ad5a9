"""Mutated model folders: config, tokenizer and weights; each is brought in whole, or refused in a line."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import FAMILIES, random_model
from tests.system.campaign.mutate import changed_bytes, changed_text, changed_value

COUNT = 2_000
CLEAN = (ValueError,)


def prepare(scratch: Path) -> list[Path]:
    """Return one tiny folder of each family."""
    folders = []
    for family in FAMILIES:
        model, tokenizer = random_model(family, num_blocks=2, hidden_size=32)
        model.save_pretrained(scratch / family)
        tokenizer.save_pretrained(scratch / family)
        folders.append(scratch / family)
    return folders


def attempt(folders: list[Path], seed: int, folder: Path) -> None:
    """Change a copy, plan it as `attar plan` would, and bring it in."""
    random_ = random.Random(seed)
    copy = folder / "model"
    shutil.copytree(random_.choice(folders), copy)
    for _ in range(random_.choice([1, 1, 2, 3])):
        _change(copy, random_)
    config = IngestModelConfig(source=f"folder:{copy}")
    ingest_model.forecast(config, {})
    ingest_model.execute(config, NoInputs(), Store(folder / "home"))


def _change(folder: Path, random_: random.Random) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    victim = folder / "config.json" if random_.random() < 0.5 else random_.choice(files or [folder / "config.json"])
    if not victim.is_file():
        return
    action = random_.choice(["value", "value", "text", "bytes", "gone", "pipe", "folder", "empty", "link", "stray"])
    if action == "value" and victim.suffix == ".json":
        try:
            victim.write_bytes(
                json.dumps(changed_value(json.loads(victim.read_text()), random_)).encode(errors="surrogatepass")
            )
        except ValueError:  # no JSON any more
            victim.write_bytes(b"{}")
    elif action == "text" and victim.suffix != ".safetensors":
        victim.write_bytes(changed_text(victim.read_text(errors="replace"), random_).encode(errors="surrogatepass"))
    elif action == "stray":
        (
            folder
            / random_.choice(["pytorch_model.bin", "adapter_config.json", "model.safetensors.index.json", "x.py"])
        ).write_text("{}")
    elif action in ("gone", "pipe", "folder", "empty", "link"):
        os.rename(victim, folder.parent / f"aside-{random_.random()}")
        if action == "pipe":
            os.mkfifo(victim)
        elif action == "folder":
            victim.mkdir()
        elif action == "empty":
            victim.touch()
        elif action == "link":
            victim.symlink_to(folder.parent / "nothing")
    else:
        victim.write_bytes(changed_bytes(victim.read_bytes(), random_))
