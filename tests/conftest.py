"""What many tests stand on: a tiny random model in a folder, a data set, a store in a temporary home."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from attar.registry.artifacts.environment import configure_process
from tests.databases import copy_database

if TYPE_CHECKING:
    from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
    from attar.registry.artifacts.store import Store

# The stages are imported where they are called: the process that only hands out tests to workers reads this file too.
os.environ.setdefault("GOMP_SPINCOUNT", "0")  # several test processes share the cores
# transformers reads a file by four threads, each made for it: of a model of some kilobytes that is a tenth of the time
os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")
# of what a trace asks of a small model's tensors little comes twice: to keep the answers takes a sixth of an export
os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")
configure_process()
# the libraries are a million objects that stay: without this the collector walks over them again and again
gc.set_threshold(50_000, 20, 20)

QUESTIONS = [
    {"question": f"What is {a} plus {b}?", "answer": f"The sum of {a} and {b} is {a + b}.", "verifier": "number"}
    for a, b in [(1, 2), (4, 4), (7, 5), (9, 3), (12, 6), (3, 3), (20, 1), (8, 6), (5, 5), (2, 9), (11, 4), (6, 7)]
]


# What waits for servers and processes for minutes begins first, one file a worker; what only computes fills the cores beside it, and no
# worker is left with a long file when the others are done.
LONGEST = ("test_operate.py", "test_pools.py", "test_run.py", "test_kill.py", "test_methods.py", "test_run_ends.py")

# A test of so many seconds may have imported a library.
LONG_SECONDS = 0.2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collectstart() -> None:
    prepare_torch()


@cache
def prepare_torch() -> None:
    """Import torch as this process needs it, before the first test file does. The process that only hands out tests collects none."""
    import torch

    torch.set_num_threads(1)  # a model of 64 hidden units only waits for its second one
    torch.onnx.export = with_kept_registry(torch.onnx.export)
    # as in the fork server of the stages: it asks for compiled forms of kernels when it is imported, which brings torch's compiler
    with pytest.MonkeyPatch.context() as patch, suppress(ImportError):
        patch.setattr(
            torch, "compile", lambda model=None, **_: model if model is not None else lambda function: function
        )
        import bitsandbytes  # noqa: F401


def with_kept_registry(export: Callable[..., Any]) -> Callable[..., Any]:
    """Return `torch.onnx.export` that makes its table of translations once a process, not at every export, in half a second each."""

    @cache
    def keep() -> None:
        from torch.onnx._internal.exporter._registration import ONNXRegistry  # imports half of the exporter

        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign,assignment]

    @wraps(export)
    def exported(*arguments: Any, **options: Any) -> Any:
        assert options.get("custom_translation_table") is None, "it would stay in the table"
        keep()
        return export(*arguments, **options)

    return exported


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """A command that ran in this process may have set more: a fork of it would wait for OpenMP's threads, which it has not."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    return (yield from leaving_imports_alone())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    return (yield from leaving_imports_alone())


def leaving_imports_alone() -> Generator[None, object, object]:
    """Take what a test has imported out of the collector's way too.

    A stage collects garbage when it frees a model: a millisecond in a process of its own, half a second among a test process's million
    objects, and a third of the time of all stages' tests. What is over at once has imported nothing to speak of.
    """
    started = time.monotonic()
    outcome = yield
    if time.monotonic() - started > LONG_SECONDS:
        gc.collect()
        gc.freeze()
    return outcome


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in a home of its own; whatever the stage leaves lies there."""
    from attar.registry.artifacts.store import Store

    home = tmp_path / "home"
    monkeypatch.setenv("ATTAR_HOME", str(home))
    return Store(home)


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def shared_store(session_folder: Path) -> Store:
    """A store for what no test changes: made once, by the worker that first asks for it; the store's own locks keep the others waiting."""
    from attar.registry.artifacts.store import Store

    return Store(session_folder / "inputs")


@pytest.fixture(scope="session")
def model(shared_store: Store) -> ModelArtifact:
    """A random Llama of 4 blocks, hidden size 64."""
    from attar.stages.contract import NoInputs
    from attar.stages.ingest.model import IngestModelConfig, ingest_model

    config = IngestModelConfig(source="random:llama?num_blocks=4&hidden_size=64&seed=0")
    return ingest_model.execute(config, NoInputs(), shared_store).artifact


@pytest.fixture(scope="session")
def questions(shared_store: Store, session_folder: Path) -> DatasetArtifact:
    """Twelve sums with checkable answers, three of them held out."""
    from attar.stages.contract import NoInputs
    from attar.stages.ingest.data import IngestDataConfig, ingest_data

    path = session_folder / "sums.jsonl"
    with FileLock(f"{path}.lock"):  # its place is part of the key: one for all workers
        if not path.exists():
            path.write_text("\n".join(map(json.dumps, QUESTIONS)))
    config = IngestDataConfig(source=f"jsonl:{path}", heldout_fraction=0.25)
    return ingest_data.execute(config, NoInputs(), shared_store).artifact


@pytest.fixture(scope="session")
def graph(shared_store: Store, model: ModelArtifact, questions: DatasetArtifact) -> OnnxArtifact:
    """That model as an ONNX graph."""
    from attar.stages.export.stage import ExportConfig, ExportInputs, export

    config = ExportConfig(num_prompts=1, num_new_tokens=8)
    return export.execute(config, ExportInputs(model=model, data=questions), shared_store).artifact


@pytest.fixture(scope="session")
def mlflow_database(session_folder: Path) -> Path:
    """MLflow's database as its migrations leave it, made once: they take longer than what a test does with it."""
    from attar.registry.tracking.mlflow_home import open_client

    path = session_folder / "mlflow" / "mlflow.db"
    with FileLock(session_folder / "mlflow.lock"):
        if not path.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv("MLFLOW_TRACKING_URI", raising=False)
                open_client(session_folder / "migrated").search_experiments()
            path.parent.mkdir()
            copy_database(session_folder / "migrated" / "mlflow.db", path)
    return path


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """The environment for a child process: ours without another run's homes."""
    dropped = ("ATTAR_HOME", "MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME")
    return {name: value for name, value in os.environ.items() if name not in dropped}


@pytest.fixture
def kl_between() -> Callable[[ModelArtifact, ModelArtifact, list[int]], float]:
    """KL(first || second) of two models on one sample, in nats a token, in float32."""
    import torch

    from attar.stages.artifacts.model.folder import load_model

    def kl(first: ModelArtifact, second: ModelArtifact, sample: list[int]) -> float:
        with torch.no_grad():
            first_logprobs, other = (
                load_model(artifact.path, "float32")(input_ids=torch.tensor([sample])).logits.log_softmax(-1)
                for artifact in (first, second)
            )
        return float((first_logprobs.exp() * (first_logprobs - other)).sum(-1).mean())

    return kl
