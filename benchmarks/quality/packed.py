"""Packed weights of four bits beside llm-compressor's, on the same calibration tokens: KL, agreement, bits a weight, seconds.

python benchmarks/quality/packed.py MODEL_FOLDER DATA_FOLDER [PEER_PYTHON] [NUM_SAMPLES] [NUM_TOKENS]

DATA_FOLDER holds wikitext2/valid.txt, whose windows calibrate, and wikitext2/test.txt and gsm8k/test.jsonl, which are held out. PEER_PYTHON is
the Python of an environment with llmcompressor, which wants other versions of transformers and compressed-tensors; without it, or with a
dash, ours are measured alone. NUM_SAMPLES windows of 256 tokens calibrate, NUM_TOKENS of each held-out part are measured.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from attar.compressors.measure.closeness import TextCloseness, closeness_of_each
from attar.compressors.measure.likelihood import Pair
from attar.compressors.models.runner import TorchRunner
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.model.folder import load_model
from attar.stages.artifacts.model.tokenizer_files import copy_tokenizer
from attar.stages.export.compressed_tensors.matrices import choose_matrices
from attar.stages.export.compressed_tensors.packing import count_packed, write_packed
from attar.stages.export.compressed_tensors.room import round_model, store_rest
from attar.stages.export.formats.compressed_tensors import CompressedTensorsFormat
from attar.stages.export.formats.schemes import SCHEMES

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded
from retention import cells, pairs_of, sums, text_windows

METHODS = ("refined", "ordered")
PEER = Path(__file__).with_name("packed_peer.py")
PEER_METHODS = ("gptq",)
GROUP_SIZE = 64
COLUMNS = (
    "method",
    "perplexity / original's, WikiText",
    "KL WikiText",
    "KL GSM8K",
    "agreement WikiText",
    "agreement GSM8K",
    "bits a weight",
    "seconds",
)
BATCH_SIZE = 8


def main() -> None:
    folder, data = Path(sys.argv[1]), Path(sys.argv[2])
    peer = sys.argv[3] if len(sys.argv) > 3 else "-"
    num_samples = int(sys.argv[4]) if len(sys.argv) > 4 else 32
    num_tokens = int(sys.argv[5]) if len(sys.argv) > 5 else 4096
    configure_process()
    samples = text_windows(folder, data / "wikitext2/valid.txt", 256 * num_samples)
    pairs = pairs_of(folder, data, num_tokens)
    with tempfile.TemporaryDirectory() as scratch:
        made = {f"ours, {method}": packed(folder, samples, method, Path(scratch) / method) for method in METHODS}
        if peer != "-":
            made |= {
                f"llm-compressor, {method}": packed_by_peer(
                    peer, folder, samples, method, Path(scratch) / f"peer_{method}"
                )
                for method in PEER_METHODS
            }
        print(f"W4A16 in groups of {GROUP_SIZE}, calibrated on {sum(map(len, samples)):,} tokens of WikiText-2")
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        scored = score(folder, [path for path, _ in made.values()], pairs)
        num_parameters = load_model(folder, torch.float32).num_parameters()
        for (name, (path, seconds)), parts in zip(made.items(), scored, strict=True):
            agreements = [
                f"{sum(text.num_agreeing for text in texts) / sum(text.num_tokens for text in texts):.1%}"
                for texts in parts.values()
            ]
            bits = 8 * count_packed(path, 4)[1] / num_parameters
            figures = cells({part: sums(texts) for part, texts in parts.items()})
            print(f"| {' | '.join([name, *figures, *agreements, f'{bits:.2f}', f'{seconds:.0f}'])} |", flush=True)


def score(folder: Path, made: list[Path], pairs: dict[str, list[Pair]]) -> list[dict[str, list[TextCloseness]]]:
    """Return how close each folder is to the original, text by text, by held-out part. All are in memory at once, as float32."""
    original = TorchRunner(load_model(folder, torch.float32))
    students = [TorchRunner(load_model(path, torch.float32)) for path in made]
    by_part = {part: closeness_of_each(students, original, some, batch_size=BATCH_SIZE) for part, some in pairs.items()}
    return [{part: texts[index] for part, texts in by_part.items()} for index in range(len(made))]


def packed(folder: Path, samples: list[list[int]], method: str, target: Path) -> tuple[Path, float]:
    """Pack by our own method; return the folder and the seconds from loading to what is written."""
    started = time.perf_counter()
    form = CompressedTensorsFormat.model_validate(
        {
            "scheme": "W4A16",
            "group_size": GROUP_SIZE,
            "method": method,
            "limits": {"max_kl_nats": 100.0},
            "calibration": {"batch_size": BATCH_SIZE},
        }
    )
    model = load_model(folder, torch.float32)
    choice = choose_matrices(model, form.scheme, form.group_size, (), 0.0)
    matrices = round_model(model, choice, form, samples)
    store_rest(model, choice, torch.bfloat16)
    write_packed(model, matrices, SCHEMES[form.scheme], torch.bfloat16, target)
    seconds = time.perf_counter() - started
    copy_tokenizer(folder, target)
    return target, seconds


def packed_by_peer(
    python: str, folder: Path, samples: list[list[int]], method: str, target: Path
) -> tuple[Path, float]:
    """Let llm-compressor pack in its own environment; return the folder and its seconds, its imports left out."""
    target.mkdir()
    (target / "samples.json").write_text(json.dumps(samples))
    words = [
        python,
        str(PEER),
        str(folder),
        str(target / "samples.json"),
        str(target / "made"),
        method,
        str(GROUP_SIZE),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=target)
    if done.returncode:
        raise SystemExit(f"llm-compressor, {method}: {done.stderr.strip()[-2000:]}")
    shutil.rmtree(target / "made" / "sparse_logs", ignore_errors=True)
    return target / "made", float(done.stdout.split()[-1])


if __name__ == "__main__":
    recorded(main)
