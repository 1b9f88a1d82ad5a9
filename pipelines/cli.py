"""The command line. Heavy libraries are imported by the commands that need them, so that `attar --help` answers at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from gc import set_threshold
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipelines.operate.commands import COMMANDS
from pipelines.operate.pool_commands import POOL_COMMANDS

app = typer.Typer(
    name="attar",
    help="Compress a language model as a tracked, resumable pipeline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

RecipeArgument = Annotated[str, typer.Argument(help="Name of a shipped recipe, or path of a YAML file.")]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="NODE.config.FIELD=VALUE", help="Change the recipe; repeatable.")
]
FromOption = Annotated[str, typer.Option("--from", metavar="NODE", help="Build this node and all after it again.")]
UntilOption = Annotated[str, typer.Option("--until", metavar="NODE", help="Run only this node and what it needs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.command()
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
    from registry.environment import attar_home, writable
    from stages.process import start_fork_server

    with _refusals(debug):
        home = writable(attar_home())
        start_fork_server()  # it imports torch while this process reads the recipe and starts Prefect
        planned_recipe, plan, forced = _plan(recipe, overrides, from_node, until_node)
    from pipelines.prefect_home import configure_prefect

    configure_prefect(home)
    from pipelines.flow import run_recipe

    console = err if as_json else out
    with _refusals(debug):
        record = run_recipe(planned_recipe, plan, home, forced=frozenset(forced), num_workers=workers, console=console)
    _show_outcome(record, console, as_json=as_json, debug=debug)
    if record.has_failed:
        raise typer.Exit(1)


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: SetOption = [],  # noqa: B006
    from_node: FromOption = "",
    until_node: UntilOption = "",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a run would reuse and build, and what it would cost. Runs nothing."""
    from pipelines.forecast_table import plan_rows, plan_total
    from pipelines.plan import lack_of_disk, with_seconds
    from registry.environment import attar_home

    with _refusals(debug):
        _, planned, _ = _plan(recipe, overrides, from_node, until_node)
    planned = with_seconds(planned, attar_home())
    if as_json:
        _print_json([one.as_dict() for one in planned])
        return
    _print_table(plan_rows(planned))
    out.print(plan_total(planned), style="dim", highlight=False)
    if lack := lack_of_disk(planned, attar_home()):
        out.print(lack, style="yellow", markup=False, highlight=False)


@app.command("list")
def list_things(
    what: Annotated[str, typer.Argument(help="stages, methods, recipes or artifacts.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List stages, methods, recipes or artifacts."""
    from pipelines.listing import LISTINGS

    with _refusals(debug):
        if what not in LISTINGS:
            from compressors.catalogue import did_you_mean

            raise ValueError(f"list {what!r}: unknown.{did_you_mean(what, LISTINGS)}")
        rows = LISTINGS[what]()
    _print_json(rows) if as_json else _print_table(rows)


@app.command()
def show(
    artifact: Annotated[str, typer.Argument(help="Start of an artifact's key or fingerprint.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show an artifact and everything it was made from."""
    from registry.environment import attar_home
    from registry.lineage import trace
    from registry.store import Store

    store = Store(attar_home())
    with _refusals(debug):
        found = store.find(artifact)
    lineage, manifest = trace(store, found), store.manifest(found)
    if as_json:
        _print_json({"artifact": found.as_dict(), "manifest": manifest, "lineage": lineage.as_dict()})
        return
    from pipelines.listing import lineage_tree

    out.print(
        f"{found.kind} {found.key}\n  path        {found.path}\n  fingerprint {found.fingerprint}", highlight=False
    )
    took = f"built in {manifest['build_seconds']} s on {manifest['created']}"
    if "cpu_seconds" in manifest:  # not in artifacts of earlier versions
        took += f", {manifest['cpu_seconds']} s of processor time, peak {manifest['peak_bytes'] / 1e6:,.0f} MB"
    out.print(f"  size        {manifest['num_bytes'] / 1e6:,.1f} MB, {took}", highlight=False)
    for name, value in found.facts.items():
        out.print(f"  {name:<24} {value}", highlight=False)
    out.print(lineage_tree(lineage))


@app.command()
def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Start of a run's id, or `latest`.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a run's HTML report again and print its path."""
    from pipelines.comparison import comparison_rows
    from pipelines.report import write_report
    from registry.environment import attar_home
    from registry.run_record import find_run
    from registry.store import Store

    with _refusals(debug):
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
def pull(
    model: Annotated[
        str, typer.Argument(metavar="NAME[@ALIAS]", help="Registered NAME (its champion), NAME@ALIAS or NAME/VERSION.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DEST", help="Where to put it: a new or an empty folder.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Copy a registered model, its ONNX graphs included, into a folder, every file checked by its sha256."""
    with _refusals(debug):
        from registry.pull import download_model

        download_model(model, folder.resolve())
    if as_json:
        _print_json({"model": model, "folder": str(folder.resolve())})
    else:
        out.print(f"{model} is in {folder}", highlight=False)


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    keep_runs: Annotated[int, typer.Option(min=0, help="Keep what the newest runs made.")] = 3,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Delete artifacts that neither a registered model nor a recent run needs."""
    from registry.collect import collect_garbage
    from registry.environment import attar_home

    with _refusals(debug):
        removed = collect_garbage(attar_home(), keep_runs=keep_runs, is_dry_run=dry_run)
    if as_json:
        _print_json(removed)
        return
    _print_table(
        [{"stage": one["stage"], "key": one["key"][:12], "MB": f"{one['num_bytes'] / 1e6:,.1f}"} for one in removed]
    )
    total = sum(one["num_bytes"] for one in removed) / 1e6
    out.print(f"{'would free' if dry_run else 'freed'} {total:,.1f} MB in {len(removed)} artifacts", highlight=False)


for command in (*COMMANDS, *POOL_COMMANDS):
    app.command()(command)


def main() -> None:
    """Entry point of the `attar` command."""
    set_threshold(100_000)  # imports make half a million objects and no garbage: a tenth of what a plan takes
    # local: `attar --help` should not wait for what it does not need
    from pipelines.operate.service_state import adopt_servers
    from registry.environment import attar_home, configure_process

    configure_process()
    adopt_servers(attar_home())
    app()


def _plan(recipe: str, overrides: list[str], from_node: str, until_node: str) -> tuple[Any, list[Any], set[str]]:
    from pipelines.plan import make_plan
    from pipelines.recipe import load_recipe
    from registry.environment import attar_home
    from registry.store import Store

    loaded = load_recipe(recipe, overrides)
    if until_node:
        loaded = loaded.until(until_node)
    forced = loaded.downstream(from_node) if from_node else set()
    return loaded, make_plan(loaded, Store(attar_home()), forced), forced


def _show_outcome(record: Any, console: Console, *, as_json: bool, debug: bool) -> None:
    from pipelines.comparison import comparison_rows
    from registry.environment import attar_home
    from registry.store import Store

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


@contextmanager
def _refusals(debug: bool) -> Iterator[None]:
    """Print a user's mistake as one line and exit with 2; with 1 where the fault is not the user's and the error says so."""
    try:
        yield
    except ValueError as error:
        if debug:
            raise
        err.print(f"attar: {' '.join(str(error).split())}", style="red", markup=False, highlight=False)
        raise typer.Exit(getattr(error, "exit_code", 2)) from error


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    if not rows:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    # a table that is cut at 80 columns in a log helps nobody
    Console(width=None if out.is_terminal else 200).print(table)
