"""Every window of a model's blocks, bare and patched: which explode, and which one each metric would pick.

python benchmarks/quality/patch_windows.py MODEL_FOLDER DATA_FOLDER [--blocks 6] [--calibration-tokens 16384] [--tokens 8192] [--precision bfloat16]
DATA_FOLDER holds wikitext2. All patches, weighted and not, with and without the first token of each row, are fitted in one pass over its
validation part; perplexity is of its test part. A patched model runs from the original's states on, since nothing before the patch changes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn.functional import cross_entropy

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.bypass import returns_tuple, without_blocks
from attar.compressors.models.exits import feed_forward_exit
from attar.compressors.prune.depth.patch import Patch, feed_forward_outputs, fold_patch
from attar.compressors.prune.depth.scan import WindowScan, last_logits_only, residual_stream
from attar.compressors.prune.depth.scores.angular_distance import AngularDistance
from attar.compressors.prune.depth.scores.patch_residual import PatchResidual
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.dataset.samples import run_through
from attar.stages.artifacts.model.folder import load_model
from attar.stages.runtime.device import pick_device, pick_dtype

sys.path.append(str(Path(__file__).parents[1]))  # where all benchmarks have the form of their results
from result_file import recorded
from retention import text_windows

# way of fitting -> whether errors are weighted, whether the first token of a row is left out; the default first
WAYS = {"norm": (True, False), "none": (False, False)}
WAYS |= {f"{way}, no first token": (is_weighted, True) for way, (is_weighted, _) in WAYS.items()}
DEFAULT, BARE = "norm", "bare"
TOKENS_A_ROW, BATCH_SIZE = 512, 2
# way -> first block of the window -> number
Table = dict[str, dict[int, float]]


def main(
    model: Path,
    data: Path,
    blocks: Annotated[int, typer.Option(help="Size of the windows.")] = 6,
    calibration_tokens: Annotated[int, typer.Option(help="That the patches are fitted on.")] = 16_384,
    tokens: Annotated[int, typer.Option(help="That perplexity is measured on.")] = 8192,
    precision: Annotated[str, typer.Option(help="Of all passes: auto, float32 or bfloat16.")] = "bfloat16",
) -> None:
    """Print a line a window, then what explodes and what is picked."""
    configure_process()
    device = pick_device()
    whole = load_model(model, pick_dtype(precision, device), device)  # type: ignore[arg-type]
    text = data / "wikitext2"
    samples = text_windows(model, text / "valid.txt", calibration_tokens, TOKENS_A_ROW)
    rows = torch.tensor(text_windows(model, text / "test.txt", tokens, TOKENS_A_ROW), device=device)
    scores, patches = fitted(whole, samples, blocks)
    original, figures = perplexities(whole, rows, blocks, patches)
    print(f"windows of {blocks} blocks, {rows.numel()} tokens, {whole.dtype}; the original's perplexity {original:.2f}")
    columns = {**figures, **scores}
    print(f"| first block | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for first in figures[BARE]:
        cells = (f"{column[first]:.4g}" if first in column else "" for column in columns.values())
        print(f"| {first} | {' | '.join(cells)} |")
    verdicts(scores, figures)


@torch.no_grad()
def fitted(whole: Any, samples: Sequence[Sequence[int]], num_blocks: int) -> tuple[Table, dict[str, dict[int, Patch]]]:
    """Return the two metrics' scores of each window, and the patch of each by each way, from one pass."""
    metrics = {way: PatchResidual(is_weighted=is_weighted) for way, (is_weighted, _) in WAYS.items()}
    fits = {way: metric.start(len(decoder_blocks(whole)), [num_blocks]) for way, metric in metrics.items()}
    firsts = fits[DEFAULT].fits[num_blocks].firsts
    angles = WindowScan({"angular_distance": AngularDistance()})

    def update(model: Any, input_ids: Tensor, attention_mask: Tensor) -> None:
        with residual_stream(model) as states, feed_forward_outputs(model, firsts) as outputs:
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **last_logits_only(model))
        angles.add([state[attention_mask.bool()] for state in states])
        for way, fit in fits.items():
            keep = attention_mask.bool()
            if WAYS[way][1]:
                keep[:, 0] = False
            for first in firsts:
                output = outputs[first - 1].reshape(*keep.shape, -1)[keep].float()
                before, after = states[first][keep].float(), states[first + num_blocks][keep].float()
                fit.fits[num_blocks].add(first, output, before, after)
            fit.num_tokens += int(keep.sum())

    run_through(whole, samples, BATCH_SIZE, update, "fitting patches")
    tables = {"angular_distance": angles.scores("angular_distance"), "patch_residual": fits[DEFAULT].scores()}
    scores = {name: {first: table[first, num_blocks] for first in firsts} for name, table in tables.items()}
    patches = {
        way: {first: fit.fits[num_blocks].patch.solve(first, fit.ridge) for first in firsts}
        for way, fit in fits.items()
    }
    return scores, patches


