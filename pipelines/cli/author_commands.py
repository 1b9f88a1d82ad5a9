"""`attar init`, `schema` and `diff`: the commands of whoever writes recipes and compares their runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from attar.pipelines.cli.show import JsonOption, RunArgument
from attar.pipelines.cli.tables import print_json, print_table

out = Console(soft_wrap=True)
QUESTIONS = {
    "model": "Model (a folder, a .gguf file, hub:OWNER/NAME@REVISION, wheel:..., random:llama)",
    "questions": "Questions and answers (a .jsonl, .csv or .parquet file, hub:..., reasoning_gym:TASK, template:NAME)",
    "num_blocks": "Decoder blocks to remove",
    "name": "Name of the result in the registry",
}


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="Where to write the recipe.")] = Path("recipe.yaml"),
    model: Annotated[str, typer.Option(help="Folder, .gguf file or source line of the model.")] = "",
    questions: Annotated[str, typer.Option(help="File or source line of questions with answers.")] = "",
    num_blocks: Annotated[int, typer.Option(min=0, help="Decoder blocks to remove; 0: ask, or 6.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the result in the registry.")] = "",
    rows: Annotated[int, typer.Option(min=0, help="Rows of the questions to take; 0: all.")] = 0,
    heal: Annotated[Literal["lora", "full", "none"], typer.Option(help="What is trained after the cut.")] = "lora",
    rewrite: Annotated[bool, typer.Option(help="Let the original model rewrite the answers first.")] = True,
    onnx: Annotated[bool, typer.Option(help="Also export an ONNX graph.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a commented recipe of one's own from a few answers: asked on a terminal, or given as options."""
    from attar.pipelines.cli.starter import check_starter, filled_form, starter_text, write_starter

    given = {"model": model, "questions": questions, "num_blocks": num_blocks, "name": name}
    answers: dict[str, Any] = {field: value for field, value in given.items() if value}
    if sys.stdin.isatty() and not as_json:
        answers |= _answers_of(answers)
    answers |= {"num_rows": rows, "heal": heal, "rewrite_data": rewrite and heal != "none", "export_onnx": onnx}
    form = filled_form(answers)
    text = starter_text(form, str(path))
    check_starter(text, path.stem)
    write_starter(path, text, is_forced=force)
    if as_json:
        print_json({"recipe": str(path), "name": form.name})
        return
    out.print(f"{path} is written, and the schema for your editor beside it.", markup=False, highlight=False)
    out.print(f"attar plan {path}   what it costs\nattar run {path}    run it", markup=False, highlight=False)


def _answers_of(answers: dict[str, Any]) -> dict[str, Any]:
    """Ask for what was not given; Enter takes the form's default."""
    from attar.pipelines.deployments.form import CompressForm

    defaults = CompressForm.model_validate({})
    missing = {field: question for field, question in QUESTIONS.items() if field not in answers}
    return {field: typer.prompt(text, default=getattr(defaults, field)) for field, text in missing.items()}


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to this file instead.")] = None,
) -> None:
    """Print the JSON Schema of recipes, by which an editor completes and checks fields."""
    from attar.pipelines.cli.recipe_schema import schema_text
    from attar.registry.artifacts.files import write_synced

    if output is None:
        sys.stdout.write(schema_text())
        return
    write_synced(output, schema_text())
    out.print(f"{output} is written", markup=False, highlight=False)


def diff(
    first: RunArgument,
    second: Annotated[str, typer.Argument(metavar="RUN", help="The run beside it.")] = "latest",
    as_json: JsonOption = False,
) -> None:
    """Say what differs between two runs: fields of their recipes, artifacts, and figures with second / first."""
    from attar.pipelines.report.difference import RunDifference
    from attar.registry.artifacts.environment import attar_home
    from attar.registry.artifacts.store import Store
    from attar.registry.tracking.run_record import find_run

    home = attar_home()
    runs = tuple((find_run(home, run_id), Store(home)) for run_id in (first, second))
    difference = RunDifference.of(*runs)
    names = [record.id for record, _ in runs]
    if as_json:
        print_json({"first": names[0], "second": names[1], **difference.as_dict()})
        return
    out.print(f"first  {names[0]}\nsecond {names[1]}", markup=False, highlight=False)
    for heading, rows in difference.tables().items():
        out.print(f"\n{heading}" if rows else f"\n{heading}: no difference", style="bold", highlight=False)
        print_table(rows)


AUTHOR_COMMANDS = (init, schema, diff)
