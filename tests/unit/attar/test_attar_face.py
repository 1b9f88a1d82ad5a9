"""The public face: its names, their signatures and docstrings, and that importing it waits for nothing."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import attar

HEAVY = ("torch", "transformers", "prefect", "mlflow", "numpy", "pydantic", "yaml", "rich", "typer")
SIGNATURES = {
    "compare": "(first, second)",
    "load_recipe": "(name_or_path, overrides)",
    "load_run": "(run_id, *, store)",
    "node": "(stage, *, config, **arguments)",
    "plan": "(recipe, *, overrides, until, from_node, store)",
    "pull": "(model, folder, *, form, key)",
    "run": "(recipe, *, overrides, until, from_node, workers, store, is_quiet)",
}
CLASSES = ("AttarError", "Comparison", "Plan", "Recipe", "RecipeError", "Run", "Store")


def names_of(function: object) -> str:
    """A signature without types and defaults."""
    parts, is_keyword = [], False
    for parameter in inspect.signature(function).parameters.values():  # type: ignore[arg-type]
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not is_keyword:
            parts.append("*")
            is_keyword = True
        parts.append(f"{'**' if parameter.kind is inspect.Parameter.VAR_KEYWORD else ''}{parameter.name}")
    return f"({', '.join(parts)})"


def test_the_public_names_are_these() -> None:
    assert sorted(attar.__all__) == sorted([*SIGNATURES, *CLASSES, "__version__", "stages"])
    assert set(attar.__all__) <= set(dir(attar))


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_functions_arguments_are_these(name: str) -> None:
    function = getattr(attar, name)
    assert names_of(function) == SIGNATURES[name]
    assert all(parameter.annotation for parameter in inspect.signature(function).parameters.values())


@pytest.mark.parametrize("name", [*SIGNATURES, *CLASSES])
def test_every_public_name_says_what_it_is(name: str) -> None:
    first = (inspect.getdoc(getattr(attar, name)) or "").partition("\n")[0]
    assert len(first.split()) >= 5 and first.endswith((".", ";", ","))


def test_a_wrong_name_is_told_with_the_right_ones() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'runn'; it has .*run, stages"):
        attar.runn  # type: ignore[attr-defined]  # noqa: B018


def test_importing_it_imports_no_library() -> None:
    code = f"import sys, attar; dir(attar); print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_it_takes_milliseconds() -> None:
    """In this process, where Python itself is up; 0.3 ms on the slowest machine it was tried on, and 50 are allowed."""
    modules = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "attar"}
    try:
        started = time.perf_counter()
        __import__("attar")
        seconds = time.perf_counter() - started
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "attar"]:
            del sys.modules[name]
        sys.modules.update(modules)
    assert seconds < 0.05


def test_a_project_with_a_package_of_the_same_name(tmp_path: Path) -> None:
    """A user's own `stages` beside the script is what `import stages` gives; Attar imports its own all the same."""
    (tmp_path / "stages.py").write_text("OWNER = 'the project'\n")
    script = tmp_path / "script.py"
    script.write_text("import stages, attar\nprint(stages.OWNER, len(attar.plan('tiny', until='pruned').nodes))\n")
    environment = os.environ | {
        "PYTHONPATH": str(Path(attar.__file__).parents[1]),
        "ATTAR_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.stdout.strip() == "the project 4", done.stderr
