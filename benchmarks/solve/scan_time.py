"""What measuring every axis for a solve costs, as a multiple of one plain forward pass over the same calibration samples.

python benchmarks/solve/scan_time.py MODEL_FOLDER DATA_FOLDER [--num-samples 64] [--max-tokens 256] [--axes depth,seams,...]
DATA_FOLDER holds gsm8k. The scan is the stage as a recipe runs it, its settings the defaults but for the axes; fewer samples shrink all
its parts alike. A plain pass is timed before and behind it, with the logits of every token and with those of the last one alone.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from attar.compressors.prune.depth.calibration import batches
from attar.compressors.prune.depth.scan import last_logits_only
from attar.registry.artifacts.environment import configure_process
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.samples import calibration_samples
from attar.stages.artifacts.model.folder import load_model
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.runtime.device import pick_device, pick_dtype
from attar.stages.scan.candidates import CandidatesConfig
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

DEFAULTS = CandidatesConfig()


def main(
    model: Path,
    data: Path,
    num_samples: Annotated[int, typer.Option(help="Of the scan; what candidates are run on shrinks with it.")] = 64,
    max_tokens: Annotated[int, typer.Option(help="Cut of each sample.")] = 256,
    axes: Annotated[str, typer.Option(help="By commas.")] = "depth,seams,channels,groups,hidden,vocabulary",
) -> None:
    """Print a row a run."""
    configure_process()
    share = num_samples / ScanConfig().calibration.num_samples
    candidates: dict[str, Any] = {"axes": axes.split(",")}
    for name in ("num_samples", "num_scoring_samples", "num_vocabulary_samples"):
        candidates[name] = max(1, round(share * getattr(DEFAULTS, name)))
    calibration = {"num_samples": num_samples, "max_tokens": max_tokens}
    config = ScanConfig(candidates=candidates, calibration=calibration)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        original = ingest_model.execute(IngestModelConfig(source=f"folder:{model}"), NoInputs(), store).artifact
        source = IngestDataConfig(source=f"jsonl:{data}/gsm8k/train.jsonl")
        rows = ingest_data.execute(source, NoInputs(), store).artifact
        device = pick_device()
        whole = load_model(original.path, pick_dtype(config.calibration.precision, device), device)
        samples = calibration_samples(original.path, rows, num_samples, max_tokens)
        passes = [plain_seconds(whole, samples, config) for _ in range(2)]
        started = time.perf_counter()
        scan.execute(config, ScanInputs(model=original, data=rows), store)
        seconds = time.perf_counter() - started
        passes += [plain_seconds(whole, samples, config) for _ in range(2)]
    plain, short = (min(own) for own in zip(*passes, strict=True))
    print(f"{sum(len(sample.ids) for sample in samples):,} tokens, axes {axes}")
    print("| run | seconds | of a plain pass |")
    print("|---|---|---|")
    print(f"| plain pass, logits of every token | {plain:.1f} | 1 |")
    print(f"| plain pass, logits of the last token | {short:.1f} | {short / plain:.2f} |")
    print(f"| scan of windows and of all axes | {seconds:.1f} | {seconds / plain:.2f} |")


@torch.inference_mode()
def plain_seconds(model: Any, samples: Any, config: ScanConfig) -> tuple[float, float]:
    """Return the seconds of one pass over the samples with all logits, and with the last token's alone."""
    seconds = []
    for options in ({}, last_logits_only(model)):
        started = time.perf_counter()
        for batch in batches(samples, config.calibration.batch_size, model.device, skip_first=False):
            model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **options)
        seconds.append(time.perf_counter() - started)
    return seconds[0], seconds[1]


if __name__ == "__main__":
    recorded(lambda: typer.run(main))
