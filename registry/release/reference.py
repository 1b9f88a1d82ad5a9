"""Which version of the registry a text means: NAME (its champion), NAME@ALIAS or NAME/VERSION, with or without `models:/`."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from attar.registry.release.alias_lock import NOT_THERE
from attar.registry.release.naming import CHAMPION, REFERENCE

MAX_LISTED = 20


class NoSuchVersionError(ValueError):
    """The registry answered: nothing has that name, number or alias."""


def resolve(client: MlflowClient, reference: str) -> ModelVersion:
    """Return the version that is meant. Raises NoSuchVersionError saying what there is instead."""
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise NoSuchVersionError(f"{reference!r} is no registered model; accepted: NAME, NAME@ALIAS, NAME/VERSION")
    name, alias, number = match["name"], match["alias"], match["version"]
    try:
        registered = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        models = client.search_registered_models(max_results=MAX_LISTED)
        names = ", ".join(sorted(model.name for model in models)) or "none"
        raise NoSuchVersionError(f"{reference}: no model of that name is registered; there are: {names}") from error
    wanted = number or registered.aliases.get(alias or CHAMPION)
    versions = {str(version.version): version for version in client.search_model_versions(f"name='{name}'")}
    if str(wanted) not in versions:
        aliases = ", ".join(f"{alias} ({held})" for alias, held in sorted(registered.aliases.items())) or "none"
        numbers = ", ".join(sorted(versions, key=int)) or "none"
        who = f"version {number}" if number else f"alias {alias or CHAMPION}"
        raise NoSuchVersionError(f"{reference}: no {who}; aliases: {aliases}; versions: {numbers}")
    return client.get_model_version(name, str(wanted))
