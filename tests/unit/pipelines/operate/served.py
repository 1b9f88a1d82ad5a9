"""What the tests of services and doctor share."""

from __future__ import annotations

import socket
from pathlib import Path

from attar.pipelines.operate.site import Site


def site_of(home: Path, **ports: int) -> Site:
    return Site(home=home, workspace=home.parent, **ports)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
