"""Prefect's server on SQLite: a statement that failed leaves nothing behind that the event loop could wait for."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from attar.pipelines.operate.prefect_home import configure_prefect
from attar.pipelines.operate.prefect_server import ClosingConnection

# Far below Prefect's minute, and far above what a turn takes that comes.
TURN_SECONDS = 5.0


async def say(connection: AsyncConnection, statement: str) -> None:
    await connection.exec_driver_sql(statement)


async def collect_a_failed_cursor_while_its_connection_waits(path: Path) -> None:
    """Let a write fail, then let its connection wait for another's transaction while the garbage collector runs."""
    url = f"sqlite+aiosqlite:///{path}"
    engine = create_async_engine(url, connect_args={"timeout": TURN_SECONDS}, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as writer, engine.connect() as other:
            await say(writer, "PRAGMA journal_mode = WAL")
            await say(writer, "CREATE TABLE t (x)")
            # what has read before another wrote may not write: the failure of Prefect's automations
            await say(other, "BEGIN")
            (await other.exec_driver_sql("SELECT * FROM t")).all()
            await say(writer, "INSERT INTO t VALUES (1)")
            gc.disable()  # the collector comes when it is called below
            with pytest.raises(sqlalchemy.exc.OperationalError, match="database is locked"):
                await say(other, "INSERT INTO t VALUES (2)")
            await say(other, "ROLLBACK")
            await say(writer, "BEGIN IMMEDIATE")
            waiting = asyncio.create_task(say(other, "BEGIN IMMEDIATE"))
            await asyncio.sleep(0.2)
            gc.collect()
            await say(writer, "COMMIT")
            await waiting
    finally:
        gc.enable()
        await engine.dispose()


def test_a_failed_statement_does_not_hold_the_event_loop_up(tmp_path: Path) -> None:
    asyncio.run(collect_a_failed_cursor_while_its_connection_waits(tmp_path / "mended.db"))


def test_a_transaction_is_a_writer_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "turns.db"
    with create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT").connect() as prefect:
        prefect.exec_driver_sql("PRAGMA journal_mode = WAL")
        prefect.exec_driver_sql("BEGIN DEFERRED")
        other = sqlite3.connect(path, timeout=0.0)
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            other.execute("BEGIN IMMEDIATE")
        prefect.exec_driver_sql("COMMIT")
        other.execute("BEGIN IMMEDIATE")
        other.close()


async def hold_a_transaction_of_prefect(path: Path) -> None:
    configuration = AioSqliteConfiguration(f"sqlite+aiosqlite:///{path}")
    engine = await configuration.engine()
    other = sqlite3.connect(path, timeout=0.0)
    async with await configuration.session(engine) as session, configuration.begin_transaction(session):
        await session.execute(sqlalchemy.text("SELECT 1"))
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            other.execute("BEGIN IMMEDIATE")
    other.close()
    await engine.dispose()


def test_so_is_what_prefect_itself_begins(tmp_path: Path) -> None:
    asyncio.run(hold_a_transaction_of_prefect(tmp_path / "prefect.db"))


def test_what_fails_is_closed_and_what_works_is_not(tmp_path: Path) -> None:
    connection = ClosingConnection(tmp_path / "any.db")
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE t (x UNIQUE)")
    assert cursor.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)]).rowcount == 2
    assert cursor.execute("SELECT x FROM t").fetchall() == [(1,), (2,)]
    for spoil in (
        lambda: connection.cursor().execute("INSERT INTO t VALUES (1)"),
        lambda: connection.cursor().executemany("INSERT INTO t VALUES (?)", [(1,)]),
    ):
        with pytest.raises(Exception, match="UNIQUE constraint failed"):
            spoil()
    failed = connection.cursor()
    with pytest.raises(Exception, match="no such table"):
        failed.execute("SELECT * FROM absent")
    with pytest.raises(Exception, match="closed cursor"):
        failed.execute("SELECT 1")
    connection.close()


def test_the_command_line_is_prefects_own() -> None:
    command = [sys.executable, "-m", "attar.pipelines.operate.prefect_server", "version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "API version" in printed.stdout


APP = """
import os, sys
from sqlalchemy import Engine, event
async def app(scope, receive, send):
    mended = sys.modules.get("attar.pipelines.operate.prefect_server")
    is_there = mended is not None and event.contains(Engine, "before_cursor_execute", mended._write_from_the_start)
    print("mended" if is_there else "as it comes", flush=True)
    os._exit(0)
"""


def test_the_short_lived_server_of_a_run_is_mended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started as Prefect starts it: by uvicorn, with this process's environment."""
    (tmp_path / "bare_app.py").write_text(APP)
    for name in ("PREFECT_API_URL", "UVICORN_LOOP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"PYTHONPATH": os.getcwd()})

    def printed_by_server() -> str:
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "--app-dir",
            str(tmp_path),
            "bare_app:app",
            "--port",
            "0",
            "--lifespan",
            "on",
        ]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False).stdout

    assert "as it comes" in printed_by_server()
    configure_prefect(tmp_path / "home")
    assert "mended" in printed_by_server()
