"""The strict check of the documentation: every link leads somewhere, and every field, stage, option, recipe and path that a page names exists.

python -m docs.generate.check  prints one line a mistake and fails when there is one.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator

import yaml
from pydantic import ValidationError

from docs.generate.markdown import slug
from docs.generate.names import command_names, known_names, make_targets, stage_names, tracked_files, variables
from docs.generate.pages import generated_pages, written_pages
from docs.generate.results import with_results
from pipelines.recipe import build_recipe, load_recipe
from pipelines.recipe_file import RecipeError, shipped_recipes
from stages.catalogue import STAGES

MAX_LINES = 250
FENCE = re.compile(r"^(```+)(\w*)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)(`+)([^`\n](?:.*?[^`\n])?)\1(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|md|yaml|yml|json|toml|sh|txt|j2))")


def mistakes() -> list[str]:
    """Return what is wrong with the pages, a line each."""
    written, generated = written_pages(), generated_pages()
    found = [line for path, text in written.items() for line in check_page(path, text)]
    pages = generated | {path: text for path, text in written.items() if not path.startswith("../")}
    found += [line for path, text in {**generated, **written}.items() for line in check_links(path, text, pages)]
    index = written["index.md"]
    found += [
        f"docs/{path}: no page links to it from docs/index.md"
        for path in written
        if not path.startswith("../") and path != "index.md" and f"({path})" not in index
    ]
    return found


def check_page(path: str, text: str) -> Iterator[str]:
    """Yield what a page that people wrote gets wrong: names, examples, results, length."""
    where = posixpath.normpath(f"docs/{path}")
    if text.count("\n") > MAX_LINES and not path.startswith("../"):
        yield f"{where}: {text.count(chr(10))} lines; accepted: {MAX_LINES} at most"
    try:
        with_results(text)
    except ValueError as error:
        yield f"{where}: {error}"
    for _, language, body in FENCE.findall(text):
        checks = {"yaml": _yaml_mistakes, "bash": _command_mistakes, "console": _command_mistakes}
        for line in checks.get(language, lambda _: iter(()))(body):
            yield f"{where}: {line}"
    for _, inner in SPAN.findall(FENCE.sub("", text)):
        for line in _span_mistakes(inner.strip()):
            yield f"{where}: {line}"


def check_links(path: str, text: str, pages: dict[str, str]) -> Iterator[str]:
    """Yield the links of a page that lead nowhere."""
    where = posixpath.normpath(f"docs/{path}")
    for target in LINK.findall(SPAN.sub("", FENCE.sub("", text))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        full = posixpath.normpath(posixpath.join("docs", posixpath.dirname(path), file)) if file else where
        inside = full.removeprefix("docs/") if full.startswith("docs/") else ""
        if inside in pages:
            if anchor and anchor not in anchors(pages[inside]):
                yield f"{where}: {target}: the page has no heading of that name"
        elif full not in tracked_files() and f"{full}/" not in tracked_files():
            yield f"{where}: {target}: no such page or file"


def anchors(text: str) -> set[str]:
    """Return the addresses of a page's headings."""
    return {slug(heading) for heading in HEADING.findall(FENCE.sub("", text))}


def _span_mistakes(span: str) -> Iterator[str]:
    stage, _, rest = span.partition(".")
    if span.startswith("attar "):
        yield from _command_mistakes(span)
    elif span.startswith("make "):
        yield from _command_mistakes(span)
    elif re.fullmatch(r"--[\w-]+( .*)?", span):
        option = span.split()[0]
        if not any(option in names for names in command_names().values()) and option not in known_names():
            yield f"`{span}`: no command of attar has this option"
    elif re.fullmatch(r"ATTAR_[A-Z_]+(=.*)?", span):
        if span.partition("=")[0] not in variables():
            yield f"`{span}`: no source reads this variable"
    elif stage in STAGES and re.fullmatch(r"[a-z_]+(\.[a-z_]+)*", rest or "-"):
        unknown = [name for name in rest.split(".") if name not in stage_names()[stage] | known_names()]
        if unknown:
            yield f"`{span}`: stage {stage} has no field or input {unknown[0]!r}"
    elif re.fullmatch(r"[a-z_]+: .+", span):
        if (key := span.partition(":")[0]) not in known_names():
            yield f"`{span}`: no stage, method or recipe has a field {key!r}"
    elif NAME.fullmatch(span):
        if span not in known_names():
            yield f"`{span}`: no stage, field, method, recipe or option has this name"
    elif PATH.fullmatch(span) and "/" in span and not span.startswith("."):
        known = tracked_files()
        if span not in known and span not in known_names() and f"docs/{span}" not in known:
            yield f"`{span}`: no such file or folder"


def _yaml_mistakes(text: str) -> Iterator[str]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield f"an example is no YAML: {str(error).splitlines()[0]}"
        return
    if isinstance(document, dict) and "nodes" in document:
        try:
            build_recipe(document)
        except (RecipeError, ValueError) as error:
            if not _is_of_the_reader(error):
                yield f"an example is no recipe: {' '.join(str(error).split())[:300]}"
        return
    for name, node in document.items() if isinstance(document, dict) else ():
        if isinstance(node, dict) and "stage" in node:
            yield from _node_mistakes(name, node)


def _node_mistakes(name: str, node: dict) -> Iterator[str]:
    if node["stage"] not in STAGES:
        yield f"node {name!r} of an example has an unknown stage {node['stage']!r}"
        return
    stage = STAGES[node["stage"]]
    try:
        stage.config_type.model_validate(node.get("config") or {})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        if not _is_of_the_reader(error):
            yield f"node {name!r} of an example: {node['stage']}.{field}: {first['msg']}"
    for slot in node.get("inputs") or {}:
        if slot not in stage.slots:
            yield f"node {name!r} of an example: {node['stage']} has no input {slot!r}"


def _command_mistakes(text: str) -> Iterator[str]:
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split(" #")[0].strip().removeprefix("$ ").split()
        if words[:1] == ["make"]:
            unknown = [word for word in words[1:] if "=" not in word and word not in make_targets()]
            if unknown and re.fullmatch(r"[\w-]+", unknown[0]):
                yield f"`{line.strip()}`: the Makefile has no target {unknown[0]!r}"
        elif words[:1] == ["attar"] and len(words) > 1:
            yield from _attar_mistakes(line.strip(), words[1:])


def _attar_mistakes(line: str, words: list[str]) -> Iterator[str]:
    command, *rest = words
    if command.startswith("-"):
        command, rest = "", words
    if command not in command_names():
        yield f"`{line}`: attar has no command {command!r}"
        return
    given = [word.partition("=")[0] for word in rest if word.startswith("--")]
    for option in given:
        if option not in command_names()[command]:
            yield f"`{line}`: attar {command} has no option {option!r}"
    if command in ("run", "plan") and rest and rest[0] in shipped_recipes():
        changes = [value for word, value in zip(rest, rest[1:], strict=False) if word == "--set"]
        try:
            load_recipe(rest[0], [change.strip("'\"") for change in changes])
        except (RecipeError, ValueError) as error:
            if not _is_of_the_reader(error):
                yield f"`{line}`: {' '.join(str(error).split())[:300]}"


def _is_of_the_reader(error: Exception) -> bool:
    """Whether all that is wrong is a file that an example stands for, such as MODEL, which only its reader has."""
    return all("does not exist" in line for line in str(error).splitlines() if "accepted:" in line) and (
        "does not exist" in str(error)
    )


def main() -> None:
    """Print every mistake, a line each, and fail when there is one."""
    lines = mistakes()
    print("\n".join(lines) if lines else "the documentation names nothing that is not there")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
