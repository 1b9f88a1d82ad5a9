"""Mutated recipes, with and without `--set`: each loads and plans, or is refused in lines."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

from attar.pipelines.recipe.file import shipped_recipes
from attar.pipelines.recipe.mistakes import RecipeError
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import load_recipe
from attar.registry.artifacts.store import Store
from tests.system.campaign.inputs.mutate import changed_text, changed_value, odd_value

COUNT = 10_000
CLEAN = (RecipeError,)


def prepare(scratch: Path) -> list[str]:
    """Return the texts that the mutations begin with: every shipped recipe."""
    return [path.read_text() for path in shipped_recipes().values()]


def attempt(texts: list[str], seed: int, folder: Path) -> None:
    """Mutate one recipe and load it; where it loads, plan it."""
    random_ = random.Random(seed)
    text = random_.choice(texts)
    document = yaml.safe_load(text)
    if random_.random() < 0.6:
        for _ in range(random_.choice([1, 1, 2, 4])):
            document = changed_value(document, random_)
        text = _dumped(document)
    if random_.random() < 0.5:
        for _ in range(random_.choice([1, 1, 3])):
            text = changed_text(text, random_)
    (folder / "recipe.yaml").write_bytes(text.encode(errors="surrogatepass"))
    overrides = [_override(document, random_) for _ in range(random_.choice([0, 0, 0, 1, 2]))]
    make_plan(load_recipe(str(folder / "recipe.yaml"), overrides), Store(folder / "home"))


def _dumped(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _override(document: Any, random_: random.Random) -> str:
    nodes = document.get("nodes") if isinstance(document, dict) else None
    name = random_.choice([*map(str, nodes), "x"]) if isinstance(nodes, dict) else "x"
    field = random_.choice(
        ["source", "num_blocks", "metric", "expect.num_blocks", "", "a.b.c.d", "model", "data", "objectives.forward_kl"]
    )
    part = random_.choice(["config", "config", "inputs", "execution", ""])
    value = odd_value(random_)
    return f"{name}.{part}.{field}{random_.choice(['=', '=', ''])}{value if random_.random() < 0.5 else _dumped(value)}"
