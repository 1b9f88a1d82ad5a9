"""`tiny` in a home that is full at several sizes, then read-only: `python -m tests.system.campaign.full_disk FOLDER SIZE ...` of bytes.

For a mount namespace of its own (`unshare --user --map-root-user --mount`): the home is a tmpfs that grows from size to size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.system.campaign.lives import Life, fingerprints

END_SECONDS = 900.0
SERVER = ("PREFECT_API_URL", "PREFECT_HOME")


def main() -> None:
    """Run at each size, at a size that suffices, read-only, and once more; print how each ended."""
    folder, sizes = Path(sys.argv[1]), [int(size) for size in sys.argv[2:]]
    home = folder / "small"
    home.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={sizes[0]}", "tmpfs", str(home))
    # without a server that is there: it starts one of its own, whose database lies in the home
    report: dict[str, Any] = {"full": [], "alone": _ended(folder, home, is_alone=True)}
    for size in sizes:
        _mount("-o", f"remount,size={size}", str(home))
        report["full"].append({"size_bytes": size, **_ended(folder, home)})
    _mount("-o", f"remount,size={sizes[-1] * 8}", str(home))
    report["enough"] = _ended(folder, home)
    report["alone_again"] = _ended(folder, home, is_alone=True)
    _mount("-o", "remount,ro", str(home))
    report["read_only"] = _ended(folder, home)
    report["read_only_list"] = _shown(folder, home, "list", "artifacts")
    _mount("-o", "remount,rw", str(home))
    report["again"] = _ended(folder, home)
    report["left"] = [path.name for path in (home / "work").iterdir()]
    print(json.dumps(report))


def _ended(folder: Path, home: Path, *, is_alone: bool = False) -> dict[str, Any]:
    environment = {**os.environ, "ATTAR_HOME": str(home)}
    if is_alone:
        environment = {name: value for name, value in environment.items() if name not in SERVER}
    life = Life(environment, folder)
    has_ended = life.ends_within(END_SECONDS)
    if not has_ended:
        life.process.kill()
    statistics = os.statvfs(home)
    used = (statistics.f_blocks - statistics.f_bfree) * statistics.f_frsize
    code = life.process.wait()
    states = [node["state"] for node in life.result()["nodes"].values()] if code == 0 else []
    return {
        "has_ended": has_ended, "code": code, "printed": life.printed(), "used_bytes": used, "orphans": life.orphans(),
        "states": sorted(set(states)), "fingerprints": fingerprints(life.result()) if code == 0 else {},
    }  # fmt: skip


def _shown(folder: Path, home: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "attar.pipelines", *words]
    environment = {**os.environ, "ATTAR_HOME": str(home)}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    return {"code": done.returncode, "printed": done.stderr, "num_lines": done.stdout.count("\n")}


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
