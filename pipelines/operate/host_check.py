"""Which names a server on loopback answers to. A page whose own name was pointed at this machine (DNS rebinding) is refused."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

# Names beside addresses and localhost, comma between them; the variable's absence means no check.
VARIABLE = "ATTAR_ALLOWED_HOSTS"
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


def is_own_name(host: str, names: frozenset[str]) -> bool:
    """Return True for the Host header of an address, of localhost or of one of `names`. An address is asked of no name server."""
    if "@" in host or "/" in host:
        return False
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    try:
        ip_address(name)
    except ValueError:
        return name == "localhost" or name in names
    return True


@dataclass(frozen=True)
class HostCheck:
    """An ASGI app that hands on what comes by its own names. The rest gets 421 (misdirected request)."""

    app: App
    names: frozenset[str] = frozenset()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and is_own_name(hosts[0], self.names):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 421, "headers": [(b"content-type", b"text/plain")]})
            refusal = (
                f"this server does not answer to that name; accepted: an address, localhost, or a name in {VARIABLE}"
            )
            await send({"type": "http.response.body", "body": refusal.encode()})


def check_hosts_of_prefect() -> None:
    """Let every server that Prefect makes in this process from now on check its names, where the variable is set."""
    import prefect.server.api.server as prefect_server  # a second that only a server needs

    names = os.environ.get(VARIABLE)
    if names is None or hasattr(prefect_server.create_app, "without_check"):
        return
    made = prefect_server.create_app
    allowed = frozenset(name.strip().lower() for name in names.split(",") if name.strip())
    checked: set[int] = set()

    def create_app(*arguments: Any, **options: Any) -> Any:
        app = made(*arguments, **options)
        if id(app) not in checked:  # Prefect keeps the apps that it has made
            checked.add(id(app))
            app.add_middleware(HostCheck, names=allowed)
        return app

    create_app.without_check = made  # type: ignore[attr-defined]
    prefect_server.create_app = create_app
