"""Score every window of every size: our one forward pass against one pass a window size, as PruneMe and ShortGPT scripts do.

python benchmarks/scan_one_pass.py MODEL_FOLDER
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import torch

from compressors.catalogue import build
from compressors.prune.metrics import BLOCK_METRICS
from compressors.prune.scan import WindowScan
from stages.model_folder import load_model

NUM_BATCHES, BATCH_SIZE, NUM_TOKENS = 2, 4, 256


def main() -> None:
    model = load_model(Path(sys.argv[1]), "float32")
    generator = torch.Generator().manual_seed(0)
    vocab_size = model.config.vocab_size
    batches = [torch.randint(vocab_size, (BATCH_SIZE, NUM_TOKENS), generator=generator) for _ in range(NUM_BATCHES)]
    one_pass(model, batches[:1])  # warm-up
    ours, table = timed(one_pass, model, batches)
    theirs, reference = timed(pass_a_size, model, batches)
    # windows that end at the last block are left out: the peer reads them after the final norm
    num_blocks = model.config.num_hidden_layers
    difference = max(abs(table[w] - reference[w]) for w in reference if sum(w) < num_blocks)
    print("| way | seconds | ratio |\n|---|---|---|")
    print(f"| one pass a window size ({num_blocks} passes) | {theirs:.1f} | 1.00 |")
    print(f"| one pass for all | {ours:.1f} | {ours / theirs:.3f} |")
    print(
        f"largest difference of a score: {difference:.1e}; peak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
    )


def one_pass(model, batches) -> dict[tuple[int, int], float]:
    scan = WindowScan({name: build(BLOCK_METRICS, name) for name in BLOCK_METRICS})
    for ids in batches:
        scan.update(model, ids, torch.ones_like(ids))
    return scan.scores("angular_distance")


@torch.no_grad()
def pass_a_size(model, batches) -> dict[tuple[int, int], float]:
    """For each window size run the data and compare the hidden states that far apart."""
    num_blocks, scores = model.config.num_hidden_layers, {}
    for size in range(1, num_blocks + 1):
        totals = torch.zeros(num_blocks - size + 1)
        for ids in batches:
            hidden = model(input_ids=ids, output_hidden_states=True, use_cache=False, logits_to_keep=1).hidden_states
            for first in range(num_blocks - size + 1):
                cosine = torch.cosine_similarity(hidden[first], hidden[first + size], dim=-1)
                totals[first] += (cosine.clamp(-1, 1).arccos() / torch.pi).mean() / len(batches)
        scores |= {(first, size): float(total) for first, total in enumerate(totals)}
    return scores


def timed(function, *arguments):
    started = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
