"""A program in the place of llama.cpp's server, as outside software stands on PATH: slow to get ready, with a process of its own, and it answers chats."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

PROGRAM = """#!{python}
import http.server, json, os, subprocess, sys, threading, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "--fail" in options:
    sys.exit("error: failed to load the model: " + options["--fail"])
# engines start workers, some of them in sessions of their own
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
ready_at = time.monotonic() + float(options.get("--slow", 0.3))
busy = threading.Lock()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        is_ready = time.monotonic() >= ready_at
        self.answer(200 if is_ready else 503, {{"status": "ok" if is_ready else "loading model", "worker": worker.pid}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with busy:  # one text at a time, as the simplest engines write
            time.sleep(0.002 * body["max_tokens"])
        words = " ".join(["word"] * body["max_tokens"])
        usage = {{"prompt_tokens": 3, "completion_tokens": body["max_tokens"]}}
        seen = {{"model": options.get("--alias", body["model"]), "private": [name for name in os.environ if name.startswith("MLFLOW_")]}}
        choice = {{"message": {{"role": "assistant", "content": words}}, "finish_reason": "length"}}
        self.answer(200, {{**seen, "choices": [choice], "usage": usage}})

    def answer(self, status, content):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass

host = "0.0.0.0" if "--open" in options else options["--host"]
http.server.ThreadingHTTPServer((host, int(options["--port"])), Handler).serve_forever()
"""


def write_engine(folder: Path, name: str = "llama-server") -> Path:
    """Write the program into a folder that is to stand on PATH, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program
