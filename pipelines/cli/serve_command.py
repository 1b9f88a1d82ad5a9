"""`attar serve` and `attar try`: run what was released, by an engine that this machine has or in a browser."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from attar.registry.release.cached_copy import Release
    from attar.stages.artifacts.serving.engines import Engine, Served

out = Console(soft_wrap=True)
ModelArgument = Annotated[
    str, typer.Argument(metavar="NAME[@ALIAS]", help="Registered NAME (its champion), NAME@ALIAS or NAME/VERSION.")
]
KeyOption = Annotated[
    str, typer.Option(envvar="ATTAR_VERIFYING_KEY", help="A public ed25519 key in PEM that must have signed it.")
]
# How often a server that is up is looked at.
WATCH_SECONDS = 0.5


def serve(
    model: ModelArgument,
    options: Annotated[
        list[str], typer.Argument(metavar="-- OPTIONS", help="Options of the engine itself, behind `--`.")
    ] = [],  # noqa: B006 - typer reads the default
    form: Annotated[
        str, typer.Option(metavar="FORM", help="The form to serve: gguf, model, onnx-int8; else the first that can be.")
    ] = "",
    engine: Annotated[
        str, typer.Option(metavar="ENGINE", help="llama-server, llama-cpp-python, vllm, transformers or onnx-genai.")
    ] = "",
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs --expose.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one.")] = 8000,
    expose: Annotated[bool, typer.Option("--expose", help="Let other machines reach it: nobody is asked who.")] = False,
    wait: Annotated[float, typer.Option(min=1, help="Seconds within which the engine must be ready.")] = 600.0,
    key: KeyOption = "",
) -> None:
    """Serve a registered version by OpenAI's protocol, on this machine alone, until Ctrl-C."""
    from attar.registry.release.cached_copy import find_release
    from attar.stages.artifacts.serving.engines import Served, choose_engine

    port = checked_port(host, port, is_exposed=expose)
    release = find_release(model, key=key)
    chosen, program = choose_engine(release.forms, form, engine)
    with released_form(release, chosen, key) as folder, told_to_stop() as stopping:
        served = Served(folder=folder, name=release.name, host=host, port=port, options=tuple(options))
        _serve(program, served, wait, stopping)
    tell("stopped")


def try_in_browser(
    model: ModelArgument,
    form: Annotated[
        str, typer.Option(metavar="FORM", help="The ONNX form, by its folder or how that begins.")
    ] = "onnx",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0: a free one.")] = 8010,
    packages: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the files of `npm pack` lie, on a machine without npm.")
    ] = None,
    key: KeyOption = "",
) -> None:
    """Serve a page that runs a registered ONNX form in the browser: a chat, with tokens a second."""
    from attar.pipelines.browser.npm_packages import library_files
    from attar.pipelines.browser.page_server import LOOPBACK, page_app, page_files, precision_of, serve_page
    from attar.registry.artifacts.environment import attar_home
    from attar.registry.release.cached_copy import find_release

    port = checked_port(LOOPBACK, port, is_exposed=False)
    release = find_release(model, key=key)
    chosen = release.form_named(form)
    if chosen.partition("-")[0] != "onnx":
        raise ValueError(f"form is {chosen}; accepted in a browser: onnx, and what begins so")
    libraries = library_files(attar_home(), packages, tell)
    with released_form(release, chosen, key) as folder, told_to_stop():
        files = page_files(folder, libraries)
        own = {path.name: path.stat().st_size for url, path in files.items() if url.startswith("/model/")}
        about = {"name": release.name, "version": release.number, "form": chosen, "files": own}
        about["precision"] = precision_of(folder)
        app = page_app(files, {**about, "bytes": sum(own.values())})
        serve_page(app, port, lambda: tell(f"http://{LOOPBACK}:{port} has the page; Ctrl-C stops it"))
    tell("stopped")


def _serve(engine: Engine, served: Served, seconds: float, stopping: threading.Event) -> None:
    from attar.registry.artifacts.environment import attar_home
    from attar.stages.artifacts.serving.server import EngineFailedError, running
    from attar.stages.runtime.orphans import claim_children
    from attar.stages.runtime.reaper import watch_over_this_process

    claim_children()
    watch_over_this_process()  # the engine goes with this process, even if that is killed
    log = attar_home() / "logs" / f"serve-{served.port}.log"
    tell(f"starting {engine.name}; its log: {log}")
    try:
        with running(engine, served, log, seconds=seconds, say=tell, stopping=stopping) as server:
            tell(f"{server.base_url} answers; its model is {served.name}; Ctrl-C stops it")
            while not stopping.wait(WATCH_SECONDS):
                server.check_alive()
    except EngineFailedError:
        if not stopping.is_set():
            raise


@contextmanager
def released_form(release: Release, form: str, key: str) -> Iterator[Path]:
    """Give the folder of a form of a version. Copied if it was not, and kept from `attar gc` inside the block."""
    from attar.registry.release.cached_copy import cached_copy, in_use
    from attar.stages.artifacts.serving.engines import check_writes_text

    folder = cached_copy(release, form, key=key, say=tell)
    check_writes_text(folder)
    with in_use(folder):
        yield folder


@contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set, so that what was started is ended in order."""
    stopping = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in signals}
    try:
        yield stopping
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def checked_port(host: str, port: int, *, is_exposed: bool) -> int:
    """Return the port to listen on. Raises ValueError, in one line, for an address that others reach and a port that is taken."""
    from attar.pipelines.operate.health import is_port_free, listener
    from attar.pipelines.operate.site import is_loopback
    from attar.stages.artifacts.serving.server import free_port

    if not is_exposed and not is_loopback(host):
        raise ValueError(
            f"host is {host}: other machines reach it, and nobody would be asked who they are; accepted: 127.0.0.1, or add --expose"
        )
    if port == 0:
        return free_port(host)
    if not is_port_free(host, port):
        raise ValueError(f"port {port} is taken by {listener(port)}; accepted: a free port, or 0 to choose one")
    return port


def tell(line: str) -> None:
    """Print a line at once, whoever reads it."""
    out.print(line, markup=False, highlight=False)


SERVE_COMMANDS = {"serve": serve, "try": try_in_browser}
