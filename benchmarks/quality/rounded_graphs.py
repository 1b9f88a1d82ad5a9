"""What an ONNX graph loses and gains in 16 bits and with an 8-bit cache: KL to float32, bytes, and tokens a second behind short and long texts.

python benchmarks/quality/rounded_graphs.py MODEL [NUM_ROUNDS] [LONG]

MODEL is a source line of `ingest_model`, such as folder:PATH. Every graph is proved by the stage itself, on four questions that ship with it and 64
tokens of the model's own answers to each. LONG: tokens of the long text. bfloat16 is not timed: the processor has no products in it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import torch

from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.cost import Latency, time_in_turns, timer_of
from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.handles import OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.artifacts.onnx_folder import disk_bytes
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import RESULTS, recorded

INTEGERS = {"kind": "int8"}
FORMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float16": {"precision": "float16"},
    "bfloat16": {"precision": "bfloat16"},
    "int8 cache": {"cache": INTEGERS},
    "float16, int8 cache": {"precision": "float16", "cache": INTEGERS},
}
NOT_TIMED = ("bfloat16",)
SHORT, NEW_TOKENS = 32, 16
COLUMNS = (
    "graph",
    "MB",
    "cache, bytes a token",
    "KL, nats a token",
    "agreement",
    "tokens/s behind 32",
    "tokens/s behind {}",
)


def main() -> None:
    num_rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    long = int(sys.argv[3]) if len(sys.argv) > 3 else 1024
    configure_process()
    with tempfile.TemporaryDirectory() as home:
        store = Store(Path(home))
        model = ingest_model.execute(IngestModelConfig(source=sys.argv[1]), NoInputs(), store).artifact
        shipped = IngestDataConfig(source="jsonl:shipped/everyday.jsonl", heldout_fraction=0.2)
        inputs = ExportInputs(model=model, data=ingest_data.execute(shipped, NoInputs(), store).artifact)
        vocab_size = len(load_tokenizer(model.path))
        graphs: dict[str, OnnxArtifact] = {}
        for name, form in FORMS.items():
            config = ExportConfig(format={"kind": "onnx", "max_kl_nats": 1.0, **form})  # type: ignore[arg-type] - pydantic makes it
            graphs[name] = cast(OnnxArtifact, export.execute(config, inputs, store).artifact)
        timed = {name: graph for name, graph in graphs.items() if name not in NOT_TIMED}
        latencies = {length: times(timed, vocab_size, length, num_rounds) for length in (SHORT, long)}
        print(
            f"{graphs['float32'].facts.num_parameters / 1e6:.1f} M parameters, {torch.get_num_threads()} threads, batch 1"
        )
        print_table(graphs, latencies)


def times(graphs: dict[str, OnnxArtifact], vocab_size: int, num_prompt: int, num_rounds: int) -> dict[str, Latency]:
    """Return what a token takes behind a text of that length, all graphs by turns."""
    latencies = time_in_turns(
        [timer_of(OnnxRunner(open_session(graph.path))) for graph in graphs.values()],
        vocab_size=vocab_size,
        num_prompt_tokens=num_prompt,
        num_new_tokens=NEW_TOKENS,
        num_rounds=num_rounds,
    )
    return dict(zip(graphs, latencies, strict=True))


def print_table(graphs: dict[str, OnnxArtifact], latencies: dict[int, dict[str, Latency]]) -> None:
    """Print a row a graph."""
    print("Graphs in fewer bits")
    print(f"| {' | '.join(COLUMNS).format(max(latencies))} |\n|{'---|' * len(COLUMNS)}")
    for name, graph in graphs.items():
        facts = graph.facts
        cells = [name, f"{disk_bytes(graph.path) / 1e6:.1f}", f"{facts.cache_bytes_per_token:,}"]
        cells += ["0", "100.0%"] if facts.kl_nats is None else [f"{facts.kl_nats:.2g}", f"{facts.agreement:.1%}"]
        decodes = [timed[name].decode.median if name in timed else 0.0 for timed in latencies.values()]
        cells += [f"{1 / seconds:.1f}" if seconds else "not timed" for seconds in decodes]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    recorded(main, folder=RESULTS / "graphs")
