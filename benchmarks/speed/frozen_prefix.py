"""What training behind the cut alone saves, and what it costs: LoRA with `adapt_blocks` all and after_cut, same rows, steps and seed.

python benchmarks/speed/frozen_prefix.py MODEL_FOLDER DATA_FOLDER [--questions 56] [--texts 24] [--tokens 4096] [--precision auto]
DATA_FOLDER holds wikitext2 and gsm8k. The student is the model without six blocks, patched; it learns forward KL of all tokens toward the
recorded original, of windows of WikiText's validation part and questions of GSM8K's training part, for two epochs, so that the frozen
blocks are run once and used twice. Each way in a process of its own; its first step warms up and is in no rate.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from finetune import REMOVED, ingested
from kl_memory import peak_bytes

from attar.compressors.measure.closeness import Sums, closeness
from attar.compressors.measure.likelihood import Pair
from attar.compressors.models.adapted import mixed_precision, plain_model
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import load_model
from attar.stages.contract import NoInputs
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.finetune.stage import build_run
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.label.record import RecordConfig, RecordInputs, record
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.runtime.device import pick_device, pick_dtype

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded
from retention import cells, pairs_of, sums

WAYS = ("all", "after_cut")
TRAINING: dict[str, Any] = {
    "objectives": {"forward_kl": 1.0},
    "rows": {"learn": "all"},
    "schedule": {"num_epochs": 2, "tokens_per_step": 1024, "learning_rate": 5e-4},
    "heldout": {"patience": 0},
}
PATCH_ROWS, BATCH_SIZE = 32, 4


@dataclass(frozen=True)
class Trained:
    """One training: seconds up to the first step (loading, frozen blocks) and of each step, tokens of each, peak memory, retention."""

    before_seconds: float
    step_seconds: list[float]
    step_tokens: list[int]
    num_trained: int
    peak_bytes: int
    closeness: dict[str, Sums]

    @property
    def tokens_per_second(self) -> float:
        """Learned tokens a second of the steps behind the first."""
        return sum(self.step_tokens[1:]) / sum(self.step_seconds[1:])

    @property
    def seconds(self) -> float:
        """All of it, the frozen blocks included."""
        return self.before_seconds + sum(self.step_seconds)


def main(
    model: Path,
    data: Path,
    questions: Annotated[int, typer.Option(help="Rows of GSM8K learned from.")] = 56,
    texts: Annotated[int, typer.Option(help="Windows of WikiText learned from.")] = 24,
    tokens: Annotated[int, typer.Option(help="Of each test part that the students are measured on.")] = 4096,
    precision: Annotated[str, typer.Option(help="Of all passes: auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Print speed and memory of both ways, then what they leave of the original and by how much that differs."""
    configure_process()
    # decided once: measured anew in each process, the two might not be the same
    dtype = str(pick_dtype(precision, pick_device())).removeprefix("torch.")  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as scratch:
        inputs, original = prepared(model, data.resolve(), Store(Path(scratch)), (texts, questions), dtype)
        pairs = pairs_of(model, data, tokens)
        trainings = {}
        for way in WAYS:
            config = FinetuneConfig(adapt={"rank": 16, "blocks": way}, compute={"precision": dtype}, **TRAINING)  # type: ignore[arg-type]
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own_process:
                trainings[way] = own_process.submit(trained, config, inputs, original, pairs).result()
    report(trainings, dtype)


def prepared(
    folder: Path, data: Path, store: Store, counts: tuple[int, int], dtype: str
) -> tuple[FinetuneInputs, Path]:
    """Return the patched student, its windows of text and questions with what the original says of them, and where the original lies."""
    original = ingested(folder, store)
    read, recorded = [], []
    sources = (f"text:{data}/wikitext2/valid.txt", f"jsonl:{data}/gsm8k/train.jsonl")
    for source, count in zip(sources, counts, strict=True):
        config = IngestDataConfig(source=source, max_rows=count, heldout_fraction=0.0)  # a file of text is one row
        read.append(ingest_data.execute(config, NoInputs(), store).artifact)
        record_config = RecordConfig(max_rows=count, precision=dtype)  # type: ignore[arg-type]
        recorded.append(record.execute(record_config, RecordInputs(model=original, data=read[-1]), store).artifact)
    cut = PruneConfig(blocks=[*REMOVED], patch={"kind": "linear", "num_samples": PATCH_ROWS, "precision": dtype})  # type: ignore[arg-type]
    student = prune.execute(cut, PruneInputs(model=original, data=(read[0],)), store).artifact
    return FinetuneInputs(model=student, data=tuple(recorded)), original.path


def trained(config: FinetuneConfig, inputs: FinetuneInputs, original: Path, pairs: dict[str, list[Pair]]) -> Trained:
    """Train in this process, then measure the student."""
    torch.manual_seed(config.schedule.seed)  # of this process alone: the adapters' first weights
    with tempfile.TemporaryDirectory() as scratch:
        moments = [time.perf_counter()]
        run = build_run(TrainingPlan.of(config, inputs), inputs, Path(scratch))
        moments.append(time.perf_counter())
        step_tokens = []
        for step in run.trainer.run():
            moments.append(time.perf_counter())
            step_tokens.append(step.num_tokens)
        peak = peak_bytes()
        before_seconds, *step_seconds = (after - before for before, after in pairwise(moments))
        num_trained = sum(parameter.numel() for parameter in run.student.parameters() if parameter.requires_grad)
        student = TorchRunner(plain_model(run.student.model))
        whole = TorchRunner(load_model(original, getattr(torch, config.compute.precision), pick_device()))
        with mixed_precision(student.model):
            scored = {name: closeness(student, whole, some, batch_size=BATCH_SIZE) for name, some in pairs.items()}
    left = {name: sums(some) for name, some in scored.items()}
    return Trained(before_seconds, step_seconds, step_tokens, num_trained, peak, left)


def report(runs: dict[str, Trained], dtype: str) -> None:
    result = runs[WAYS[0]]
    counts = f"{len(result.step_tokens)} steps, {sum(result.step_tokens)} learned tokens"
    print(f"{counts}, {dtype}, {torch.get_num_threads()} threads")
    columns = (
        "trained M",
        "useful tokens/s",
        "before the first step s",
        "steps s",
        "in all s",
        "tokens/s of all",
        "peak GB",
    )
    print(f"| adapt_blocks | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for way, result in runs.items():
        numbers = [f"{result.num_trained / 1e6:.2f}", f"{result.tokens_per_second:.0f}", f"{result.before_seconds:.1f}"]
        numbers += [
            f"{sum(result.step_seconds):.1f}",
            f"{result.seconds:.1f}",
            f"{sum(result.step_tokens) / result.seconds:.0f}",
        ]
        print(f"| {way} | {' | '.join(numbers)} | {result.peak_bytes / 1e9:.2f} |")
    whole, cut = (runs[way] for way in WAYS)
    in_steps, in_all = cut.tokens_per_second / whole.tokens_per_second, whole.seconds / cut.seconds
    print(f"after_cut is {in_steps:.2f} times as fast in the steps, {in_all:.2f} times in all")
    print("\n| held-out | perplexity ratio WikiText | KL WikiText | KL GSM8K |\n|---|---|---|---|")
    for way, result in runs.items():
        print(f"| {way} | {' | '.join(cells(result.closeness))} |")
    print(f"| after_cut minus all (perplexity: divided by) | {' | '.join(cells(cut.closeness, whole.closeness))} |")


if __name__ == "__main__":
    recorded(lambda: typer.run(main))
