"""Passwords of the servers of one home. Drawn once, in a file that its owner alone reads, handed on in environments and nowhere else."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

USER = "attar"
NUM_BYTES = 24


def _drawn() -> str:
    return secrets.token_urlsafe(NUM_BYTES)


@dataclass(frozen=True)
class Credentials:
    """One password a server, and the key that MLflow signs its sessions with. Kept out of every repr: a log may print one."""

    prefect: str = field(default_factory=_drawn, repr=False)
    mlflow: str = field(default_factory=_drawn, repr=False)
    mlflow_session: str = field(default_factory=_drawn, repr=False)
    postgres: str = field(default_factory=_drawn, repr=False)

    @classmethod
    def of(cls, home: Path) -> Self:
        """Return the passwords of a home, drawn now if there are none."""
        path = credentials_path(home)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)  # MLflow writes its users' hashes beside it, readable by all
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(**json.loads(path.read_text()))
        made = cls()
        with os.fdopen(handle, "w") as stream:
            json.dump(asdict(made), stream)
        return made

    @property
    def client_environment(self) -> dict[str, str]:
        """What a client of protected servers needs."""
        return {
            "PREFECT_API_AUTH_STRING": f"{USER}:{self.prefect}",
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": self.mlflow,
        }

    @property
    def prefect_environment(self) -> dict[str, str]:
        """What makes Prefect's server ask for it."""
        return {"PREFECT_SERVER_API_AUTH_STRING": f"{USER}:{self.prefect}"}

    def mlflow_environment(self, home: Path) -> dict[str, str]:
        """Return what makes MLflow's server ask for it; its settings file holds no secret."""
        path = home / "services" / "basic_auth.ini"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "[mlflow]\n"
            "default_permission = NO_PERMISSIONS\n"
            f"database_uri = sqlite:///{home / 'services' / 'basic_auth.db'}\n"
            f"admin_username = {USER}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(path),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.mlflow,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.mlflow_session,
        }


def credentials_path(home: Path) -> Path:
    """Return where a home's passwords lie."""
    return home / "services" / "credentials.json"
