"""Quantization-aware distillation: the 4-bit graph before and after, toward the float original. KL, agreement, perplexity, with intervals.

python benchmarks/quality/qad.py MODEL_FOLDER DATA_FOLDER [--steps 64] [--tokens-per-step 1024] [--learning-rate 2e-5] [--rows 400]
    [--scored-tokens 4096] [--block-size 32] [--seed 0] [--no-refined]
    [--home qad]

DATA_FOLDER holds wikitext2/valid.txt and gsm8k/train.jsonl, which are learned and calibrate, and wikitext2/test.txt and gsm8k/test.jsonl,
which are held out. Every graph has the same grid: 4 bits in blocks with zero points, embedding and head in 8 bits. `nearest` rounds the
original, `refined` chooses its codes (GPTQ and descent), `trained` rounds what was trained through that very rounding. What was built
lies in --home: the same command goes on where it ended.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from attar.compressors.export.runtime import OnnxRunner
from attar.compressors.measure.closeness import Estimate, Sums, TextCloseness, closeness_of_each
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact, OnnxArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.onnx_folder import disk_bytes
from attar.stages.artifacts.onnx_session import open_session
from attar.stages.contract import NoInputs
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.merge.config import MergeConfig
from attar.stages.merge.stage import MergeInputs, merge
from attar.stages.quantize.config import QuantizeConfig, QuantizeInputs
from attar.stages.quantize.stage import quantize

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded
from retention import pairs_of

BATCH_SIZE = 4
ON_THE_GRID = {"method": "nearest", "smooth": 0.0}
REFINED = {"method": "refined"}


def main() -> None:
    options = arguments()
    configure_process()
    store = Store(options.home)
    source = IngestModelConfig(source=f"folder:{options.model.resolve()}")
    original = cast(ModelArtifact, ingest_model.execute(source, NoInputs(), store).artifact)
    data = learned(options, store)
    started, used = time.perf_counter(), time.process_time()
    trained = train(options, store, original, data)
    seconds = time.perf_counter() - started, time.process_time() - used
    plain, after = (graph_of(model, data[1], store) for model in (original, trained))
    graphs = {
        "nearest": integers(options, store, plain, data[1], ON_THE_GRID),
        "trained": integers(options, store, after, data[1], ON_THE_GRID),
    }
    if options.refined:
        graphs["refined"] = integers(options, store, plain, data[1], REFINED)
    size = disk_bytes(plain.path)
    report(
        options,
        score(options, original, graphs),
        {name: disk_bytes(graph.path) / size for name, graph in graphs.items()},
    )
    print(f"training: {seconds[0]:.0f} s, {seconds[1]:.0f} CPU s in this sitting")


def learned(options: Any, store: Store) -> tuple[DatasetArtifact, DatasetArtifact]:
    """Return text and solutions to learn from, a part of each set apart to choose the weights by."""
    configs = (
        {"source": f"text:{options.data.resolve()}/wikitext2/valid.txt", "words_a_row": 160, "max_rows": options.rows},
        {"source": f"jsonl:{options.data.resolve()}/gsm8k/train.jsonl", "max_rows": options.rows, "verifier": "number"},
    )
    text, solutions = (
        ingest_data.execute(
            IngestDataConfig.model_validate(config | {"heldout_fraction": 0.03, "choose_fraction": 0.03}),
            NoInputs(),
            store,
        ).artifact
        for config in configs
    )
    return text, solutions


def train(options: Any, store: Store, original: ModelArtifact, data: Sequence[DatasetArtifact]) -> ModelArtifact:
    """Train through the rounding toward the float model, and return the model with those weights."""
    config = FinetuneConfig.model_validate(
        {
            "adapt": {
                "kind": "quantization_aware",
                "rounding": {"kind": "blocks", "bits": 4, "block_size": options.block_size},
            },
            "objectives": {"forward_kl": 1.0},
            "teacher": {"kind": "input"},
            "rows": {"learn": "all", "max_tokens": 256, "shares": [0.5, 0.5]},
            "schedule": {
                "num_epochs": 1000,
                "max_steps": options.steps,
                "tokens_per_step": options.tokens_per_step,
                "learning_rate": options.learning_rate,
                "seed": options.seed,
            },
            "heldout": {"every": max(1, options.steps // 2), "patience": 0},
            "compute": {"precision": "float32"},
        }
    )
    inputs = FinetuneInputs(model=original, data=tuple(data), teacher=original)
    student = finetune.execute(config, inputs, store).artifact
    folded = merge.execute(MergeConfig(method="fold"), MergeInputs(base=original, students=(student,)), store)
    return cast(ModelArtifact, folded.artifact)


def graph_of(model: ModelArtifact, data: DatasetArtifact, store: Store) -> OnnxArtifact:
    made = export.execute(ExportConfig(num_prompts=1, num_new_tokens=8), ExportInputs(model=model, data=data), store)
    return cast(OnnxArtifact, made.artifact)


def integers(
    options: Any, store: Store, graph: OnnxArtifact, data: DatasetArtifact, method: dict[str, Any]
) -> OnnxArtifact:
    """Return the graph in 4 bits, whatever it loses: that is what is measured."""
    config = QuantizeConfig.model_validate(
        {
            "limits": {"max_kl_nats": 100.0},
            "weights": {"bits": 4, "block_size": options.block_size},
            "measured": {"max_rows": 4, "num_samples": 32},
            **method,
        }
    )
    return cast(OnnxArtifact, quantize.execute(config, QuantizeInputs(model=graph, data=data), store).artifact)


def score(
    options: Any, original: ModelArtifact, graphs: dict[str, OnnxArtifact]
) -> dict[str, dict[str, list[TextCloseness]]]:
    """Return how close each graph is to the float original, by held-out part and text."""
    pairs = pairs_of(original.path, options.data, options.scored_tokens)
    reference = TorchRunner(load_model(original.path, torch.float32))
    runners = [OnnxRunner(open_session(graph.path)) for graph in graphs.values()]
    scored: dict[str, dict[str, list[TextCloseness]]] = {name: {} for name in graphs}
    for part, some in pairs.items():
        several = closeness_of_each(runners, reference, some, batch_size=BATCH_SIZE)
        for name, texts in zip(graphs, several, strict=True):
            scored[name][part] = texts
    return scored


def sums(texts: Sequence[TextCloseness]) -> Sums:
    """Return KL, agreement and the rise of the loss, text by text."""
    measures = {
        "kl": [text.kl_nats for text in texts],
        "agreement": [float(text.num_agreeing) for text in texts],
        "rise": [text.loss_nats - text.original_loss_nats for text in texts],
    }
    return Sums(measures, [text.num_tokens for text in texts])


def report(options: Any, scored: dict[str, dict[str, list[TextCloseness]]], sizes: dict[str, float]) -> None:
    """Print each graph's figures, and by how much the trained one differs from the others on the same texts."""
    print(
        f"{options.steps} steps of {options.tokens_per_step} tokens at {options.learning_rate:g}, 4 bits in blocks of {options.block_size}, "
        f"about {options.scored_tokens} tokens of each held-out part"
    )
    print("| graph | part | KL, nats a token | agreement | perplexity / original's | size / float graph's |")
    print("|---|---|---|---|---|---|")
    for name, parts in scored.items():
        for part, texts in parts.items():
            estimates = sums(texts).estimates()
            ratio = Estimate(*(math.exp(getattr(estimates["rise"], end)) for end in ("value", "low", "high")))
            print(
                f"| {name} | {part} | {shown(estimates['kl'], 4)} | {shown(estimates['agreement'], 3)} | {shown(ratio, 3)} "
                f"| {sizes[name]:.3f} |"
            )
    print("The trained graph minus the others, on the same texts")
    print("| minus | part | KL, nats a token | agreement |\n|---|---|---|---|")
    for name in (other for other in scored if other != "trained"):
        for part, texts in scored["trained"].items():
            apart = sums(texts).minus(sums(scored[name][part]))
            print(f"| {name} | {part} | {shown(apart['kl'], 4)} | {shown(apart['agreement'], 3)} |")


def shown(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--tokens-per-step", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--scored-tokens", type=int, default=4096)
    parser.add_argument("--block-size", type=int, choices=(16, 32, 64, 128), default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--refined", action=argparse.BooleanOptionalAction, default=True, help="GPTQ beside it")
    parser.add_argument("--home", type=Path, default=Path("qad"), help="where what was built is kept")
    return parser.parse_args()


if __name__ == "__main__":
    recorded(main)
