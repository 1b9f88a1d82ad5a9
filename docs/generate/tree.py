"""The page of the tree: every folder with a line of what it holds, a package's from its own docstring."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from docs.generate.markdown import code, field_table
from docs.generate.names import tracked_files

ROOT = Path(__file__).parents[2]
# What is no package of ours says here what it is: everything at the top, and folders below it.
WORDS = {
    ".ci/": "Continuous integration: `.ci/run` lints and tests.",
    ".dockerignore": "What stays out of an image.",
    ".gitignore": "What stays out of the repository.",
    ".pre-commit-config.yaml": "The same checks before a commit.",
    "CHANGELOG.md": "What changed.",
    "CONTRIBUTING.md": "Set-up, style, tests, how to add something.",
    "LICENSE": "Apache-2.0.",
    "MANIFEST.in": "What a source distribution holds.",
    "Makefile": "Everything that is run: demo, test, lint, up, docs and others.",
    "README.md": "What Attar is and how to start.",
    "SECURITY.md": "What is defended, against whom, and how to report a weakness.",
    "attar/": "The one installed name: links to the rooms, and the face for scripts and notebooks.",
    "benchmarks/": "Timings and studies, side by side with peers; never part of the tests.",
    "benchmarks/experts/": "A small mixture of experts by sparse upcycling, and fewer of its experts by each method.",
    "benchmarks/families/": "Every family of causal language models, tiny and random: what can be cut, repaired and exported.",
    "benchmarks/encoders/": "Sentence encoders and classifiers: what half of one keeps, exits, subclasses, texts a second beside a peer.",
    "benchmarks/operate/": "What operating costs: starting, triggers, servers under load, the demo, workers that die.",
    "benchmarks/quality/": "What choices of science cost: windows, scans, patches, widths, top k, part of the vocabulary.",
    "benchmarks/mutation/": "Wrong versions of the science that no test notices, counted over all sittings.",
    "benchmarks/recovery/": "What is left after a cut, arm by arm, and the long healing.",
    "benchmarks/solve/": "One plan over all axes against the best single axis.",
    "benchmarks/results/": "What the benchmarks measured, the source of every table of this site.",
    "benchmarks/speed/": "Seconds and memory of one stage's work, ours and a peer's by turns.",
    "docker/": "Images for CPU and GPU, a compose file, pinned versions.",
    "docs/": "This site: tutorials, how-to, reference, explanation, decisions.",
    "docs/generate/": "What makes the reference from the code, and the strict check of all pages.",
    "examples/": "Short scripts, a notebook and a recipe, tried by the tests.",
    "findings/": "Facts of other people's libraries that surprised us, each a script that shows it.",
    "mkdocs.yml": "How the site is built.",
    "prefect.yaml": "Deployments, schedules and queues (lies in `pipelines/`).",
    "pyproject.toml": "Packages, extras, settings of tools.",
    "tests/": "What holds it.",
    "tests/architecture/": "Imports, sizes, names, these pages.",
    "tests/golden/": "Recorded numbers.",
    "tests/gpu/": "Run where there is a GPU.",
    "tests/laws/": "What must hold for every input, a file a method.",
    "tests/mutants/": "What mutation testing lets survive, and why.",
    "tests/parity/": "Against transformers, PEFT, mergekit, TRL, lm-eval, ONNX Runtime.",
    "tests/parity/graphs/": "Graphs with experts, states and repeated blocks, against the model that they were traced from.",
    "tests/parity/cuts/": "What is cut, against the whole model with those parts silenced by hand.",
    "tests/system/recipes/": "The shipped recipes of methods, recovery and vocabularies, node by node.",
    "tests/pipeline/": "Recipes under Prefect, kills, the interfaces in a real browser.",
    "tests/stage/": "One stage on a tiny model.",
    "tests/stages/": "One stage on a tiny model.",
    "tests/system/": "The whole, under load and damage.",
    "tests/system/campaign/": "Mutated recipes, rows, stores and model folders, kills, servers that go away.",
    "tests/unit/": "Pure and instant; below it the tree of the packages.",
}
# Below these a folder mirrors the packages and needs no line of its own.
MIRRORS = ("tests/unit/", "tests/stages/", "tests/laws/", "tests/parity/", "tests/system/")


@cache
def folders() -> dict[str, str]:
    """Return each folder with Python files, and everything at the top, with what it holds; empty where nothing says it."""
    files = {path for path in tracked_files() if not path.endswith("/")}
    shown = {f"{Path(path).parent.as_posix()}/" for path in files if path.endswith(".py")} - {"./"}
    shown |= {path.split("/")[0] + ("/" if "/" in path else "") for path in files}
    shown = {path for path in shown if (ROOT / path).exists() and not _is_mirror(path)}
    return {path: WORDS.get(path) or _docstring(ROOT / path / "__init__.py") for path in sorted(shown)}


def tree_pages() -> list[tuple[str, str]]:
    """Return (path, Markdown) of the page of the tree."""
    rows = [(code(path), words) for path, words in folders().items()]
    parts = [
        "# The tree",
        "Imports point down: `pipelines`, then `stages`, then `compressors` and `registry`, which never import each other. "
        "What a package holds is the first sentence of its docstring.",
        field_table(("folder or file", "what it holds"), rows),
    ]
    return [("explanation/tree.md", "\n\n".join(parts))]


def _is_mirror(path: str) -> bool:
    return any(path.startswith(folder) and path != folder and path not in WORDS for folder in MIRRORS)


def _docstring(path: Path) -> str:
    if not path.is_file():
        return ""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split())
