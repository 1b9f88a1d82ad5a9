"""Depth, width and both at equal size, without training: perplexity of each way, and seconds of its calibration.

python benchmarks/quality/width.py MODEL_FOLDER CALIBRATION_TEXT TEST_TEXT [NUM_BLOCKS [ONLY_WAYS_WITH_THIS_WORD]]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from attar.compressors.catalogue import build
from attar.compressors.measure.cost import num_parameters
from attar.compressors.measure.likelihood import perplexity
from attar.compressors.models.blocks import remove_blocks
from attar.compressors.models.runner import TorchRunner
from attar.compressors.prune.depth.metrics import COSINE_METRICS
from attar.compressors.prune.depth.patch import PatchFit, fold_patch
from attar.compressors.prune.depth.scan import WindowScan
from attar.compressors.prune.depth.select import Saving, choose_window
from attar.compressors.prune.width.budget import width_cost
from attar.compressors.prune.width.cut import cut_width
from attar.compressors.prune.width.layout import attention_parts, feed_forward_parts
from attar.compressors.prune.width.refit import Refit
from attar.compressors.prune.width.scores import WIDTH_SCORES, WidthScan, highest
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.model.folder import load_model, load_tokenizer
from attar.stages.runtime.device import pick_dtype

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded

NUM_CALIBRATION_TOKENS, NUM_TEST_TOKENS, WINDOW, BATCH_SIZE = 16_384, 16_384, 256, 4
PATCH_RIDGE, REFIT_RIDGE = 1e-2, 1e-1


def main() -> None:
    folder, num_blocks = Path(sys.argv[1]), int(sys.argv[4]) if len(sys.argv) > 4 else 6
    wanted = sys.argv[5] if len(sys.argv) > 5 else ""
    configure_process()
    dtype = pick_dtype()
    calibration, test = (tokens(folder, Path(path)) for path in sys.argv[2:4])
    batches = torch.tensor(calibration[:NUM_CALIBRATION_TOKENS]).reshape(-1, BATCH_SIZE, WINDOW)
    original = load_model(folder, dtype)
    target = width_cost(original).parameters_without_blocks(num_blocks)
    first = perplexity(TorchRunner(original), test[:NUM_TEST_TOKENS], window=512, batch_size=BATCH_SIZE)
    print("| way | parameters M | perplexity | of the original's | calibration s |\n|---|---|---|---|---|")
    print(f"| original | {num_parameters(original) / 1e6:.1f} | {first:.2f} | 1.00 | |", flush=True)
    ways = [("depth", num_blocks, "", patched, 0) for patched in (False, True)]
    ways += [("width", 0, score, False, 0) for score in WIDTH_SCORES]
    ways += [("width", 0, score, True, 0) for score in ("activation", "contribution", "taylor")]
    ways += [("width and a KV group", 0, "taylor", True, 1), ("both", num_blocks // 2, "taylor", True, 0)]
    for name, num_removed, score, patched, num_groups in ways:
        label = " ".join(word for word in (name, score, "patched" if patched else "") if word)
        if wanted not in label:
            continue
        started = time.perf_counter()
        model = load_model(folder, dtype)
        if num_removed:
            deepen(model, num_removed, batches, patched)
        if score:
            thin(model, target, score, batches, patched, num_groups)
        seconds = time.perf_counter() - started
        value = perplexity(TorchRunner(model), test[:NUM_TEST_TOKENS], window=512, batch_size=BATCH_SIZE)
        size = num_parameters(model) / 1e6
        print(f"| {label} | {size:.1f} | {value:.2f} | {value / first:.2f} | {seconds:.0f} |", flush=True)


def deepen(model, num_removed: int, batches, patched: bool) -> None:
    """Remove the window that the angular distance chooses, as the prune stage does."""
    scan = WindowScan({"angular_distance": build(COSINE_METRICS, "angular_distance")})
    for ids in batches[:8]:
        scan.update(model, ids, torch.ones_like(ids), torch.ones_like(ids, dtype=torch.bool))
    saving = Saving.of_count(num_removed, model.config.num_hidden_layers)
    first = choose_window(scan.scores("angular_distance"), [saving])[0]
    if patched:
        fit = PatchFit(num_removed, [first])
        for ids in batches:
            fit.update(model, ids, torch.ones_like(ids))
        fold_patch(model, fit.solve(first, PATCH_RIDGE))
    remove_blocks(model, range(first, first + num_removed))


def thin(model, target: int, score: str, batches, patched: bool, num_groups: int) -> None:
    """Remove channels, and KV groups, down to a number of parameters, as the narrow stage does."""
    cost, channels = width_cost(model), feed_forward_parts(model)
    num_kept = cost.channels_for_budget(target, num_groups, 1)
    parts = [*channels, *(attention_parts(model) if num_groups else [])]
    scan = WidthScan(build(WIDTH_SCORES, score), parts)
    if scan.score.source != "weights":
        for ids in batches:
            scan.update(model, ids, torch.ones_like(ids))
    counts = [num_kept if part.unit_width == 1 else part.num_units - num_groups for part in parts]
    kept_units = [highest(score, count) for score, count in zip(scan.scores(), counts, strict=True)]
    if patched:
        fit = Refit(parts)
        for ids in batches:
            fit.update(model, ids, torch.ones_like(ids))
        for index, part in enumerate(parts):
            fit.fold(index, part, kept_units[index], REFIT_RIDGE)
    groups = kept_units[len(channels) :] or None
    cut_width(model, channels=kept_units[: len(channels)], groups=groups)


def tokens(folder: Path, text: Path) -> list[int]:
    return load_tokenizer(folder)(text.read_text()[: 8 * NUM_TEST_TOKENS]).input_ids


if __name__ == "__main__":
    recorded(main)
