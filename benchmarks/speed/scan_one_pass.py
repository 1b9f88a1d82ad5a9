"""Scan every window of sizes 1 to 10, three ways in one run: a plain forward pass, our scan, and PruneMe's procedure, a pass a size.

python benchmarks/speed/scan_one_pass.py MODEL_FOLDER [NUM_SEQUENCES] [float32|bfloat16]

PruneMe's script (github.com/arcee-ai/PruneMe, layer_similarity.py) is written again here: `output_hidden_states=True`, all logits,
last real token of each state, `layers_to_skip` = one size a run; the model is loaded once, which is in its favour.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from pathlib import Path

import torch

from attar.compressors.catalogue import build
from attar.compressors.prune.depth.metrics import COSINE_METRICS
from attar.compressors.prune.depth.scan import WindowScan, last_logits_only
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.model.folder import load_model

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

SIZES, BATCH_SIZE, NUM_TOKENS, NUM_ROUNDS = range(1, 11), 8, 256, 3


def main() -> None:
    configure_process()
    num_sequences = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    precision = sys.argv[3] if len(sys.argv) > 3 else "float32"
    model = load_model(Path(sys.argv[1]), getattr(torch, precision))
    ids = torch.randint(
        model.config.vocab_size, (num_sequences, NUM_TOKENS), generator=torch.Generator().manual_seed(0)
    )
    batches = list(ids.split(BATCH_SIZE))
    # interleaved, so that a busy minute hits all sides; each warms up once
    cheap = {"forward, all logits": forward_all, "forward, last logits": forward_last, "our scan": our_scan}
    for run in cheap.values():
        run(model, batches[:1])
    seconds: dict[str, list[float]] = {name: [] for name in cheap}
    for _ in range(NUM_ROUNDS):
        for name, run in cheap.items():
            seconds[name].append(timed(run, model, batches)[0])
    median = {name: statistics.median(values) for name, values in seconds.items()}
    median["PruneMe, 10 sizes"], published = timed(prune_me, model, batches)
    _, ours = timed(our_scan, model, batches, "last")
    print(
        f"{num_sequences} sequences of {NUM_TOKENS} tokens, {precision}, {torch.get_num_threads()} threads, sizes 1 to 10"
    )
    print("| way | seconds | to forward, all logits | to forward, last logits | to our scan |\n|---|---|---|---|---|")
    bases = [median[name] for name in ("forward, all logits", "forward, last logits", "our scan")]
    for name, value in median.items():
        print(f"| {name} | {value:.2f} | " + " | ".join(f"{value / base:.2f}" for base in bases) + " |")
    num_blocks = model.config.num_hidden_layers
    inside = [window for window in published if sum(window) < num_blocks]
    difference = max(abs(ours[window] - published[window]) for window in inside)
    print(
        f"largest difference of a score, windows at the last block aside (read after the norm there): {difference:.1e}"
    )
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


@torch.inference_mode()
def forward_all(model, batches) -> None:
    for ids in batches:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


@torch.inference_mode()
def forward_last(model, batches) -> None:
    for ids in batches:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **last_logits_only(model))


@torch.inference_mode()
def our_scan(model, batches, tokens: str = "all") -> dict[tuple[int, int], float]:
    """Score by both metrics every window of every size over all tokens (the published script: one metric, one token a sequence)."""
    scan = WindowScan({name: build(COSINE_METRICS, name) for name in COSINE_METRICS})
    for ids in batches:
        counted = torch.ones_like(ids, dtype=torch.bool)
        if tokens == "last":
            counted[:, :-1] = False
        scan.update(model, ids, torch.ones_like(ids), counted)
    return scan.scores("angular_distance")


@torch.no_grad()
def prune_me(model, batches) -> dict[tuple[int, int], float]:
    scores = {}
    for size in SIZES:
        distances: dict[int, list[float]] = {}
        for ids in batches:
            outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
            last = [state[:, -1].float() for state in outputs.hidden_states[1:]]
            for index in range(len(last) - size):
                cosine = torch.cosine_similarity(last[index], last[index + size], dim=-1)
                distances.setdefault(index + 1, []).append(float((cosine.clamp(-1, 1).arccos() / torch.pi).mean()))
        scores |= {(first, size): statistics.mean(values) for first, values in distances.items()}
    return scores


def timed(function, *arguments):
    started = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - started, result


if __name__ == "__main__":
    recorded(main)
