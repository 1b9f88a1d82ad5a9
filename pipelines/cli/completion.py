"""What the shell offers after a Tab: recipes, listings, runs, stages and methods. `attar --install-completion` sets it up."""

from __future__ import annotations

from pathlib import Path

LISTED = ("stages", "methods", "recipes", "artifacts", "runs", "logs")


def complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes and the YAML files that begin so."""
    from attar.pipelines.recipe.file import shipped_recipes  # a Tab must not wait for what --help does without

    files = [str(path) for path in Path().glob(f"{incomplete}*.yaml")] if not incomplete.startswith("/") else []
    return [name for name in [*shipped_recipes(), *files] if name.startswith(incomplete)]


def complete_listing(incomplete: str) -> list[str]:
    """Return what can be listed."""
    return [name for name in LISTED if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Return the ids of runs, newest first."""
    from attar.registry.artifacts.environment import attar_home

    ids = sorted((path.parent.name for path in (attar_home() / "runs").glob("*/run.json")), reverse=True)
    return [name for name in ["latest", *ids] if name.startswith(incomplete)]


def complete_name(incomplete: str) -> list[str]:
    """Return the stages and methods that begin so."""
    from attar.pipelines.cli.listing import CATALOGUES
    from attar.stages.catalogue import STAGES

    names = {*STAGES, *(method for table in CATALOGUES.values() for method in table)}
    return sorted(name for name in names if name.startswith(incomplete))