@torch.no_grad()
def perplexities(
    whole: Any, rows: Tensor, num_blocks: int, patches: Mapping[str, Mapping[int, Patch]]
) -> tuple[float, Table]:
    """Return the original's perplexity, and that of each cut bare and patched by each way."""
    num_starts, is_tuple = len(decoder_blocks(whole)) - num_blocks + 1, returns_tuple(whole)
    cuts: dict[str, Mapping[int, Patch | None]] = {BARE: dict.fromkeys(range(num_starts)), **patches}
    losses: Table = {way: dict.fromkeys(some, 0.0) for way, some in cuts.items()}
    original = 0.0
    for input_ids in rows.split(BATCH_SIZE):
        with residual_stream(whole) as states:
            original += loss_nats(whole, input_ids)
        for way, first in [(way, first) for way, some in cuts.items() for first in some]:
            removed, patch = frozenset(range(first, first + num_blocks)), cuts[way][first]
            resume_at = first - 1 if patch else first
            left_out = without_blocks(whole, removed, resume_at, states[resume_at], is_tuple=is_tuple)
            with patched(whole, patch) if patch else nullcontext(), left_out:
                losses[way][first] += loss_nats(whole, input_ids)
    means = {way: {first: total / rows[:, 1:].numel() for first, total in some.items()} for way, some in losses.items()}
    # numpy's has no end: what explodes may lose more nats than a float has powers of e
    figures = {way: {first: float(np.exp(nats)) for first, nats in some.items()} for way, some in means.items()}
    return math.exp(original / rows[:, 1:].numel()), figures


def loss_nats(model: Any, input_ids: Tensor) -> float:
    """Return the sum of every token's negative log-likelihood, the first of each row aside, in nats."""
    logits = model(input_ids=input_ids, use_cache=False).logits[:, :-1]
    return float(cross_entropy(logits.flatten(0, 1).float(), input_ids[:, 1:].flatten(), reduction="sum"))


@contextmanager
def patched(model: Any, patch: Patch) -> Iterator[None]:
    """Fold the patch into the model inside the block; afterwards its matrix is as it was."""
    matrix = feed_forward_exit(model, patch.first_block - 1)
    saved_state = deepcopy(matrix.state_dict())
    try:
        fold_patch(model, patch)
        yield
    finally:
        matrix.load_state_dict(saved_state)


def verdicts(scores: Table, perplexities: Table) -> None:
    """Print which windows a patch makes worse than the bare cut, and what each metric's pick costs beside the best window's."""
    for way in WAYS:
        worse = [str(first) for first, value in perplexities[way].items() if not value <= perplexities[BARE][first]]
        print(f"- patched by {way}: worse than bare from {', '.join(worse) or 'no window'}")
    picks = {name: min(table, key=table.__getitem__) for name, table in scores.items()}
    picks |= {f"best {way}": min(perplexities[way], key=perplexities[way].__getitem__) for way in (BARE, DEFAULT)}
    print(f"\n| pick | first block | {BARE} | {DEFAULT} |\n|---|---|---|---|")
    for name, first in picks.items():
        print(
            f"| {name} | {first} | {perplexities[BARE][first]:.2f} | {perplexities[DEFAULT].get(first, math.nan):.2f} |"
        )


if __name__ == "__main__":
    recorded(lambda: typer.run(main))
