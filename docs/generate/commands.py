"""Reference of the command line, read from the command line itself: every command, argument and option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import typer.main

from attar.pipelines.cli.main import app
from docs.generate.markdown import code, field_table

WORDS = {
    "str": "text",
    "int": "whole number",
    "integer": "whole number",
    "integer range": "whole number",
    "float": "number",
    "directory": "path",
    "file": "path",
    "list": "text",
}


def commands() -> Mapping[str, Any]:
    """Return the commands of `attar` by name."""
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def options() -> dict[str, set[str]]:
    """Return the options of each command as they are typed; those of `attar` itself under an empty name."""
    root = typer.main.get_command(app)
    by_command = {name: _opts(command) | {"--help"} for name, command in commands().items()}
    return {"": _opts(root) | {"--help", "--install-completion", "--show-completion"}, **by_command}


def command_pages() -> list[tuple[str, str]]:
    """Return (path, Markdown) of the page of the command line."""
    parts = [
        "# Command line",
        "Every command explains itself with `--help`. Where `--json` is offered, it prints what a script can read. "
        "Exit codes: 0 done, 1 something failed while it ran, 2 the request was refused before anything ran.",
    ]
    for name, command in commands().items():
        parts += [f"## attar {name}", command.help or "", f"```console\nattar {name} {_usage(command)}\n```"]
        parts.append(_parameters(command))
    return [("reference/cli.md", "\n\n".join(part for part in parts if part))]


def _opts(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def _usage(command: Any) -> str:
    words = ["[OPTIONS]"] if any(not _is_argument(parameter) for parameter in command.params) else []
    for parameter in filter(_is_argument, command.params):
        label = _label(parameter)
        words.append(label if parameter.required else f"[{label}]")
    return " ".join(words)


def _parameters(command: Any) -> str:
    rows = []
    for parameter in command.params:
        is_argument = _is_argument(parameter)
        names = _label(parameter) if is_argument else ", ".join((*parameter.opts, *parameter.secondary_opts))
        rows.append((code(names), _takes(parameter), _default(parameter), getattr(parameter, "help", "") or ""))
    return field_table(("argument or option", "takes", "default", "what it means"), rows)


def _is_argument(parameter: Any) -> bool:
    return parameter.param_type_name == "argument"


def _label(parameter: Any) -> str:
    return (parameter.metavar or parameter.name or "").upper()


def _takes(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "nothing"
    words = WORDS.get(_kind(parameter), _kind(parameter))
    low, high = (_bound(parameter, end) for end in ("min", "max"))
    bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
    return ", ".join([words, *bounds, *["repeatable"] * bool(getattr(parameter, "multiple", False))])


def _kind(parameter: Any) -> str:
    # typer before 0.24 hands out click's own parameters, with a type; later ones have an annotation in its place
    if hasattr(parameter, "type"):
        return str(parameter.type.name)
    annotation = parameter.type_descriptor.annotation
    if get_origin(annotation) is Literal:
        return " or ".join(get_args(annotation))
    return str(getattr(annotation, "__name__", annotation)).lower()


def _bound(parameter: Any, end: str) -> Any:
    return getattr(parameter, end, None) if hasattr(parameter, end) else getattr(parameter.type, end, None)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    is_plain = isinstance(default, (str, int, float)) and not isinstance(default, bool)
    return code(default) if is_plain and default != "" else ""
