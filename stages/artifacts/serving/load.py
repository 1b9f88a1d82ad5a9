"""How fast a model is behind an engine. Tokens a second and seconds a request, by how many clients ask at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from attar.compressors.measure.cost import Spread
from attar.registry.artifacts.environment import machine_name
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import AnyGraph, AnyModel, GgufArtifact
from attar.registry.release.figures import HIGH, LOW
from attar.stages.artifacts.dataset.prompts import row_messages
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.serving.engines import ENGINES, FORMS, Served, check_writes_text, choose_engine
from attar.stages.artifacts.serving.server import Server, free_port, running
from attar.stages.contract import StageConfig
from attar.stages.runtime.progress import bar, note

if TYPE_CHECKING:
    import httpx

Model = AnyModel | AnyGraph | GgufArtifact
HOST = "127.0.0.1"
# By what the engine calls the model; no two of them share a server.
NAME = "model"


class ServedConfig(StageConfig):
    """The model behind an engine that speaks OpenAI's protocol, asked by several clients at once; see `attar serve`."""

    clients: Annotated[list[Annotated[int, Field(ge=1, le=256)]], Field(min_length=1)] = [1, 4, 16]
    """How many clients ask at once, each measured; every client sends its next request when it has its answer."""

    num_requests: int = Field(default=32, ge=1, le=100_000)
    """Requests of each number of clients in a round: questions of the tasks, in turn."""

    max_new_tokens: int = Field(default=32, ge=1)
    """Longest answer of a request, in tokens."""

    num_rounds: int = Field(default=3, ge=2)
    """Rounds, of which spread and gate's intervals are made; with the input `beside` both models have their turn in each."""

    engine: str = ""
    """vllm or transformers for a Hugging Face folder, onnx-genai for a graph, llama-server or llama-cpp-python for a GGUF file; of the model
    (or `form`) and of `beside` whichever it runs; empty: the first that is installed."""

    wait_seconds: float = Field(default=600.0, gt=0.0)
    """Longest wait until an engine is ready, and for an answer, in seconds."""

    @field_validator("engine")
    @classmethod
    def _is_an_engine(cls, value: str) -> str:
        if value and value not in ENGINES:
            raise ValueError(f"accepted: {', '.join(ENGINES)}")
        return value

    @field_validator("clients")
    @classmethod
    def _differ(cls, value: list[int]) -> list[int]:
        if len({*value}) < len(value):
            raise ValueError("a number of clients stands there twice; accepted: each once")
        return value


@dataclass(frozen=True)
class Load:
    """What came of a round's requests: seconds of each, tokens written in all, seconds from the first to the last."""

    request_seconds: tuple[float, ...]
    num_tokens: int
    seconds: float


