"""The engines that serve a released form by OpenAI's protocol. How each is looked for, started, and asked whether it is ready."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Served:
    """A form's folder, the name that clients call it by, and where it listens. The server's working folder holds a link of that name."""

    folder: Path
    name: str
    host: str
    port: int
    # given to the engine as they are
    options: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Where the server answers on this machine."""
        return f"http://{_joined({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(self.host, self.host), self.port)}"

    @property
    def address(self) -> str:
        """Where it listens."""
        return _joined(self.host, self.port)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A program that serves. `program`: how its command begins here, empty where it is not installed; `health`: the path that says ready."""

    name: str
    install: str
    health: str
    program: Callable[[], tuple[str, ...]]
    arguments: Callable[[Served], tuple[str, ...]]

    def command(self, served: Served) -> tuple[str, ...]:
        """Return the command that serves a form."""
        return (*self.program(), *self.arguments(served), *served.options)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _on_path(name: str) -> tuple[str, ...]:
    """Return a program that lies on PATH, or beside this Python, as pip puts it."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    return (path,) if path else ()


def _python_module(module: str, *needed: str) -> tuple[str, ...]:
    """Return how this Python runs a module, if it and what it needs are installed."""
    has_all = all(find_spec(package) is not None for package in (module.partition(".")[0], *needed))
    return (sys.executable, "-m", module) if has_all else ()


def _gguf_file(folder: Path) -> str:
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ValueError(f"{folder} has {len(files)} .gguf files; accepted: one")
    return str(files[0])


def _listening(served: Served) -> tuple[str, ...]:
    return ("--host", served.host, "--port", str(served.port))


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            name="llama-server",
            install="llama.cpp's llama-server on PATH",
            health="/health",
            program=lambda: _on_path("llama-server"),
            arguments=lambda served: ("-m", _gguf_file(served.folder), "--alias", served.name, *_listening(served)),
        ),
        Engine(
            name="llama-cpp-python",
            install="pip install 'llama-cpp-python[server]'",
            health="/v1/models",
            program=lambda: _python_module("llama_cpp.server", "uvicorn", "sse_starlette", "starlette_context"),
            arguments=lambda served: (
                *("--model", _gguf_file(served.folder), "--model_alias", served.name),
                *_listening(served),
            ),
        ),
        Engine(
            name="vllm",
            install="vLLM's `vllm` on PATH, in an environment of its own",
            health="/health",
            program=lambda: _on_path("vllm"),
            arguments=lambda served: (
                *("serve", str(served.folder), "--served-model-name", served.name),
                *_listening(served),
            ),
        ),
        Engine(
            name="transformers",
            install="pip install 'attar[serve]'",
            health="/health",
            program=lambda: _python_module("transformers.cli.transformers", "fastapi", "uvicorn", "openai"),
            # it answers to the words that it was started with alone: the link's name, not the folder's path
            arguments=lambda served: ("serve", served.name, *_listening(served)),
        ),
        Engine(
            name="onnx-genai",
            install="pip install onnx-genai-server",
            health="/v1/models",
            program=lambda: _on_path("onnx-genai"),
            arguments=lambda served: (
                *("serve", str(served.folder), "--model-id", served.name),
                *("--addr", served.address),
            ),
        ),
    )
}
# Which engines run a form, in the order in which they are tried. A form's kind is how its folder's name begins.
FORMS = {
    "gguf": ("llama-server", "llama-cpp-python"),
    "model": ("vllm", "transformers"),
    "onnx": ("onnx-genai",),
}


def choose_engine(forms: Sequence[str], wanted_form: str = "", wanted_engine: str = "") -> tuple[str, Engine]:
    """Return the form of a version that is served, and the first engine that is installed here.

    `wanted_form`: a form's folder, or how that begins. Raises ValueError, in one line, where the version has none such, no engine runs it,
    or none that does is installed.
    """
    if wanted_engine and wanted_engine not in ENGINES:
        raise ValueError(f"engine is {wanted_engine!r}; accepted: {', '.join(ENGINES)}")
    candidates = [form for form in forms if form == wanted_form] or [
        form for form in forms if form.startswith(wanted_form)
    ]
    if not candidates:
        raise ValueError(f"form is {wanted_form!r}; accepted, what the version has: {', '.join(forms)}")
    pairs = [
        (form, ENGINES[name])
        for kind, names in FORMS.items()
        for form in candidates
        if form.partition("-")[0] == kind
        for name in names
        if name == (wanted_engine or name)
    ]
    if not pairs:
        who = f"engine {wanted_engine}" if wanted_engine else "no engine"
        verb = "does not serve" if wanted_engine else "serves"
        runs = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in FORMS.items())
        raise ValueError(f"{who} {verb} {' or '.join(candidates)}; what serves what is {runs}")
    for form, engine in pairs:
        if engine.program():
            return form, engine
    lines = dict.fromkeys(f"{engine.name} ({engine.install})" for _, engine in pairs)
    raise ValueError(
        f"nothing here serves {' or '.join(dict.fromkeys(form for form, _ in pairs))}; install {' or '.join(lines)}"
    )


def check_writes_text(folder: Path) -> None:
    """Raise ValueError for the folder of a model that writes no text. An engine would say so late, or answer with noise."""
    path = folder / "config.json"
    architectures = json.loads(path.read_text()).get("architectures") or [] if path.is_file() else []
    if architectures and not any(
        name.endswith(("CausalLM", "ConditionalGeneration", "LMHeadModel")) for name in architectures
    ):
        raise ValueError(
            f"{folder.name} is a {architectures[0]}, which writes no text; only language models are served"
        )
