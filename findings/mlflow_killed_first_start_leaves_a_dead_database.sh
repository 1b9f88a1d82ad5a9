#!/usr/bin/env bash
# mlflow 3.17.2, sqlalchemy 2.0.58, alembic 1.20.1, Python's sqlite3; a SQLite store that is not there yet.
# The first start makes the tables and runs some sixty migrations. One would guess that a start which is killed in between is rolled back,
# or gone on with by the next. Neither: sqlite3 begins no transaction for CREATE and ALTER, so that what was done stays, and the next start
# fails in the same migration on what it left, on this and every later start. The file has to be deleted by hand.
# Output seen: first start: exit code 9; second start: duplicate column name: step; third start: the same
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow==3.17.2 sqlalchemy==2.0.58 alembic==1.20.1
cd "$folder"
cat > first.py <<'PY'
import os

import mlflow
from sqlalchemy import event
from sqlalchemy.engine import Engine


@event.listens_for(Engine, "after_cursor_execute")
def end_in_the_middle(connection, cursor, statement, *rest):
    """As kill -9 or a power failure would, at a moment that is the same each time."""
    if statement.lstrip().startswith("CREATE TABLE _alembic_tmp_"):
        os._exit(9)


mlflow.MlflowClient("sqlite:///runs.db")
PY
cat > later.py <<'PY'
import logging

import mlflow

logging.disable(logging.CRITICAL)
try:
    mlflow.MlflowClient("sqlite:///runs.db")
    print("it works")
except Exception as error:
    print(str(error).splitlines()[0].partition("OperationalError) ")[2] or str(error))
PY
code=0
venv/bin/python -W ignore first.py > /dev/null 2>&1 || code=$?
second=$(venv/bin/python -W ignore later.py 2> /dev/null)
third=$(venv/bin/python -W ignore later.py 2> /dev/null)
echo "first start: exit code $code; second start: $second; third start: $([ "$third" = "$second" ] && echo the same || echo "$third")"
[ "$code" = 9 ] && [[ "$second" == *"duplicate column name"* ]] && [ "$third" = "$second" ] || { echo "the behaviour has changed"; exit 1; }
