"""The field's words: retired names stay out of code, messages, recipes and pages, and docstrings begin with a short sentence."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipelines", "stages", "compressors", "registry")
# retired -> what stands for it; docs/reference/glossary.md says who uses the new word
WORDS = {
    "party": "teacher source",
    "parties": "teacher sources",
    "plug": "component",
    "plugs": "components",
    "spoken": "teacher outputs",
    "telling": "privileged context",
    "mine": "student, or the noun itself",
    "theirs": "teacher, or the noun itself",
    "one": "the noun itself",
    "ones": "the noun itself",
    "found": "the noun itself",
    "said": "the noun itself",
    "told": "the noun itself",
    "asked": "questions",
    "kept": "best weights, or the noun itself",
    "look": "evaluation",
    "looks": "evaluations",
    "place": "location",
    "places": "locations",
    "less": "difference",
}
# No part of a longer name either: these mean nothing to a reader of the papers.
PARTS = {"party", "parties", "plug", "plugs", "spoken", "telling", "mine", "theirs"}
PROSE = {
    r"\bplugs?\b": "component",
    r"(?<![-\w])part(?:y|ies)\b(?!-)": "teacher source",
    r"\b[Ww]hat is left of (?:the|an) original\b": "retention",
    r"\b[Ww]hat is left of each task\b": "retention",
    r"`?\b\w+`? less `?\w+`?'s\b": "difference",
    r"\bA less B\b": "difference",
    r"\blooks? (?:at|of) (?:the )?held-out\b": "evaluation",
}
# Old names that are still read, for one version, and the one file that holds them; names that are other libraries' or serialized.
ALIASES = {"pipelines/recipe/former_names.py"}
SERIALIZED = {
    # the embedding's name in saved weights, and methods of torch
    "*": {"ones"},
    # a key of checkpoints that were written before
    "compressors/distill/loop/trainer.py": {"parties"},
    # the digest of the questions in evaluation.json, part of artifacts that exist
    "stages/evaluate/causal/report.py": {"asked"},
}
THIS = "tests/architecture/test_words.py"
PAGES = {THIS, "LICENSE", "docs/reference/glossary.md", "CHANGELOG.md", "docker/constraints.txt"}
MAX_WORDS = 20


@cache
def tracked(*suffixes: str) -> tuple[str, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = (path for path in listed.stdout.split("\n") if path.endswith(suffixes) and (ROOT / path).is_file())
    return tuple(
        path for path in paths if path not in PAGES and "/shipped/" not in path and not path.startswith("findings/")
    )


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of everything that the code itself names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
            yield node.lineno, node.name or ""


def retired_names(path: str) -> list[str]:
    allowed = SERIALIZED["*"] | SERIALIZED.get(path, set())
    lines = []
    for line, name in identifiers(ast.parse((ROOT / path).read_text())):
        whole = name.strip("_").lower()
        parts = {part.lower() for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}
        words = ({whole} & WORDS.keys() | parts & PARTS) - allowed
        lines += [f"{path}:{line}: {name}: {WORDS[word]}" for word in sorted(words)]
    return lines


@pytest.mark.parametrize("room", [*PACKAGES, "attar", "benchmarks", "docker", "examples", "docs", "tests"])
def test_no_name_of_the_code_is_retired(room: str) -> None:
    paths = [path for path in tracked(".py") if path.startswith(f"{room}/") and path not in ALIASES]
    lines = [line for path in paths for line in retired_names(path)]
    assert not lines, "\n".join(lines)


def prose_of(path: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of a page, or of the strings and comments of a source file."""
    text = (ROOT / path).read_text()
    if not path.endswith(".py"):
        yield from enumerate(text.splitlines(), start=1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            yield token.start[0], token.string


@pytest.mark.parametrize("suffix", [".py", ".md", ".yaml", ".j2", ".toml"])
def test_no_page_or_message_speaks_in_retired_words(suffix: str) -> None:
    lines = []
    anything = re.compile("|".join(f"(?:{old})" for old in PROSE))
    for path in tracked(suffix):
        # few files have such a word at all, in their code or beside it: only these are taken apart
        if path in ALIASES or not anything.search((ROOT / path).read_text()):
            continue
        for line, text in prose_of(path):
            matches = [(match[0], new) for old, new in PROSE.items() for match in re.finditer(old, text)]
            lines += [f"{path}:{line}: {word}: {new}" for word, new in matches if word not in SERIALIZED.get(path, ())]
    assert not lines, "\n".join(lines)


def test_no_file_is_named_by_a_retired_word() -> None:
    stems = {Path(path).stem.lower(): path for path in tracked(".py", ".yaml", ".md")}
    assert not [path for stem, path in stems.items() if stem in WORDS or set(stem.split("_")) & PARTS]


@pytest.mark.parametrize("word", sorted({new.partition(",")[0] for new in WORDS.values()} - {"the noun itself"}))
def test_every_new_word_has_its_line_in_the_glossary(word: str) -> None:
    glossary = (ROOT / "docs/reference/glossary.md").read_text()
    assert re.search(rf"^\| {word.removesuffix('s')}s? \|.+\|.+\|$", glossary, re.MULTILINE)


def first_sentence(docstring: str) -> str:
    """Return a docstring's first sentence on one line; a formula's points and abbreviations end none."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    match = re.match(r"(?:.*?(?<!e\.g)(?<!i\.e)[.!?])(?=\s|$)", paragraph)
    return match[0] if match else paragraph


def documented(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (name, docstring) of a module and of its public classes, functions and methods."""
    pending: list[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]] = [("module", tree)]
    while pending:
        name, node = pending.pop()
        docstring = ast.get_docstring(node)
        if docstring:
            yield name, docstring
        if isinstance(node, ast.Module | ast.ClassDef):
            pending += [
                (child.name, child)
                for child in node.body
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and not child.name.startswith("_")
            ]


@pytest.mark.parametrize("package", [*PACKAGES, "attar"])
def test_docstrings_begin_with_a_short_sentence(package: str) -> None:
    long = []
    for path in tracked(".py"):
        if path.startswith(f"{package}/"):
            for name, docstring in documented(ast.parse((ROOT / path).read_text())):
                num_words = len(first_sentence(docstring).split())
                if num_words > MAX_WORDS:
                    long.append(f"{path}: {name}: {num_words} words: {first_sentence(docstring)}")
    assert not long, "\n".join(long)


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return the loss. It is in nats.", "Return the loss."),
        ("Return 0.5 of it,\nor more. Then stop.", "Return 0.5 of it, or more."),
        ("Return the loss\n\nLonger text.", "Return the loss"),
        ("Return names, e.g. a path. More.", "Return names, e.g. a path."),
    ],
)
def test_the_first_sentence_is_read_as_a_person_reads_it(docstring: str, sentence: str) -> None:
    assert first_sentence(docstring) == sentence
