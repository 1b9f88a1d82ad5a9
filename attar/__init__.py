"""Attar for notebooks and scripts: recipes, runs, comparisons and stages as plain Python.

    import attar

    run = attar.run("tiny")                        # a recipe, through Prefect and MLflow, in a process of its own
    attar.compare(run, attar.load_run("2026"))     # two runs, figure by figure, with intervals
    attar.stages.prune(model="my-model", blocks=[3], output="smaller")   # one stage on folders, without either

Whatever is imported is imported when it is first used, so that `import attar` costs milliseconds. The types are in `__init__.pyi`.
"""

import sys
from importlib import import_module
from typing import Any

from attar.callable_rooms import FacePackage

# Which module each public name comes from.
HOMES = {
    "AttarError": "attar.one_line",
    "Comparison": "attar.comparison",
    "Plan": "attar.plans",
    "Recipe": "attar.pipelines.recipe.whole",
    "RecipeError": "attar.pipelines.recipe.mistakes",
    "Run": "attar.runs",
    "Store": "attar.registry.artifacts.store",
    "compare": "attar.comparison",
    "load_recipe": "attar.entries",
    "load_run": "attar.runs",
    "node": "attar.entries",
    "plan": "attar.plans",
    "pull": "attar.entries",
    "run": "attar.runs",
}

__all__ = [
    "AttarError",
    "Comparison",
    "Plan",
    "Recipe",
    "RecipeError",
    "Run",
    "Store",
    "__version__",
    "compare",
    "load_recipe",
    "load_run",
    "node",
    "plan",
    "pull",
    "run",
    "stages",
]


def __getattr__(name: str) -> Any:
    if name in HOMES:
        value = getattr(import_module(HOMES[name]), name)
    elif name == "stages":
        return import_module("attar.stages")
    elif name == "__version__":
        from importlib.metadata import version  # local: milliseconds that most do not need

        value = version("attar")
    else:
        raise AttributeError(f"module 'attar' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = FacePackage
