"""Prefect's command line with a check and two mends. Its server on SQLite can refuse every request or fall silent for a minute.

python -m attar.pipelines.operate.prefect_server server start --port 4200

One: many of Prefect's transactions read before they write, and SQLite refuses that write at once with `database is locked` where
another transaction has written in between; the request ends with 503. Here each is a writer from its start and waits for its turn.

Two: a statement that fails leaves its cursor open inside the exception, where the garbage collector finds it: on the event loop's
thread. To reset it, SQLite wants the lock of the cursor's connection, which is in the pool again and may wait inside SQLite, that lock
held, for its turn to write; whose turn it is waits for the event loop. Nobody moves until SQLite gives up after 60 s. Here a cursor is
closed where it fails, on its connection's own thread. `benchmarks/operate/busy_server.py` measures both.

The check: a server on loopback answers to its own names alone (`host_check.py`).

The short-lived server of a run without `attar up` is started by Prefect, as `python -m uvicorn`: UVICORN_LOOP names `new_event_loop`
here, and to find it uvicorn imports this file.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from typing import Any

from sqlalchemy import Engine, event

from attar.pipelines.operate.host_check import check_hosts_of_prefect

# What uvicorn is called with for a short-lived server.
SERVED = "prefect.server.api.server:create_app"


class ClosingCursor(sqlite3.Cursor):
    """A cursor that lets go of its statement when that fails; what it raises is what SQLite says."""

    def execute(self, *arguments: Any) -> ClosingCursor:
        """Execute as `sqlite3.Cursor.execute` does; after an error the cursor is closed."""
        try:
            return super().execute(*arguments)
        except sqlite3.Error:
            self.close()
            raise

    def executemany(self, *arguments: Any) -> ClosingCursor:
        """Execute as `sqlite3.Cursor.executemany` does; after an error the cursor is closed."""
        try:
            return super().executemany(*arguments)
        except sqlite3.Error:
            self.close()
            raise


class ClosingConnection(sqlite3.Connection):
    """A connection whose cursors close when they fail."""

    def cursor(self, factory: Any = ClosingCursor) -> Any:
        """Return a cursor, of `ClosingCursor` unless asked otherwise."""
        return super().cursor(factory)


@event.listens_for(Engine, "do_connect")
def _close_failed_cursors(dialect: Any, _record: Any, _arguments: list[Any], parameters: dict[str, Any]) -> None:
    if dialect.name == "sqlite":
        parameters.setdefault("factory", ClosingConnection)


@event.listens_for(Engine, "before_cursor_execute", retval=True)
def _write_from_the_start(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    if statement == "BEGIN DEFERRED" and connection.dialect.name == "sqlite":
        statement = "BEGIN IMMEDIATE"
    return statement, parameters


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return the loop that a server runs on, any. What counts is that this is called before its app and its first connection are made."""
    if SERVED in sys.argv:  # not in another server that inherits the setting
        check_hosts_of_prefect()
    return asyncio.new_event_loop()


if __name__ == "__main__":
    from prefect.cli import app  # the listeners must be there first

    check_hosts_of_prefect()
    app()
