"""Pin a source that moves to what it names now, so that news is noticed. A branch on the hub moves, and an alias in the registry."""

from __future__ import annotations

import re
from collections.abc import Callable

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)(?P<rest>:.*)?")
ALIAS = re.compile(r"models:/(?P<name>[^@/]+)@(?P<alias>[\w-]+)")


def newest_source(stage: str, source: str) -> str:
    """Return a source line of `ingest_model` or `ingest_data` with its revision pinned to what it is now.

    Files are known by their content and packages by their version: they come back as they are. Raises ValueError when the
    place that knows cannot be asked.
    """
    for pattern, pin in PINS:
        match = pattern.fullmatch(source)
        if match is not None:
            return pin(stage, **match.groupdict())
    return source


def _pin_hub(stage: str, repo: str, revision: str, rest: str | None) -> str:
    if COMMIT.fullmatch(revision):
        return f"hub:{repo}@{revision}{rest or ''}"
    from huggingface_hub import HfApi  # only this source needs the hub client
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    ask = api.model_info if stage == "ingest_model" else api.dataset_info
    try:
        commit = ask(repo, revision=revision, timeout=30).sha
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"hub:{repo}@{revision}: the hub did not say which commit that is: {error}") from error
    return f"hub:{repo}@{commit}{rest or ''}"


def _pin_alias(stage: str, name: str, alias: str) -> str:
    from attar.registry.release.versions import read_version  # MLflow takes seconds to import

    return f"models:/{name}/{read_version(f'{name}@{alias}').number}"


PINS: tuple[tuple[re.Pattern[str], Callable[..., str]], ...] = ((HUB, _pin_hub), (ALIAS, _pin_alias))
