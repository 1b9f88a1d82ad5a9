"""Shipped recipes with fields of their stages set to values that are odd, near, or right elsewhere: each plans, or is refused in lines."""

from __future__ import annotations

import copy
import importlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from attar.pipelines.recipe.control import CONTROLS
from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.mistakes import RecipeError
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import load_recipe
from attar.registry.artifacts.store import Store
from attar.stages.catalogue import STAGES
from attar.stages.runtime.older_fields import models_in
from tests.system.campaign.inputs.mutate import odd_value

COUNT = 5_000
CLEAN = (RecipeError,)
NUMBERS = [0, 1, 2, -1, 3, 7, 16, 100, 10_000, 10**9, 0.0, 0.5, 1.0, 1e-9, -0.5, 1e9]
# Where models and data come from, of every kind: most do not fit the recipe that is given them.
SOURCES = [
    "random:bert?num_blocks=2&hidden_size=32", "random:llama?num_blocks=3&hidden_size=32", "random:resnet?num_blocks=4", "random:unet",
    "random:vit?image_size=9", "random:dit?width=8", "random:efficientnet?num_blocks=1", "random:mixtral?num_blocks=2", "digits:",
    "template:rate_plan", "models:/none@champion", "hub:owner/name@main", "folder:/", "tower:/tmp", "npz:/etc/hostname", "jsonl:shipped/requests.jsonl",
]  # fmt: skip
KINDS = ["encoder", "classifier", "pair_scorer", "image_classifier", "denoiser", "causal"]


def prepare(scratch: Path) -> list[dict[str, Any]]:
    """Return every shipped recipe, parsed, the libraries that some plans read models with imported."""
    for library in ("transformers", "diffusers"):
        importlib.import_module(library)
    return [yaml.safe_load(path.read_text()) for path in shipped_recipes().values()]


def attempt(documents: list[dict[str, Any]], seed: int, folder: Path) -> None:
    """Set fields of one recipe, load it, and where it loads plan it."""
    random_ = random.Random(seed)
    document = copy.deepcopy(random_.choice(documents))
    for _ in range(random_.choice([1, 1, 2, 3])):
        node = random_.choice(list(document["nodes"].values()))
        _set(node.setdefault("config", {}), STAGES[node["stage"]].config_type, random_)
    if random_.random() < 0.15:
        document["control"] = random_.choice([*CONTROLS, *CONTROLS, odd_value(random_)])
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (folder / "recipe.yaml").write_bytes(text.encode(errors="surrogatepass"))
    make_plan(load_recipe(str(folder / "recipe.yaml")), Store(folder / "home"))


def _set(config: dict[str, Any], model: type[BaseModel], random_: random.Random) -> None:
    """Set a field that a config has, at any depth. Alternatives are set by their kind first."""
    name = random_.choice(list(model.model_fields))
    annotation = model.model_fields[name].annotation
    inner = list(models_in(annotation))
    if inner and random_.random() < 0.75:
        given = config.get(name)
        chosen = random_.choice(inner)
        nested = dict(given) if isinstance(given, dict) and random_.random() < 0.6 else {}
        kinds = get_args(chosen.model_fields["kind"].annotation) if "kind" in chosen.model_fields else ()
        config[name] = nested | ({"kind": random_.choice(kinds)} if kinds else {})
        _set(config[name], chosen, random_)
        return
    config[name] = _value(name, annotation, random_)


def _value(name: str, annotation: Any, random_: random.Random) -> Any:
    words = list(_words(annotation))
    draw = random_.random()
    if name == "source" and draw < 0.8:
        return random_.choice(SOURCES)
    if words and draw < 0.7:
        return random_.choice(words)
    if draw < 0.6:
        value = random_.choice(NUMBERS)
        return [value] * random_.randint(1, 3) if random_.random() < 0.2 else value
    return random_.choice([True, False, None, {"kind": random_.choice(KINDS)}]) if draw < 0.7 else odd_value(random_)


def _words(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for part in get_args(annotation):
        if get_origin(part) is not None:
            yield from _words(part)
