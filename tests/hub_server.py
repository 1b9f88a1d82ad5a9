"""A hub on loopback: repositories of a few files at one commit, told as the hub's own clients ask for them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
# Of a repository, the names of its files and what is in them; data sets begin with `datasets/`, as in a hub's addresses.
Repositories = Mapping[str, Mapping[str, bytes]]


@contextmanager
def hub(repositories: Repositories) -> Iterator[str]:
    """Serve repositories while the block runs; gives the address for HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(has_body=True)

        def do_HEAD(self) -> None:
            self._answer(has_body=False)

        def do_POST(self) -> None:
            self._answer(has_body=True, sent=self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _answer(self, *, has_body: bool, sent: bytes = b"") -> None:
            address = urlsplit(self.path)
            status, headers, body = answer(repositories, unquote(address.path), parse_qs(address.query), sent)
            first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            if status == 200 and first:
                end = int(last or len(body) - 1)
                headers |= {"Content-Range": f"bytes {first}-{end}/{len(body)}"}
                status, body = 206, body[int(first) : end + 1]
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if has_body:
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(
    repositories: Repositories, path: str, query: Mapping[str, list[str]], sent: bytes
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body for a path: of the hub's API, or of a file."""
    parts = path.strip("/").split("/")
    is_api = parts[0] == "api"
    parts = parts[1:] if is_api else parts
    kind = parts[0] if parts[0] in ("models", "datasets") else "models"
    parts = parts[1:] if parts[0] == kind else parts
    name = "/".join(parts[:2])
    files = repositories.get(name if kind == "models" else f"datasets/{name}")
    if files is None:
        return 404, {"X-Error-Code": "RepoNotFound"}, b""
    what, rest = (parts[2:3] or ["info"])[0], parts[3:]
    if what in ("info", "revision"):
        return _as_json({"id": name, "sha": COMMIT, "tags": [], "siblings": [{"rfilename": file} for file in files]})
    if what == "tree":
        is_whole = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        return _as_json(_tree(files, "/".join(rest[1:]), is_whole=is_whole))
    if what == "paths-info":
        wanted = json.loads(sent)["paths"] if sent.startswith(b"{") else parse_qs(sent.decode())["paths"]
        return _as_json([_entry(file, files[file]) for file in wanted if file in files])
    file = "/".join(rest[1:])
    if what != "resolve" or file not in files:
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
    headers = {"ETag": f'"{_digest(files[file])}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
    return 200, headers, files[file]


def _tree(files: Mapping[str, bytes], folder: str, *, is_whole: bool) -> list[dict[str, Any]]:
    """Return a folder's entries: the files in it and its folders, or all that lies below it."""
    prefix = f"{folder}/" if folder else ""
    below = [file for file in files if file.startswith(prefix)]
    folders = {prefix + part for file in below for part in [file.removeprefix(prefix).rpartition("/")[0]] if part}
    shown = below if is_whole else [file for file in below if "/" not in file.removeprefix(prefix)]
    entries = [
        {"type": "directory", "path": path, "size": 0, "oid": _digest(path.encode())} for path in sorted(folders)
    ]
    return entries + [_entry(file, files[file]) for file in shown]


def _as_json(content: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _entry(file: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": file, "size": len(content), "oid": _digest(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
