"""Ask every route of a protected server as a stranger does; run in a process with that server's environment: it reads it when imported.

python tests/system/routes/route_tables.py prefect|mlflow|browser|hosts ORIGIN...
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

# What no login guards, and why that is no harm.
PREFECT_OPEN = {
    "/openapi.json": "Prefect's published description of its API: no data of ours",
    "/docs": "the same as a page",
    "/docs/oauth2-redirect": "part of that page",
    "/redoc": "the same as a page",
    "/api/health": "what a probe asks: true",
    "/api/ready": "what a probe asks",
    "/ui-settings": "where the interface finds the API, and that it must sign in",
}
MLFLOW_OPEN = {
    "/health": "what a probe asks: OK",
    "/static-files/<path:path>": "the interface's own files, the same for everybody",
    "/api/3.0/mlflow/server-info": "what kind of store it has, for a client that has not signed in yet",
    "/ajax-api/3.0/mlflow/server-info": "the same",
}


def walk(routes: Any, prefix: str = "") -> Iterator[tuple[str, str, list[str]]]:
    """Yield (kind, path, methods) of every route below, those of included routers and mounted apps too."""
    for route in routes:
        path = prefix + (getattr(route, "path", "") or "")
        inner = getattr(getattr(route, "original_router", None), "routes", None) or getattr(route, "routes", None)
        if inner:
            yield from walk(inner, path)
        elif type(route).__name__ in ("Mount", "FrontendRoute"):
            continue  # files, or another framework whose own table is asked
        else:
            yield type(route).__name__, path, sorted(getattr(route, "methods", None) or ())


def filled(path: str) -> str:
    """Return the path with something in place of its parameters."""
    return re.sub(r"\{[^}]*\}|<[^>]*>", "00000000-0000-0000-0000-000000000000", path)


def prefect() -> dict[str, Any]:
    from prefect.server.api.server import create_app

    app = create_app()
    table = list(walk(app.routes))
    client = TestClient(app, raise_server_exceptions=False)
    described = {(f"/api{path}" if not path.startswith("/api") else path) for path in app.openapi()["paths"]}
    return {
        "answers": answers(client, table),
        "sockets": {path: socket_answer(client, path) for kind, path, _ in table if "WebSocket" in kind},
        # the description leaves out what a parameter is converted to
        "missed": sorted(described - {re.sub(r":\w+\}", "}", path) for _, path, _ in table}),
        "open": PREFECT_OPEN,
    }


def mlflow() -> dict[str, Any]:
    from mlflow.server import app as flask_app
    from mlflow.server.auth import create_app

    app = create_app(flask_app)
    table = list(walk(app.routes))
    rules = [("Rule", rule.rule, sorted(rule.methods or ())) for rule in flask_app.url_map.iter_rules()]
    client = TestClient(app, raise_server_exceptions=False, base_url="http://127.0.0.1:5000")
    sockets = {path: socket_answer(client, path) for kind, path, _ in table if "WebSocket" in kind}
    return {"answers": answers(client, table + rules), "sockets": sockets, "missed": [], "open": MLFLOW_OPEN}


def answers(client: TestClient, table: list[tuple[str, str, list[str]]]) -> list[tuple[str, str, int]]:
    """Ask each route with each of its methods, no password given; return (path, method, status)."""
    status = []
    for kind, path, methods in table:
        if "WebSocket" in kind:
            continue
        for method in methods:
            if method in ("HEAD", "OPTIONS"):  # GET without its body, and what a browser may ask before
                continue
            body = None if method == "GET" else {}
            status.append(
                (path, method, client.request(method, filled(path), json=body, follow_redirects=False).status_code)
            )
    return status


def socket_answer(client: TestClient, path: str) -> str:
    """Try to listen without a password, with a wrong one, and as an old client; return what came of it."""
    for protocols, first in (
        (None, None),
        (["prefect"], None),
        (["prefect"], {"type": "auth", "token": "attar:guess"}),
    ):
        try:
            with client.websocket_connect(filled(path), subprotocols=protocols) as socket:
                socket.send_json(first or {"type": "filter"})
                return f"answered {socket.receive_json()}"
        except WebSocketDisconnect:
            continue
    return "refused"


def browser() -> dict[str, Any]:
    """Ask as pages of other origins do: the preflight of a change, a read, and a change that needs no preflight."""
    from prefect.server.api.server import create_app

    client = TestClient(create_app(), raise_server_exceptions=False)
    answers: dict[str, Any] = {}
    for origin in sys.argv[2:]:
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        allowed = "access-control-allow-origin"
        answers[origin] = {
            "preflight": client.options("/api/flows/filter", headers=asks).headers.get(allowed, ""),
            "read": client.get("/api/health", headers={"Origin": origin}).headers.get(allowed, ""),
            "change": client.post(
                "/api/flows/filter", content="{}", headers={"Origin": origin, "Content-Type": "text/plain"}
            ).text,
        }
    return answers


def hosts() -> dict[str, Any]:
    """Ask both servers by each name for something; return the status of each."""
    from mlflow.server.fastapi_app import create_fastapi_app
    from prefect.server.api import server

    from attar.pipelines.operate.host_check import check_hosts_of_prefect

    check_hosts_of_prefect()
    clients = {
        "/api/admin/version": TestClient(server.create_app(), raise_server_exceptions=False),
        "/": TestClient(create_fastapi_app()),
    }
    return {
        host: [client.get(path, headers={"Host": host}).status_code for path, client in clients.items()]
        for host in sys.argv[2:]
    }


if __name__ == "__main__":
    print(json.dumps({"prefect": prefect, "mlflow": mlflow, "browser": browser, "hosts": hosts}[sys.argv[1]]()))
