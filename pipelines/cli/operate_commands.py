"""`attar up`, `down`, `doctor` and `compare`: the commands of whoever operates Attar."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attar.pipelines.operate.credentials import USER, credentials_path

PREFECT_FILE = Path(__file__).parents[1] / "prefect.yaml"
DatabaseOption = Annotated[Literal["sqlite", "postgres"], typer.Option(help="Where both servers keep their data.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)


def up(
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback is protected.")] = "127.0.0.1",
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Prefect.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow.")] = 5000,
    worker_port: Annotated[int, typer.Option(min=1, max=65535, help="The worker's health check.")] = 4280,
    heavy_at_once: Annotated[int, typer.Option(min=1, help="Compressions that run at the same time.")] = 1,
    database: DatabaseOption = "sqlite",
    postgres_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the Postgres that --database postgres starts.")
    ] = 5433,
    protect: Annotated[
        bool | None,
        typer.Option("--protect/--no-protect", help="Both servers ask for a password; by default off loopback."),
    ] = None,
    prefect_file: Annotated[Path, typer.Option(help="Deployments to apply.")] = PREFECT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Start Prefect, MLflow and a worker here, apply the deployments, print where to look. Again: say what runs."""
    from attar.pipelines.operate.site import Site, is_loopback
    from attar.pipelines.operate.up import ServicesFailed, bring_up, read_deployments
    from attar.registry.artifacts.environment import attar_home, writable

    site = Site(
        home=attar_home(),
        workspace=Path.cwd(),
        host=host,
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        worker_port=worker_port,
        runs_at_once=heavy_at_once + 3,
        heavy_at_once=heavy_at_once,
        database=database,
        postgres_port=postgres_port,
        is_protected=not is_loopback(host) if protect is None else protect,
    )
    console = err if as_json else out
    try:
        writable(site.home)
        read_deployments(prefect_file)  # a wrong file is told before anything starts
        started = bring_up(site, prefect_file.resolve(), lambda line: console.print(line, highlight=False))
    except (ValueError, ServicesFailed) as error:
        err.print(f"attar: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2 if isinstance(error, ValueError) else 1) from error
    _tell_up(started, console, as_json=as_json)


def _tell_up(started: Any, console: Any, *, as_json: bool) -> None:
    from attar.registry.artifacts.environment import MLFLOW_FACE

    site = started.site
    if as_json:
        urls = {"prefect": site.prefect_url, "mlflow": site.mlflow_url, "api": site.api_url}
        _print_json({**urls, "was_running": started.was_running, "seconds": round(started.seconds, 1)})
        return
    verb = "runs already" if started.was_running else f"up after {started.seconds:.0f} s"
    console.print(f"{verb}; deployments: {', '.join(started.deployments) or 'as they were'}", highlight=False)
    console.print(
        f"Prefect  {site.prefect_url}\nMLflow   {site.mlflow_url}/#/experiments?{MLFLOW_FACE}\nlogs     {site.log_folder}",
        highlight=False,
    )
    if site.is_protected:
        console.print(f"password {credentials_path(site.home)}, user {USER}", highlight=False)


def down(as_json: JsonOption = False) -> None:
    """Stop what `attar up` started for this home, and nothing else."""
    from attar.pipelines.operate.up import bring_down
    from attar.registry.artifacts.environment import attar_home

    stopped = bring_down(attar_home())
    if as_json:
        _print_json({"stopped": stopped})
    else:
        out.print(f"stopped {', '.join(stopped)}" if stopped else f"nothing runs for {attar_home()}", highlight=False)


def doctor(as_json: JsonOption = False) -> None:
    """Examine versions, ports, disk, memory, GPU, permissions, servers and registry, and say how to mend what is wrong."""
    from attar.pipelines.operate.doctor import examine
    from attar.registry.artifacts.environment import attar_home

    findings = examine(attar_home())
    if as_json:
        _print_json([finding.as_dict() for finding in findings])
    else:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("", "check", "found", "mend"):
            table.add_column(heading, overflow="fold")
        colours = {"ok": "green", "note": "yellow", "bad": "red"}
        for finding in findings:
            verdict = Text(finding.verdict, style=colours[finding.verdict])
            table.add_row(verdict, *map(Text, (finding.check, finding.observed, finding.mend)))
        Console(width=None if out.is_terminal else 200).print(table)
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="NAME, NAME@ALIAS or NAME/VERSION.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The one beside it.")],
    as_json: JsonOption = False,
) -> None:
    """Put two registered versions side by side: their numbers with ratios, their recipes and what they were made from."""
    from attar.registry.release.versions import compare_versions, read_version

    try:
        rows = compare_versions(read_version(first), read_version(second))
    except ValueError as error:
        err.print(f"attar: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    if as_json:
        _print_json(rows)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("", first, second, "B / A"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_shown(row[column]) for column in ("what", "first", "second", "ratio")))
    Console(width=None if out.is_terminal else 200).print(table)


COMMANDS = (up, down, doctor, compare)


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")
