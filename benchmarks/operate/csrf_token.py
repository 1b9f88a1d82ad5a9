"""The token that Prefect's server asks of whoever changes something, for benchmarks that speak to it without its client."""

from __future__ import annotations

import json
import secrets
import urllib.request
from functools import cache


@cache
def headers(api: str) -> dict[str, str]:
    """Return the headers of a request to this server, drawn once a process."""
    client = secrets.token_hex(16)
    with urllib.request.urlopen(f"{api}/csrf-token?client={client}", timeout=60) as answer:
        token = json.loads(answer.read())["token"]
    return {"Content-Type": "application/json", "Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token}
