"""What every deployed flow needs before it works: the home, the folder that relative paths are meant from, torch on its way."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from pipelines.plan import make_plan
from pipelines.prefect_home import configure_prefect
from pipelines.recipe import Recipe
from registry.environment import attar_home, configure_process
from registry.run_record import RunRecord
from registry.store import Store
from stages.process import start_fork_server


def enter_workplace() -> Path:
    """Go to the folder that `attar up` was called in, as relative paths of a form are meant from there; return ATTAR_HOME."""
    home = attar_home()
    os.environ["ATTAR_HOME"] = str(home)  # absolute before the working directory changes
    workspace = os.environ.get("ATTAR_WORKSPACE")
    if workspace:
        os.chdir(workspace)
    configure_process()
    configure_prefect(home)
    start_fork_server()
    return home


def outcome(record: RunRecord) -> dict[str, object]:
    """Return what a caller of the API gets back: small, plain JSON."""
    release = next((node for node in record.nodes.values() if node.stage == "register" and node.key), None)
    facts = Store(attar_home()).load(release.stage, release.key).facts if release is not None else {}
    return {
        "run": record.id,
        "mlflow_run": record.mlflow_run_id,
        "report": str(record.folder / "report.html"),
        "nodes": {name: node.state for name, node in record.nodes.items()},
        "failed": {name: node.cause for name, node in record.nodes.items() if node.state == "Failed"},
        "registered": {**facts},
    }


def plain_console() -> Console:
    """Return the console of a flow that a worker runs: lines for its log."""
    return Console(soft_wrap=True, force_terminal=False, width=200)


def is_unchanged(recipe: Recipe, home: Path) -> bool:
    """True when every node of a recipe is stored already."""
    return all(planned.state == "hit" for planned in make_plan(recipe, Store(home)))
