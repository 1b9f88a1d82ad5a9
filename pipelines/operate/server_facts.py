"""What Prefect's server says of itself: does it answer, are pool and deployments there, does a worker listen. Without importing prefect."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from attar.pipelines.operate.health import TIMEOUT_SECONDS
from attar.pipelines.operate.site import POOL

Row = tuple[str, str, str, str]


def server_findings(api_url: str) -> Iterator[Row]:
    """Yield (check, verdict, found, mend) for the server at `api_url`; none for an empty URL: runs then bring their own."""
    if not api_url:
        return
    try:
        pools = _ask(api_url, "work_pools/filter")
        deployments = _ask(api_url, "deployments/filter")
    except (OSError, ValueError) as error:
        yield "prefect", "bad", f"no answer at {api_url}: {error}", "attar up, or correct PREFECT_API_URL"
        return
    yield "prefect", "ok", f"answers at {api_url}", ""
    yield from _pool_findings(pools)
    names = sorted(deployment["name"] for deployment in deployments if deployment.get("work_pool_name") == POOL)
    if not names:
        yield "deployments", "bad", "none", "attar down, then attar up: it applies prefect.yaml"
        return
    paused = [deployment["name"] for deployment in deployments if deployment.get("paused")]
    yield "deployments", "note" if paused else "ok", ", ".join(names), f"paused: {', '.join(paused)}" if paused else ""


def _pool_findings(pools: list[dict[str, Any]]) -> Iterator[Row]:
    pool = next((pool for pool in pools if pool["name"] == POOL), None)
    if pool is None:
        yield "work pool", "bad", f"no pool {POOL!r}", "attar up makes it"
    elif pool.get("is_paused"):
        yield "work pool", "bad", f"{POOL} is paused: nothing starts", f"prefect work-pool resume {POOL}"
    elif pool.get("status") != "READY":
        yield (
            "work pool",
            "bad",
            f"{POOL} is {pool.get('status')}: no worker listens",
            "attar up, and read its worker.log",
        )
    else:
        yield "work pool", "ok", f"{POOL} has a worker", ""


def _ask(api_url: str, path: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{api_url.rstrip('/')}/{path}", data=b"{}", headers=_headers(api_url), method="POST"
    )
    return json.loads(_opened(request))


def _headers(api_url: str) -> dict[str, str]:
    """Return what a request needs: the password where there is one, and the token by which the server tells it from a foreign page's."""
    headers = {"Content-Type": "application/json"}
    secret = os.environ.get("PREFECT_API_AUTH_STRING")
    if secret:
        from base64 import b64encode

        headers["Authorization"] = f"Basic {b64encode(secret.encode()).decode()}"
    client = f"attar-{os.getpid()}"
    try:
        response = _opened(urllib.request.Request(f"{api_url.rstrip('/')}/csrf-token?client={client}", headers=headers))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise
        return headers  # a server that asks for no token says so
    return headers | {"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": json.loads(response)["token"]}


def _opened(request: urllib.request.Request) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
        return answer.read()
