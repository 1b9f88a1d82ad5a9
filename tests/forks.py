"""Test files at once: collected in one process, then run by forks of it, a file each, whichever fork is free the next.

`pytest --forks 4`. Processes that each import and collect everything for themselves would spend sixteen seconds of a core a process on it.
"""

from __future__ import annotations

import builtins
import itertools
import os
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe, forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil
import pytest

# A pipe tells at once that a fork is gone, unless a process that it leaves holds the pipe's other end: then it is asked for this often.
SECONDS_BETWEEN_LOOKS = 5.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--forks", type=int, default=0, help="how many test files run at once, each in a fork of this process"
    )


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    option = session.config.option
    if not option.forks or option.collectonly or session.testsfailed:
        return None  # pytest's own loop
    temporary_folder(session.config)
    _Files(session).run(option.forks)
    return True


Span = tuple[int, int]
NOTHING: Span = (0, 0)
HAS_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT


def spans(items: list[pytest.Item]) -> Iterator[Span]:
    """Yield where each file's tests begin and end in the list."""
    begin = 0
    for _, tests in itertools.groupby(items, key=lambda item: item.path):
        end = begin + len(list(tests))
        yield begin, end
        begin = end


def temporary_folder(config: pytest.Config) -> Path:
    """Return the folder of this process's temporary files; the first who asks makes it."""
    return config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]


@dataclass
class _Fork:
    """A fork as its parent knows it: what it was handed and has not done, and whether it is inside a test."""

    number: int
    pid: int
    pipe: Connection
    span: Span = NOTHING
    is_at_work: bool = False


@dataclass
class _Files:
    """The files of a session, handed to forks in order."""

    session: pytest.Session
    todo: deque[Span] = field(default_factory=deque)
    forks: dict[Connection, _Fork] = field(default_factory=dict)

    def run(self, num_forks: int) -> None:
        self.todo.extend(spans(self.session.items))
        try:
            for number in range(min(num_forks, len(self.todo))):
                self.start(number)
            while self.forks:
                ready = wait(list(self.forks), SECONDS_BETWEEN_LOOKS)
                for pipe in ready:
                    self.listen(self.forks[pipe])  # type: ignore[index]
                if not ready:
                    self.bury_silent()
                self.stop_if_told()
            assert not self.todo, "no fork is left to run the rest"
        finally:  # after a failure with -x, or Ctrl-C
            self.end()

    def start(self, number: int) -> None:
        parent_end, child_end = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            for other in (parent_end, *self.forks):
                other.close()  # held here, they would hide from the others that this session is gone
            work_and_exit(self.session, child_end, number)
        child_end.close()
        self.forks[parent_end] = _Fork(number, pid, parent_end)

    def listen(self, running: _Fork) -> None:
        what, *values = received(running.pipe)
        if what == "ended":
            self.bury(running)
        elif what == "free":
            running.span = self.todo.popleft() if self.todo else NOTHING
            with suppress(BrokenPipeError):  # its end is told by the pipe's
                running.pipe.send(running.span)
        elif what == "begin":
            running.is_at_work = True
        elif what == "done":
            begin, end = running.span
            self.report(self.session.items[begin], *values)
            running.span, running.is_at_work = (begin + 1, end), False
        elif what == "warning":
            self.warn(*values)

    def bury_silent(self) -> None:
        """See to forks that are gone while a process that they left holds their pipe open."""
        for running in list(self.forks.values()):
            if os.waitid(os.P_PID, running.pid, HAS_ENDED) is not None:
                self.bury(running)

    def bury(self, running: _Fork) -> None:
        """Take a fork that has ended off the list. Where a test ended it, report that, and let another go on behind it."""
        _, status = os.waitpid(running.pid, 0)
        del self.forks[running.pipe]
        if not status:
            return
        begin, end = running.span
        item = self.session.items[min(begin, len(self.session.items) - 1)]
        cause = f"its process ended with {os.waitstatus_to_exitcode(status)} (a negative number is a signal)"
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", cause, "call")
        self.session.config.hook.pytest_runtest_logreport(report=report)
        if running.is_at_work:
            if begin + 1 < end:
                self.todo.appendleft((begin + 1, end))
            if self.todo:
                self.start(running.number)

    def report(self, item: pytest.Item, reports: Iterable[dict[str, Any]]) -> None:
        config = self.session.config
        config.hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for data in reports:
            report = config.hook.pytest_report_from_serializable(config=config, data=data)
            config.hook.pytest_runtest_logreport(report=report)
        config.hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def warn(self, kind: str, text: str, where: tuple[str, int], rest: dict[str, Any]) -> None:
        category = getattr(builtins, kind, UserWarning)
        message = warnings.WarningMessage(text, category, *where)  # type: ignore[arg-type]
        self.session.config.hook.pytest_warning_recorded.call_historic(kwargs={"warning_message": message, **rest})

    def stop_if_told(self) -> None:
        if self.session.shouldfail:
            raise self.session.Failed(self.session.shouldfail)
        if self.session.shouldstop:
            raise self.session.Interrupted(self.session.shouldstop)

    def end(self) -> None:
        for running in self.forks.values():
            os.kill(running.pid, signal.SIGINT)
        for running in self.forks.values():
            os.waitpid(running.pid, 0)


