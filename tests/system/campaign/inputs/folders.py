"""Mutated model folders: config, tokenizer and weights; each is brought in whole, or refused in a line."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from attar.registry.artifacts.store import Store
from attar.stages.contract import NoInputs
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import FAMILIES, random_model
from tests.system.campaign.inputs.mutate import changed_bytes, changed_text, changed_value, changed_word

COUNT = 2_000
CLEAN = (ValueError,)
# What says of a folder what it is.
SAYING = ("config.json", "modules.json", "preprocessor_config.json", "scheduler_config.json", "model_index.json")


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
    change_folder(copy, random_)
    config = IngestModelConfig(source=f"folder:{copy}")
    ingest_model.forecast(config, {})
    ingest_model.execute(config, NoInputs(), Store(folder / "home"))


def change_folder(folder: Path, random_: random.Random) -> None:
    """Change a folder in a few ways: files, what JSON in them says, what the weights hold. Whose config lies below, below too."""
    for _ in range(random_.choice([1, 1, 2, 3])):
        _change_tensors(folder, random_) if random_.random() < 0.25 else _change(folder, random_)


def _change_tensors(folder: Path, random_: random.Random) -> None:
    """Change what the weights' file holds, or cut it into shards that an index names: the file itself stays readable."""
    path = next(iter(sorted(folder.rglob("*model.safetensors"))), None)
    if path is None or not path.is_file():
        return
    try:
        tensors = load_file(path)
    except Exception:  # noqa: BLE001 - damaged before: it stays as it is
        return
    name = random_.choice(sorted(tensors))
    action = random_.choice(["gone", "rename", "prefix", "shape", "dtype", "number", "surplus", "shards"])
    if action == "gone":
        del tensors[name]
    elif action == "rename":
        tensors[changed_word(name, random_)] = tensors.pop(name)
    elif action == "prefix":
        mark = random_.choice(["module.", "_orig_mod.", "base_model.model.", "x."])
        tensors = {f"{mark}{key}": tensor for key, tensor in tensors.items()}
    elif action == "shape":
        tensor = tensors[name]
        tensors[name] = random_.choice([tensor[:1], tensor.reshape(-1), tensor[None], tensor[:0]]).contiguous()
    elif action == "dtype":
        kind = random_.choice([torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.float8_e4m3fn])
        tensors[name] = tensors[name].to(kind)
    elif action == "number":
        tensors[name] = torch.full_like(tensors[name], random_.choice([float("nan"), float("inf"), 0.0, 1e38]))
    elif action == "surplus":
        tensors[random_.choice(["x", "model.layers.9.mlp.up_proj.weight", "lm_head.bias"])] = tensors[name].clone()
    else:
        _shard(path.parent, tensors, random_)
        path.unlink()
        return
    save_file(tensors, path, metadata={"format": "pt"})


def _shard(folder: Path, tensors: dict[str, torch.Tensor], random_: random.Random) -> None:
    names, total = sorted(tensors), random_.choice([2, 3])
    files = {name: f"model-{index % total + 1:05d}-of-{total:05d}.safetensors" for index, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save_file(
            {name: tensors[name] for name in names if files[name] == file}, folder / file, metadata={"format": "pt"}
        )
    index: dict[str, object] = {"metadata": {"total_size": 0}, "weight_map": files}
    if random_.random() < 0.6:
        index = changed_value(index, random_)
    (folder / "model.safetensors.index.json").write_bytes(json.dumps(index).encode(errors="surrogatepass"))


def _change(folder: Path, random_: random.Random) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    main = [path for path in files if path.name in SAYING] or [folder / "config.json"]
    drawn_from = main if random_.random() < 0.5 else files or main
    victim = drawn_from[0] if len(drawn_from) == 1 else random_.choice(drawn_from)
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
