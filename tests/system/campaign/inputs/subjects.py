"""Mutated folders of encoders, classifiers, scorers of pairs, image classifiers, denoisers and vision-language models: whole, or a line."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from attar.compressors.encode.classifier import with_head
from attar.compressors.images.layout import LAYOUTS
from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import ENCODER_FAMILIES, random_encoder
from tests.stages.merge.test_rejoin import WHOLES, whole_folder
from tests.system.campaign.inputs.folders import change_folder
from tests.system.campaign.inputs.mutate import checked, odd_value

COUNT = 2_000
CLEAN = (ValueError,)
TOWER = "tower"
LABELS = ["fruit", "tool", "bird"]
SIZES = "num_blocks=2&hidden_size=32"
# What is brought in to be changed, by a name; each as its own kind.
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"encoder-{family}": (f"random:{family}?{SIZES}", {"kind": "encoder"}) for family in ENCODER_FAMILIES},
    **{f"image-{family}": ("random:" + family, {"kind": "image_classifier"}) for family in LAYOUTS},
    "classifier": (f"random:bert?{SIZES}", {"kind": "classifier", "labels": LABELS}),
    "subclasses": (f"random:roberta?{SIZES}", {"kind": "classifier", "labels": LABELS, "num_subclasses": 2}),
    "scorer": (f"random:roberta?{SIZES}", {"kind": "pair_scorer"}),
    "denoiser": ("random:unet?sample_size=8&width=8", {"kind": "denoiser"}),
    "transformer": ("random:dit?sample_size=8&width=16", {"kind": "denoiser"}),
}
# What else a folder may be taken for: a fresh head, other names, a pooling that is asked for.
OTHER_MODELS: list[dict[str, Any]] = [
    {"kind": "encoder", "pooling": "cls", "max_tokens": 40},
    {"kind": "classifier"},
    {"kind": "classifier", "labels": LABELS},
    {"kind": "pair_scorer"},
    {"kind": "image_classifier", "classes": LABELS},
    {"kind": "image_classifier"},
    {"kind": "denoiser"},
    {"kind": "causal"},
]


def prepare(scratch: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return a folder of each, as it lies in the store, with the kind that it is."""
    store, folders = Store(scratch / "home"), {}
    for name, (source, model) in SOURCES.items():
        made = ingest_model.execute(IngestModelConfig(source=source, model=model), NoInputs(), store).artifact
        folders[name] = (shutil.copytree(made.path, scratch / name), {"kind": model["kind"]})
    folders["plain"] = (_plain_transformer(scratch / "plain"), {"kind": "encoder"})
    for family in WHOLES:
        folders[f"{TOWER}-{family}"] = (whole_folder(family, scratch / family), {"kind": "causal"})
    return folders


def attempt(folders: dict[str, tuple[Path, dict[str, Any]]], seed: int, folder: Path) -> None:
    """Change a copy, plan it as `attar plan` would, and bring it in as what it is, or as something else."""
    random_ = random.Random(seed)
    name = random_.choice(sorted(folders))
    source, model = folders[name]
    copy = folder / "model"
    shutil.copytree(source, copy)
    change_folder(copy, random_)
    if random_.random() < 0.25:
        model = random_.choice(OTHER_MODELS)
    if random_.random() < 0.05:
        model = {**model, random_.choice(["labels", "max_tokens", "pooling", "kind", "classes"]): odd_value(random_)}
    scheme = TOWER if name.startswith(TOWER) or random_.random() < 0.05 else "folder"
    config = checked(IngestModelConfig, source=f"{scheme}:{copy}", model=model)
    ingest_model.forecast(config, {})
    ingest_model.execute(config, NoInputs(), Store(folder / "home"))


def _plain_transformer(folder: Path) -> Path:
    """Write a classifier's folder as transformers alone does, its head unnamed."""
    model, tokenizer = random_encoder("distilbert", num_blocks=2, hidden_size=32)
    with_head(model, ["LABEL_0", "LABEL_1"], 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
