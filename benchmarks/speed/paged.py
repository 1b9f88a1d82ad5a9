"""Peak memory and time of cutting a large model one block at a time, beside the whole model in memory, and whether both write the same.

    python benchmarks/speed/paged.py [--num-blocks 24] [--num-samples 8] [--only scan,prune,narrow,refit,record,quantize]

The model is SmolLM2-1.7B's shape with random weights in bfloat16, 3.4 GB, and a byte tokenizer. Each way of each stage is a process of its
own; memory is its peak resident size, mapped files, the interpreter and torch included; processor seconds are those of
the process, whoever else is on the machine. `bound` is 0.35 of the model in float32 + 1.5 GB.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from attar.registry.artifacts.handles import DatasetArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.model.folder import folder_facts
from attar.stages.contract import NoInputs
from attar.stages.ingest.data import IngestDataConfig, ingest_data
from attar.stages.ingest.model import IngestModelConfig, ingest_model
from attar.stages.ingest.tiny_model import byte_tokenizer
from attar.stages.label.record import RecordConfig, RecordInputs, record
from attar.stages.narrow.stage import NarrowConfig, NarrowInputs, narrow
from attar.stages.prune.config import PruneConfig, PruneInputs
from attar.stages.prune.stage import prune
from attar.stages.quantize.bits_and_bytes import QuantizeTorchConfig, QuantizeTorchInputs, quantize_torch
from attar.stages.scan.config import ScanConfig
from attar.stages.scan.stage import ScanInputs, scan

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

STAGES = ("scan", "prune", "narrow", "refit", "record", "quantize")
WAYS = ("model", "block")
# Files that hold times beside numbers.
TIMED = ("metrics.jsonl", "quality.json")


def main(
    num_blocks: Annotated[int, typer.Option(help="blocks of the model")] = 24,
    num_samples: Annotated[int, typer.Option(help="calibration rows of 256 tokens")] = 8,
    only: Annotated[str, typer.Option(help="stages, by commas")] = ",".join(STAGES),
    work: Annotated[Path | None, typer.Option(help="a folder on a disk with 20 GB")] = None,
    only_run: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print a row a stage and way."""
    if only_run:
        assert work is not None
        stage, way = only_run.split(",")
        print(json.dumps(measured(stage, way, work, num_samples)))
        return
    folder = work or Path(tempfile.mkdtemp())
    num_parameters = prepared(folder, num_blocks)
    bound = 0.35 * 4 * num_parameters + 1.5e9
    print(
        f"{num_parameters / 1e9:.2f} billion parameters, {num_samples} rows of 256 tokens; bound {bound / 1e9:.2f} GB; load "
        f"{os.getloadavg()[0]:.1f} when it began, {torch.get_num_threads()} threads"
    )
    print(
        "| stage | way | seconds | of the whole model's | processor seconds | of the whole model's | peak GB | same bytes |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for stage in only.split(","):
        runs = {}
        for way in WAYS:
            command = [
                sys.executable,
                __file__,
                "--only-run",
                f"{stage},{way}",
                "--work",
                str(folder),
                "--num-samples",
                str(num_samples),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            run = runs[way] = json.loads(done.stdout.splitlines()[-1])
            shown = " | ".join(
                f"{run[key]:.1f} | {run[key] / runs['model'][key]:.2f}" for key in ("seconds", "processor_seconds")
            )
            is_same = "yes" if run["digest"] == runs["model"]["digest"] else "NO"
            print(
                f"| {stage} | {way} | {shown} | {run['peak_bytes'] / 1e9:.2f} | {is_same} |",
                flush=True,
            )
    if work is None:
        shutil.rmtree(folder)


def prepared(folder: Path, num_blocks: int) -> int:
    """Write the model and the rows into a store; return the number of parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    source = folder / "source"
    if not (source / "config.json").exists():
        config = LlamaConfig(
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=num_blocks,
            num_attention_heads=32,
            num_key_value_heads=32,
            vocab_size=49152,
            tie_word_embeddings=True,
        )
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        LlamaForCausalLM(config).save_pretrained(source)
        torch.set_default_dtype(torch.float32)
        byte_tokenizer().save_pretrained(source)
        rows = [{"text": f"Row {index}: " + "the quick brown fox jumps over a lazy dog. " * 12} for index in range(64)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return int(folder_facts(source)["num_parameters"])


def measured(stage: str, way: str, folder: Path, num_samples: int) -> dict[str, object]:
    """Run one stage one way in a store of its own; return its seconds, the peak of this process, and a digest of what it wrote."""
    store = Store(folder / "store")
    model = ingest_model.execute(IngestModelConfig(source=f"folder:{folder / 'source'}"), NoInputs(), store).artifact
    config = IngestDataConfig.model_validate({"source": f"jsonl:{folder / 'rows.jsonl'}"})
    data = ingest_data.execute(config, NoInputs(), store).artifact
    start, processor_start = time.perf_counter(), time.process_time()
    artifact = work_of(stage, way, model, data, num_samples, store)
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor_start
    digest = hashlib.sha256()
    for path in sorted(artifact.path.rglob("*")):
        if path.is_file() and path.name not in TIMED:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    # ru_maxrss would be that of the process that started this one, which made the model
    status = Path("/proc/self/status").read_text()
    peak_bytes = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    shutil.rmtree(artifact.path)
    times = {"seconds": seconds, "processor_seconds": processor_seconds}
    return {**times, "peak_bytes": peak_bytes, "digest": digest.hexdigest()}


def work_of(stage: str, way: str, model: ModelArtifact, data: DatasetArtifact, num_samples: int, store: Store):
    """Run one stage; return its artifact."""
    size = {"num_samples": num_samples, "max_tokens": 256, "precision": "float32"}
    if stage == "scan":
        config = ScanConfig.model_validate({"calibration": size, "in_memory": way})
        return scan.execute(config, ScanInputs(model=model, data=data), store, is_forced=True).artifact
    if stage == "record":
        config = RecordConfig.model_validate(
            {"max_rows": num_samples, "max_tokens": 256, "precision": "float32", "in_memory": way}
        )
        return record.execute(config, RecordInputs(model=model, data=data), store, is_forced=True).artifact
    if stage == "quantize":
        content = {"method": "nf4", "limits": {"max_kl_nats": 100.0}, "max_tokens": 32, "max_rows": num_samples}
        config = QuantizeTorchConfig.model_validate(content | {"precision": "bfloat16", "in_memory": way})
        inputs = QuantizeTorchInputs(model=model, data=data, text=data)
        return quantize_torch.execute(config, inputs, store, is_forced=True).artifact
    if stage == "narrow":
        content = {
            "size": {"ffn_fraction": 0.75},
            "score": "contribution",
            "calibration": size,
            "patch": {"kind": "none"},
        }
        config = NarrowConfig.model_validate(content | {"in_memory": way})
        return narrow.execute(config, NarrowInputs(model=model, data=(data,)), store, is_forced=True).artifact
    blocks = list(range(model.facts["num_blocks"] * 2 // 3, model.facts["num_blocks"] * 2 // 3 + 4))
    patch = {"kind": "refit", **size} if stage == "refit" else {"kind": "none"}
    config = PruneConfig.model_validate({"blocks": blocks, "patch": patch, "in_memory": way})
    return prune.execute(
        config, PruneInputs(model=model, data=(data,) if stage == "refit" else ()), store, is_forced=True
    ).artifact


if __name__ == "__main__":
    recorded(lambda: typer.run(main))
