#!/usr/bin/env bash
# prefect 3.8.8 (with fastapi below 0.151 and sqlalchemy below 2.1, which its server starts with).
# Two scripts that each have a PREFECT_HOME of their own, seed Python's `random` alike (as training scripts do) and run a flow at the same
# moment: both draw the same port for their temporary server from the seeded generator, both see it free, since a server needs seconds to
# start, and the one that comes second is answered by the first's server and takes it for its own. Its flow run is written to the OTHER
# home's database; its own stays empty, or has no server behind it. It says nothing, and its runs break when the first script ends.
# Output seen: one database holds the flow runs of both scripts, the other holds none: {'first': 2, 'second': 0} or the other way round.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check prefect==3.8.8 'fastapi<0.151' 'sqlalchemy<2.1'
cd "$folder"
cat > script.py <<'PY'
import random
import sys
import time

from prefect import flow


@flow(log_prints=False)
def train(name: str) -> None:
    time.sleep(20)  # longer than the other script's start: neither server ends before both have run


random.seed(0)
train(sys.argv[1])
PY
cat > count.py <<'PY'
import sqlite3
from pathlib import Path


def runs(home: str) -> int:
    path = Path(home) / "prefect.db"
    if not path.exists():
        return 0
    with sqlite3.connect(path) as database:
        try:
            return database.execute("select count(*) from flow_run").fetchone()[0]
        except sqlite3.OperationalError:  # its server ended before it had made the tables
            return 0


counts = {home: runs(home) for home in ("first", "second")}
print(counts)
assert sorted(counts.values()) == [0, 2], "the behaviour has changed"
PY
unset PREFECT_API_URL
for home in first second; do
  PREFECT_HOME="$folder/$home" PREFECT_SERVER_ANALYTICS_ENABLED=false venv/bin/python -W ignore script.py "$home" > "$home.log" 2>&1 &
done
wait
venv/bin/python count.py
