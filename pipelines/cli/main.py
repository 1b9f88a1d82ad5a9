"""The command line. Heavy libraries are imported by the commands that need them, so that `attar --help` answers at once."""

from __future__ import annotations

from gc import set_threshold
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from attar.pipelines.cli.author_commands import AUTHOR_COMMANDS
from attar.pipelines.cli.bisect_command import bisect
from attar.pipelines.cli.completion import complete_recipe
from attar.pipelines.cli.guarded import DebugOption, guarded
from attar.pipelines.cli.guarded import refusals as _refusals
from attar.pipelines.cli.operate_commands import COMMANDS
from attar.pipelines.cli.pool_commands import POOL_COMMANDS
from attar.pipelines.cli.serve_command import SERVE_COMMANDS
from attar.pipelines.cli.show import SHOW_COMMANDS, RunArgument
from attar.pipelines.cli.suggest_command import suggest
from attar.pipelines.cli.tables import print_json as _print_json
from attar.pipelines.cli.tables import print_table as _print_table

app = typer.Typer(
    name="attar",
    help="Compress a language model as a tracked, resumable pipeline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

RecipeArgument = Annotated[
    str, typer.Argument(help="Name of a shipped recipe, or path of a YAML file.", autocompletion=complete_recipe)
]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="NODE.config.FIELD=VALUE", help="Change the recipe; repeatable.")
]
FromOption = Annotated[str, typer.Option("--from", metavar="NODE", help="Build this node and all after it again.")]
UntilOption = Annotated[str, typer.Option("--until", metavar="NODE", help="Run only this node and what it needs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        out.print(f"attar {version('attar')}", highlight=False)
        raise typer.Exit()


@app.callback()
def attar(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Compress a language model as a tracked, resumable pipeline."""


@app.command()
@guarded
def run(
    recipe: RecipeArgument,
    overrides: SetOption = [],  # noqa: B006 - typer reads the default
    from_node: FromOption = "",
    until_node: UntilOption = "",
    workers: Annotated[int, typer.Option(min=0, help="Heavy nodes at once; 0: one for each four cores.")] = 0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a recipe: reuse what is stored, build the rest, report."""
    from attar.registry.artifacts.environment import attar_home, writable
    from attar.stages.process import start_fork_server

    with _refusals(debug):
        home = writable(attar_home())
        start_fork_server()  # it imports torch while this process reads the recipe and starts Prefect
        planned_recipe, plan, forced = _plan(recipe, overrides, from_node, until_node)
    from attar.pipelines.operate.prefect_home import configure_prefect

    configure_prefect(home)
    from attar.pipelines.run.flow import run_recipe

    console = err if as_json else out
    with _refusals(debug):
        record = run_recipe(planned_recipe, plan, home, forced=frozenset(forced), num_workers=workers, console=console)
    _show_outcome(record, console, as_json=as_json, debug=debug)
    if record.has_failed:
        raise typer.Exit(1)


@app.command()
@guarded
def plan(
    recipe: RecipeArgument,
    overrides: SetOption = [],  # noqa: B006
    from_node: FromOption = "",
    until_node: UntilOption = "",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a run would reuse and build, and what it would cost. Runs nothing."""
    from attar.pipelines.cli.forecast_table import plan_rows, plan_total
    from attar.pipelines.recipe.plan import lack_of_disk, with_seconds
    from attar.registry.artifacts.environment import attar_home

    with _refusals(debug):
        _, planned, _ = _plan(recipe, overrides, from_node, until_node)
    planned = with_seconds(planned, attar_home())
    if as_json:
        _print_json([entry.as_dict() for entry in planned])
        return
    _print_table(plan_rows(planned))
    out.print(plan_total(planned), style="dim", highlight=False)
    if lack := lack_of_disk(planned, attar_home()):
        out.print(lack, style="yellow", markup=False, highlight=False)


@app.command()
@guarded
def report(
    run_id: RunArgument,
    as_json: JsonOption = False,
) -> None:
    """Write a run's HTML report again and print its path."""
    from attar.pipelines.report.comparison import comparison_rows
    from attar.pipelines.report.page import write_report
    from attar.registry.artifacts.environment import attar_home
    from attar.registry.artifacts.store import Store
    from attar.registry.tracking.run_record import find_run

    record = find_run(attar_home(), run_id)
    store = Store(attar_home())
    path = write_report(record, store)
    rows = comparison_rows(record, store)
    if as_json:
        _print_json({"run": record.id, "report": str(path), "table": rows})
        return
    _print_table(rows)
    out.print(str(path), highlight=False)


@app.command()
@guarded
def pull(
    model: Annotated[
        str, typer.Argument(metavar="NAME[@ALIAS]", help="Registered NAME (its champion), NAME@ALIAS or NAME/VERSION.")
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DEST", help="A new or an empty folder, or one that a pull has filled.")
    ],
    form: Annotated[
        str,
        typer.Option(metavar="FORM", help="One form alone, by its folder or how that begins: gguf, onnx-int8, model."),
    ] = "",
    key: Annotated[
        str, typer.Option(envvar="ATTAR_VERIFYING_KEY", help="A public ed25519 key in PEM that must have signed it.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Copy a registered model, all its forms or one, into a folder, every file checked by its sha256.

    Over an earlier copy it moves only the tensors that differ.
    """
    from attar.registry.release.delta.local_copy import LocalCopy
    from attar.registry.release.delta.unchanged import unchanged_copy

    copy = LocalCopy.of(folder.resolve())
    pulled = unchanged_copy(model, copy, form=form, key=key) if copy is not None else None
    if pulled is None:
        from attar.registry.release.pull import pull_version  # MLflow takes seconds to import

        pulled = pull_version(model, folder.resolve(), form=form, key=key, copy=copy)
    if as_json:
        figures = {"version": pulled.version, "moved_bytes": pulled.moved_bytes, "total_bytes": pulled.total_bytes}
        _print_json({"model": model, "folder": str(pulled.folder)} | ({"form": form} if form else {}) | figures)
    else:
        out.print(f"{model} is in {folder}: {pulled}", highlight=False)


@app.command()
@guarded
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    keep_runs: Annotated[int, typer.Option(min=0, help="Keep what the newest runs made.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Delete artifacts that neither a registered model nor a recent run needs."""
    from attar.registry.artifacts.environment import attar_home
    from attar.registry.release.collect import collect_garbage

    removed = collect_garbage(attar_home(), keep_runs=keep_runs, is_dry_run=dry_run)
    if as_json:
        _print_json(removed)
        return
    _print_table(
        [
            {"stage": artifact["stage"], "key": artifact["key"][:12], "MB": f"{artifact['num_bytes'] / 1e6:,.1f}"}
            for artifact in removed
        ]
    )
    total = sum(artifact["num_bytes"] for artifact in removed) / 1e6
    out.print(f"{'would free' if dry_run else 'freed'} {total:,.1f} MB in {len(removed)} artifacts", highlight=False)


for command_name, command in (SHOW_COMMANDS | SERVE_COMMANDS).items():
    app.command(command_name)(guarded(command))
for command in (bisect, suggest, *AUTHOR_COMMANDS, *COMMANDS, *POOL_COMMANDS):
    app.command()(guarded(command))


def main() -> None:
    """Run the `attar` command."""
    set_threshold(100_000)  # imports make half a million objects and no garbage: a tenth of what a plan takes
    # local: `attar --help` should not wait for what it does not need
    from attar.pipelines.operate.service_state import adopt_servers
    from attar.registry.artifacts.environment import attar_home, configure_process

    configure_process()
    try:
        adopt_servers(attar_home())
    except (
        ValueError,
        TypeError,
        KeyError,
        OSError,
    ) as error:  # a damaged note of what runs keeps no command from running
        err.print(
            f"attar: the services' state is not readable ({type(error).__name__}); `attar up` writes it anew",
            style="yellow",
            highlight=False,
        )
    app()


def _plan(recipe: str, overrides: list[str], from_node: str, until_node: str) -> tuple[Any, list[Any], set[str]]:
    from attar.pipelines.cli.cautions import cautions
    from attar.pipelines.recipe.flat_form import flat_caution
    from attar.pipelines.recipe.mistakes import one_line
    from attar.pipelines.recipe.plan import make_plan
    from attar.pipelines.recipe.whole import load_recipe
    from attar.registry.artifacts.environment import attar_home
    from attar.registry.artifacts.store import Store

    loaded = load_recipe(recipe, overrides)
    if until_node:
        loaded = loaded.until(until_node)
    forced = loaded.downstream(from_node) if from_node else set()
    planned = make_plan(loaded, Store(attar_home()), forced)
    for line in [*flat_caution(loaded.flat), *cautions(planned)]:
        err.print(f"warning: {one_line(line)}", style="yellow", markup=False, highlight=False)
    return loaded, planned, forced


def _show_outcome(record: Any, console: Console, *, as_json: bool, debug: bool) -> None:
    from attar.pipelines.report.comparison import comparison_rows
    from attar.registry.artifacts.environment import attar_home
    from attar.registry.artifacts.store import Store

    rows = comparison_rows(record, Store(attar_home()))
    report_path = record.folder / "report.html"
    if as_json:
        _print_json({**record.as_dict(), "table": rows, "report": str(report_path) if report_path.exists() else None})
    elif rows:
        _print_table(rows)
    for name, node in record.nodes.items():
        if node.state == "Failed":
            console.print(
                f"node {name!r} ({node.stage}) failed: {node.cause}", style="red", markup=False, highlight=False
            )
            if debug and node.details:
                console.print(node.details, markup=False, highlight=False)
            console.print(f"its log: {record.folder / 'logs' / f'{name}.log'}", markup=False, highlight=False)
    if record.has_failed:
        console.print("Finished nodes are kept: run the same command again to go on from here.", highlight=False)
    elif report_path.exists():
        console.print(f"run {record.id} took {record.seconds:.1f} s; report: {report_path}", highlight=False)