def received(pipe: Connection) -> tuple[Any, ...]:
    """Return what a fork says, also that it is gone."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return ("ended",)


@dataclass
class _Between:
    """What follows a file's last test: another file, of which no more is known than that it is this session's."""

    session: pytest.Session

    def listchain(self) -> list[pytest.Session]:
        return [self.session]


@dataclass(eq=False)  # a plugin lies in sets
class _Teller:
    """What a fork hears of its tests, for its parent."""

    config: pytest.Config
    pipe: Connection
    reports: list[dict[str, Any]] = field(default_factory=list)
    # what was heard while the tests were collected is told to whoever begins to listen, and the parent knows it
    is_listening: bool = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(self.config.hook.pytest_report_to_serializable(config=self.config, report=report))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: tuple[str, int, str] | None
    ) -> None:
        if self.is_listening:
            where = (warning_message.filename, warning_message.lineno)
            rest = {"when": when, "nodeid": nodeid, "location": location}
            kind = warning_message.category.__name__
            self.pipe.send(("warning", kind, str(warning_message.message), where, rest))


def work_and_exit(session: pytest.Session, pipe: Connection, number: int) -> None:
    """Be a fork: run what the parent hands out, then end without what the parent has registered for its own end."""
    code = 1
    try:
        become_fork(session.config, f"fork{number}")
        teller = _Teller(session.config, pipe)
        session.config.pluginmanager.register(teller)
        teller.is_listening = True
        work(session, pipe, teller)
        code = 0
    except (KeyboardInterrupt, EOFError, BrokenPipeError):  # the parent ends too
        code = 2
    except BaseException:  # noqa: BLE001 - the parent tells that there was something
        traceback.print_exc(file=sys.__stderr__)
    finally:
        code = max(code, end_fixtures(session))
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()  # fork servers, which would end by themselves a little later
        os._exit(code)


def end_fixtures(session: pytest.Session) -> int:
    """End what lives as long as a session."""
    try:
        session._setupstate.teardown_exact(None)
        return 0
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc(file=sys.__stderr__)
        return 1


def become_fork(config: pytest.Config, name: str) -> None:
    """Take what two processes cannot share for this one: temporary folder, capture of output, terminal."""
    leave_fork_server_to_parent()
    own = temporary_folder(config) / name
    own.mkdir(mode=0o700, exist_ok=True)
    config._tmp_path_factory._basetemp = own  # type: ignore[attr-defined]
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if capture.is_globally_capturing():  # a file has one position for all who hold it
        capture._global_capturing.stop_capturing()
        capture._global_capturing = None
        capture.start_global_capturing()
        capture.suspend_global_capture()
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    terminal._tw._file = open(os.devnull, "w")  # noqa: SIM115 - as long as the process


def leave_fork_server_to_parent() -> None:
    """Use the stages' fork server that the parent has started, if it has; it is the parent's child, whom nobody else may wait for."""
    if forkserver._forkserver._forkserver_pid is not None:  # type: ignore[attr-defined]
        forkserver.ensure_running = forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]


def work(session: pytest.Session, pipe: Connection, teller: _Teller) -> None:
    while True:
        pipe.send(("free",))
        begin, end = pipe.recv()
        if begin == end:
            return
        for index in range(begin, end):
            item = session.items[index]
            following: Any = session.items[index + 1] if index + 1 < end else _Between(session)
            pipe.send(("begin",))
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            pipe.send(("done", teller.reports))
            teller.reports = []
            if session.shouldfail or session.shouldstop:
                return
