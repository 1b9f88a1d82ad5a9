"""`attar list`, `describe`, `status` and `show`: the commands that only show."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from attar.pipelines.cli.completion import complete_listing, complete_name, complete_run
from attar.pipelines.cli.tables import print_json, print_table

out = Console(soft_wrap=True)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Start of a run's id, or `latest`.", autocompletion=complete_run)
]


def list_things(
    what: Annotated[
        str,
        typer.Argument(help="stages, methods, recipes, artifacts, runs or logs.", autocompletion=complete_listing),
    ],
    as_json: JsonOption = False,
) -> None:
    """List stages, methods, recipes, artifacts, runs or logs."""
    from attar.pipelines.cli.listing import EMPTY, LISTINGS, NOTES
    from attar.registry.artifacts.environment import attar_home

    if what not in LISTINGS:
        from attar.compressors.catalogue import did_you_mean

        raise ValueError(f"list {what!r}: unknown.{did_you_mean(what, LISTINGS)}")
    rows = LISTINGS[what]()
    if as_json:
        print_json(rows)
    elif rows:
        print_table(rows, NOTES.get(what, ""))
    else:
        out.print(EMPTY.get(what, "nothing").format(home=attar_home()), markup=False, highlight=False)


def describe(
    name: Annotated[
        str,
        typer.Argument(
            metavar="STAGE|METHOD", help="A stage, a method or a recipe of methods.", autocompletion=complete_name
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Say what a stage or a method does. Of each field: what it takes, its default and its meaning."""
    from attar.pipelines.cli.describe import describe as described

    entries = described(name)
    if as_json:
        print_json(entries)
        return
    for entry in entries:
        out.print(f"{entry['kind']} {entry['name']}", style="bold", highlight=False)
        out.print(entry["text"] + "\n", markup=False, highlight=False)
        print_table(entry["fields"])


def status(run_id: RunArgument = "latest", as_json: JsonOption = False) -> None:
    """Say how a run stands, node by node."""
    from attar.pipelines.cli.run_listing import log_folder, node_rows, run_state
    from attar.registry.artifacts.environment import attar_home
    from attar.registry.tracking.run_record import find_run

    record = find_run(attar_home(), run_id)
    if as_json:
        print_json({**record.as_dict(), "state": run_state(record)})
        return
    out.print(f"{record.id}: {run_state(record)}, recipe {record.recipe}, started {record.started}", highlight=False)
    print_table(
        node_rows(record), f"Cached: taken from the store; Skipped: a node before it failed. Logs: {log_folder(record)}"
    )


def show(
    artifact: Annotated[str, typer.Argument(help="Start of an artifact's key or fingerprint.")],
    as_json: JsonOption = False,
) -> None:
    """Show an artifact and everything it was made from."""
    from attar.registry.artifacts.environment import attar_home
    from attar.registry.artifacts.facts import fact_text
    from attar.registry.artifacts.lineage import trace
    from attar.registry.artifacts.store import Store

    store = Store(attar_home())
    stored = store.find(artifact)
    lineage, manifest = trace(store, stored), store.manifest(stored)
    if as_json:
        print_json({"artifact": stored.as_dict(), "manifest": manifest, "lineage": lineage.as_dict()})
        return
    from attar.pipelines.cli.listing import lineage_tree

    out.print(
        f"{stored.kind} {stored.key}\n  path        {stored.path}\n  fingerprint {stored.fingerprint}", highlight=False
    )
    took = f"built in {manifest.get('build_seconds', '?')} s on {manifest['created']}"
    if manifest.keys() >= {"cpu_seconds", "peak_bytes"}:  # not in artifacts of earlier versions
        took += f", {manifest['cpu_seconds']} s of processor time, peak {manifest['peak_bytes'] / 1e6:,.0f} MB"
    out.print(f"  size        {manifest['num_bytes'] / 1e6:,.1f} MB, {took}", highlight=False)
    for name, value in stored.facts.items():
        out.print(f"  {name:<24} {fact_text(value)}", highlight=False)
    out.print(lineage_tree(lineage))


SHOW_COMMANDS = {"list": list_things, "describe": describe, "status": status, "show": show}