def check_served(config: ServedConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> None:
    """Raise ValueError where there is nothing to ask, or the engine does not run the model's form. Whether it is installed the stage says."""
    if not inputs.get("tasks"):
        raise ValueError("timing.served: the requests are questions; give the input tasks")
    if not config.engine:
        return
    slots = ["form" if inputs.get("form") else "model", "beside"]
    kinds = {slot: _kind(facts) for slot in slots for facts in inputs.get(slot, ())}
    if all(config.engine not in FORMS[kind] for kind in kinds.values()):
        runs = "; ".join(f"{', '.join(FORMS[kind])} for the input {slot}" for slot, kind in kinds.items())
        raise ValueError(f"timing.served.engine is {config.engine}; accepted: {runs}")


def _kind(facts: Facts) -> str:
    """Return the kind of form that facts are of."""
    if "hidden_size" in facts:
        return "model"
    return "gguf" if facts.get("format") == "gguf" else "onnx"


def served_figures(
    config: ServedConfig | None, model: Model, beside: Model | None, rows: Sequence[Row], workdir: Path
) -> dict[str, Any] | None:
    """Return medians and quartiles over the rounds by number of clients. Under `beside` stand the other model's of the same rounds.

    None where nothing is to be served. Called before the model is loaded: it and an engine would need the memory of both.
    """
    if config is None:
        return None
    models = [model] if beside is None else [model, beside]
    requests = [row_messages(rows[index % len(rows)]) for index in range(config.num_requests)]
    counter = bar("asking the served model", len(models) * len(config.clients) * config.num_rounds, "loads")
    loads: list[dict[int, list[Load]]] = [{clients: [] for clients in config.clients} for _ in models]
    with ExitStack() as stack:
        servers = [stack.enter_context(_served(config, each, workdir)) for each in models]
        for server, _ in servers:
            load_of(server, config, requests[:1], 1)  # the first answer of an engine is slow
        for _ in range(config.num_rounds):
            for clients in config.clients:
                for (server, _), own in zip(servers, loads, strict=True):
                    own[clients].append(load_of(server, config, requests, clients))
                    counter.advance()
        names = [name for _, name in servers]
    figures = [{str(clients): _figures(some) for clients, some in own.items()} for own in loads]
    conditions = {
        "num_requests": config.num_requests,
        "max_new_tokens": config.max_new_tokens,
        "num_rounds": config.num_rounds,
        "machine": machine_name(),
    }
    others = {}
    if beside is not None:
        others = {"beside": {"model_fingerprint": beside.fingerprint, "engine": names[1], "clients": figures[1]}}
    own = {"form": model.kind, "form_fingerprint": model.fingerprint, "engine": names[0], "clients": figures[0]}
    return {**conditions, **own, **others}


@contextmanager
def _served(config: ServedConfig, model: Model, workdir: Path) -> Iterator[tuple[Server, str]]:
    """Give a model's server and the name of its engine."""
    wanted = config.engine if config.engine in FORMS[model.kind] else ""
    _, engine = choose_engine([model.kind], model.kind, wanted)
    check_writes_text(model.path)
    port = free_port(HOST)
    log = workdir / "records" / f"served-{engine.name}-{port}.log"
    served = Served(folder=model.path, name=NAME, host=HOST, port=port)
    with running(engine, served, log, seconds=config.wait_seconds, say=note) as server:
        yield server, engine.name


def load_of(server: Server, config: ServedConfig, requests: Sequence[list[dict[str, Any]]], num_clients: int) -> Load:
    """Return what comes of the requests when so many clients send them, each the next when it has its answer.

    Raises ValueError, in one line, for an answer that is none, EngineFailedError where the engine has ended.
    """
    import httpx  # no plan asks a server

    limits = httpx.Limits(max_connections=num_clients)
    with (
        httpx.Client(timeout=config.wait_seconds, limits=limits, trust_env=False) as client,
        ThreadPoolExecutor(num_clients) as clients,
    ):
        began = time.perf_counter()
        answers = list(clients.map(lambda messages: _ask(client, server, config, messages), requests))
        seconds = time.perf_counter() - began
    num_tokens = sum(count for _, count in answers)
    if not num_tokens:
        raise ValueError(f"the served model wrote no token in {len(answers)} answers; its log: {server.log}")
    return Load(tuple(taken for taken, _ in answers), num_tokens, seconds)


def _ask(
    client: httpx.Client, server: Server, config: ServedConfig, messages: list[dict[str, Any]]
) -> tuple[float, int]:
    """Return the seconds that an answer took and its number of tokens, as the engine counts them."""
    import httpx  # as above

    body = {"model": NAME, "messages": messages, "max_tokens": config.max_new_tokens, "temperature": 0.0}
    began = time.perf_counter()
    try:
        response = client.post(f"{server.base_url}/chat/completions", json=body)
        seconds = time.perf_counter() - began
        response.raise_for_status()
        return seconds, int(response.json()["usage"]["completion_tokens"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        server.check_alive()
        raise ValueError(f"the served model did not answer a request: {' '.join(str(error).split())[:300]}") from error


def _figures(loads: Sequence[Load]) -> dict[str, Any]:
    spreads = {
        "tokens_per_second": Spread.of([load.num_tokens / load.seconds for load in loads]),
        "request_seconds": Spread.of([statistics.median(load.request_seconds) for load in loads]),
    }
    figures: dict[str, Any] = {"num_tokens": sum(load.num_tokens for load in loads)}
    for name, spread in spreads.items():
        figures |= {name: spread.median, name + LOW: spread.low, name + HIGH: spread.high}
        figures[f"{name}_rounds"] = list(spread.rounds)  # what a gate's interval is made of
    return figures
