"""Give out the page, its libraries and a graph's files on loopback. A fixed list of paths, and nothing else of the machine."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from attar.stages.artifacts.model.safe_folder import read_object

PAGE = Path(__file__).parent / "assets"
LOOPBACK = "127.0.0.1"
# WebAssembly has addresses of 32 bits: graph, weights and cache must fit together.
MAX_GRAPH_BYTES = 2_000_000_000
HEADERS = {
    # threads of WebAssembly want a page that shares nothing with others
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    # nothing is asked of another machine, whatever the libraries would
    "content-security-policy": (
        "default-src 'none'; script-src 'self' blob: 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self' blob:; "
        "style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".mjs": "text/javascript"}
TYPES |= {".json": "application/json", ".wasm": "application/wasm", ".svg": "image/svg+xml"}

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


def page_files(form: Path, libraries: Mapping[str, Path]) -> dict[str, Path]:
    """Return what is served, by path. Raises ValueError for a form that is no graph with a tokenizer, or too large for a browser."""
    own = {path.name: path for path in sorted(form.iterdir()) if path.is_file() and not path.is_symlink()}
    for name in ("model.onnx", "config.json", "tokenizer.json"):
        if name not in own:
            raise ValueError(f"{form.name} has no {name}; a browser runs ONNX forms with their tokenizer")
    size = sum(path.stat().st_size for name, path in own.items() if name.startswith("model.onnx"))
    if size > MAX_GRAPH_BYTES:
        raise ValueError(f"{form.name} has {size / 1e9:.1f} GB; accepted in a browser: {MAX_GRAPH_BYTES / 1e9:.0f} GB")
    files = {f"/{path.name}": path for path in sorted(PAGE.iterdir()) if path.is_file()}
    files["/"] = files.pop("/index.html")
    files |= {f"/lib/{name}": path for name, path in libraries.items()}
    # where transformers.js looks: the graph in a folder `onnx` beside its config
    return files | {f"/model/{'onnx/' * name.startswith('model.onnx')}{name}": path for name, path in own.items()}


def precision_of(form: Path) -> str:
    """Return the type of a graph's floats, as its config tells transformers.js. Raises ValueError for bfloat16 and a cache of integers."""
    precision = (read_object(form / "config.json").get("transformers.js_config") or {}).get("kv_cache_dtype", "float32")
    if precision not in ("float32", "float16"):
        raise ValueError(
            f"{form.name} is in {precision}; accepted in a browser: float32, float16, and integers beside float32"
        )
    return str(precision)


def page_app(files: Mapping[str, Path], about: Mapping[str, Any]) -> App:
    """Return the server as an ASGI application. `about`: what the page says of the model."""
    from starlette.applications import Starlette  # fastapi's own base; --help need not wait for it
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse, JSONResponse
    from starlette.routing import Route

    def endpoint(path: Path) -> Callable[[Any], Awaitable[Any]]:
        async def answer(request: Any) -> Any:
            return FileResponse(path, media_type=TYPES.get(path.suffix, "application/octet-stream"))

        return answer

    async def tell(request: Any) -> Any:
        return JSONResponse(dict(about))

    routes = [Route("/about.json", tell), *(Route(url, endpoint(path)) for url, path in files.items())]
    # a page that had its own name pointed here asks by that name
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
    return _with_headers(Starlette(routes=routes, middleware=[hosts]))


def serve_page(app: App, port: int, ready: Callable[[], None]) -> None:
    """Serve on loopback until SIGINT or SIGTERM. `ready` is called when the port listens."""
    import uvicorn  # Prefect's server runs on it too

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOOPBACK, port))
        listening.listen(64)
        ready()  # from here on the system keeps who asks waiting
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3, lifespan="off")
        uvicorn.Server(config).run(sockets=[listening])


def _with_headers(app: Any) -> App:
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def wrapped(scope: Message, receive: Any, send: Any) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await app(scope, receive, sent)

    return wrapped
