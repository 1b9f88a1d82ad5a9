#!/usr/bin/env bash
# typer 0.29.2, click 8.5.1.
# `typer.main.get_command(app)`, which typer documents for handing an app to tools written for click, returns an object of typer's own copy of
# click: it is no `click.Command`, and its parameters have no `type`. What walks a command tree by click's classes, such as generators of
# documentation, finds nothing or raises AttributeError, beside a click that is installed and new.
# Output seen: is a click command: False; an option is a click parameter: False; an option has a type: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check typer==0.29.2 click==8.5.1
cd "$folder"
venv/bin/python - <<'PY'
import click
import typer

app = typer.Typer()


@app.command()
def run(workers: int = typer.Option(0, min=0)) -> None:
    """Run."""


command = typer.main.get_command(app)
option = command.params[0]
seen = (isinstance(command, click.Command), isinstance(option, click.Parameter), hasattr(option, "type"))
print(f"is a click command: {seen[0]}; an option is a click parameter: {seen[1]}; an option has a type: {seen[2]}")
assert seen == (False, False, False), "the behaviour has changed"
PY
