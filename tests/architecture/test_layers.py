"""The house as STYLE.md draws it: layers, homes of libraries, sizes, names, recipes and README."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipelines", "stages", "compressors", "registry")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# the public face, whose __init__.py is the one that holds code
FACE = sorted(path for path in (ROOT / "attar").glob("*.py") if path.name != "__init__.py")
MODULES = [*(path for path in SOURCES if path.name != "__init__.py"), *FACE]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax of a file; read once for all the tests here."""
    return ast.parse(path.read_text())


@pytest.fixture(scope="module", autouse=True)
def forget() -> Iterator[None]:
    """A million nodes of syntax need not stay."""
    yield
    tree.cache_clear()


@cache
def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.removeprefix("attar.").partition(".")[0])
    return names


def test_import_layers_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("prefect", {"pipelines"}),
        ("mlflow", {"registry"}),
        ("pydantic", {"attar", "pipelines", "stages", "registry"}),
        ("onnxruntime", {"stages"}),
        ("lm_eval", {"stages"}),
        ("typer", {"pipelines"}),
        ("rich", {"pipelines"}),
        ("yaml", {"pipelines"}),
    ],
)
def test_each_library_has_one_home(library: str, homes: set[str]) -> None:
    users = {path.relative_to(ROOT).parts[0] for path in (*SOURCES, *FACE) if library in imported(path)}
    assert users <= homes


def test_package_files_hold_a_docstring_only() -> None:
    bodies = {path: tree(path).body for path in SOURCES if path.name == "__init__.py"}
    assert not [name(path) for path, body in bodies.items() if len(body) != 1 or not isinstance(body[0], ast.Expr)]


def test_files_and_functions_stay_small() -> None:
    assert not [line for path in MODULES for line in lengths(path)]


def lengths(path: Path) -> Iterator[str]:
    """What of a file is too long, a line each."""
    num_lines = len(path.read_text().splitlines())
    # the command line is one function a command; its length is its breadth
    if num_lines > (300 if path.name in ("main.py", "flow.py") else 260):
        yield f"{name(path)} has {num_lines} lines"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef) and (length := (node.end_lineno or 0) - node.lineno + 1) > 45:
            yield f"{name(path)}: {node.name} has {length} lines"


def test_files_are_named_for_what_they_know() -> None:
    assert not [name(path) for path in MODULES if path.stem in ("utils", "helpers", "common", "misc")]
    assert not [name(path) for path in MODULES if not ast.get_docstring(tree(path))], "every file says what it is about"


def test_no_package_files_where_they_would_shadow() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py")) and not list((ROOT / "docker").rglob("__init__.py"))


def test_test_files_stay_small() -> None:
    num_lines = {name(path): len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py")}
    assert not {path: count for path, count in num_lines.items() if count > 300}


def test_folders_show_at_most_twenty_names() -> None:
    top = [ROOT / package for package in (*PACKAGES, "attar", "tests", "benchmarks")]
    folders = [
        folder
        for root in top
        for folder in (root, *root.rglob("*"))
        if folder.is_dir() and "__pycache__" not in folder.parts
    ]
    crowded = {name(folder): count for folder in folders if (count := len(names_in(folder))) > 20}
    assert not crowded


def names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name != "__pycache__" and not entry.name.startswith(".")]


def test_unit_tests_mirror_the_rooms() -> None:
    rooms = {path.relative_to(ROOT / "tests/unit").parent for path in (ROOT / "tests/unit").rglob("test_*.py")}
    assert all((ROOT / room).is_dir() for room in rooms if str(room) != ".")


def test_one_name_is_installed() -> None:
    """Every package of the source lies under `attar`, by a link, and is imported by that name alone."""
    assert {path.name for path in (ROOT / "attar").iterdir() if path.is_symlink()} == set(PACKAGES)
    assert all((ROOT / "attar" / package).resolve() == ROOT / package for package in PACKAGES)
    assert {path for path in SOURCES if not path.with_name("__init__.py").exists()} == set()
    bare = [name(path) for path in (*SOURCES, *(ROOT / "tests").rglob("*.py")) if imports_bare(path)]
    assert not bare


def imports_bare(path: Path) -> bool:
    nodes = list(ast.walk(tree(path)))
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return any(module.partition(".")[0] in PACKAGES for module in modules)


def test_no_docstring_of_a_public_name_is_missing() -> None:
    missing = []
    for path in MODULES:
        for node in tree(path).body:
            is_public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if is_public and not ast.get_docstring(node):  # type: ignore[arg-type]
                missing.append(f"{name(path)}: {node.name}")  # type: ignore[union-attr]
    assert not missing


def test_help_answers_at_once() -> None:
    """No heavy library may be imported for `attar --help`; the time itself is measured in benchmarks/."""
    script = "import sys, attar.pipelines.cli.main; print(sorted(set(sys.modules) & {'torch', 'transformers', 'prefect', 'mlflow', 'numpy', 'pydantic'}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_range_admits_its_pin() -> None:
    """A pin outside its range fails only on a fresh machine: pip refuses the pair."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (ROOT / "docker/constraints.txt").read_text().splitlines() if "==" in line)
    pins = {canonicalize_name(package): version for package, version in pins.items() if "#" not in package}
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    requirements = [Requirement(line) for line in wanted if not line.startswith("attar[")]
    outside = [
        f"{requirement} but {pins[canonicalize_name(requirement.name)]}"
        for requirement in requirements
        if canonicalize_name(requirement.name) in pins
        and not requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
    ]
    assert not outside
    gpu_only = {"onnxruntime-gpu", "bitsandbytes"}
    assert {canonicalize_name(requirement.name) for requirement in requirements} - gpu_only <= pins.keys()


def test_mutation_testing_names_what_is_there() -> None:
    """By the name that modules are imported by: under another, no mutant would be switched on, and all would survive."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    patterns = [*settings["only_mutate"], *settings["pytest_add_cli_args_test_selection"]]
    assert not [pattern for pattern in patterns if not list(ROOT.glob(pattern))]
    assert all(pattern.startswith("attar/") for pattern in (*settings["source_paths"][1:], *settings["only_mutate"]))
