#!/usr/bin/env bash
# prefect 3.8.8 (with fastapi below 0.151 and sqlalchemy below 2.1, which its server starts with).
# PREFECT_CLIENT_MAX_RETRIES (5) holds for a refused connection only if the same client has been answered before. A run opens several clients
# on its way to its flow, so a server that restarts in that second ends the run: the engine leaves with exit code 1, which hides the
# ConnectError, and the worker reports the run as crashed. A client that was answered before waits for the server.
# Output seen: a client answered before tried again; a new one gave up after 0.0 s; the engine ended with SystemExit(1) over ConnectError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check prefect==3.8.8 'fastapi<0.151' 'sqlalchemy<2.1'
cd "$folder"
cat > server.py <<'PY'
import http.server
import sys


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'"hello"')

    def log_message(self, *arguments):
        pass


http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
PY
port=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
PORT=$port PREFECT_HOME=$folder/home PREFECT_API_URL=http://127.0.0.1:$port/api PREFECT_LOGGING_LEVEL=CRITICAL venv/bin/python -W ignore - <<'PY'
import os
import subprocess
import sys
import threading
import time

import httpx
from prefect.client.orchestration import get_client
from prefect.engine import handle_engine_signals


def serve():
    return subprocess.Popen([sys.executable, "server.py", os.environ["PORT"]])


server = serve()
with get_client(sync_client=True) as known:
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{os.environ['PORT']}/")
            break
        except httpx.ConnectError:
            time.sleep(0.1)
    known.hello()
    server.kill()
    server.wait()
    started = time.monotonic()
    try:
        with handle_engine_signals(), get_client(sync_client=True) as new:
            new.hello()
    except SystemExit as end:
        seconds, code, behind = time.monotonic() - started, end.code, type(end.__context__)
    back = []
    threading.Timer(1.0, lambda: back.append(serve())).start()
    assert known.hello().status_code == 200
    back[0].kill()
print(f"a client answered before tried again; a new one gave up after {seconds:.1f} s; the engine ended with SystemExit({code}) over {behind.__name__}")
assert seconds < 1.0 and code == 1 and behind is httpx.ConnectError, "the behaviour has changed"
PY
