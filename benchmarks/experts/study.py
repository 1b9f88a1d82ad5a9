"""Fewer experts by each method, without training: KL to the whole mixture and perplexity on three kinds of held-out text.

python benchmarks/experts/study.py MOE_FOLDER DATA_FOLDER [NUM_TEST_TOKENS [NUM_SEEDS]]

MOE_FOLDER is what `upcycle.py` wrote. A seed draws other calibration text, and another choice at random. One pass a seed gives every
method what it goes by. Means over the seeds, in brackets the 95% interval of Student's t. What stays is chosen and run as the stage
`prune_experts` does, but the routers are masked instead of cut, which is the same (tests/parity/cuts/test_expert_cut.py).
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))
from result_file import Echo, read_tables, write_result
from windows import STRIDE, TEST, TRAINING, WINDOW, read_windows, states_before

from attar.compressors.catalogue import build
from attar.compressors.models.bypass import without_blocks
from attar.compressors.models.experts import moe_layers
from attar.compressors.prune.experts.cut import fold_merged, masked_routers
from attar.compressors.prune.experts.methods import EXPERT_METHODS, Assignment, assign
from attar.compressors.prune.experts.scan import ExpertScan
from attar.registry.artifacts.environment import configure_process
from attar.stages.artifacts.model.folder import load_model

SIZES = (6, 4)
NUM_CALIBRATION_TOKENS, BATCH_SIZE = 3_072, 4
# Label -> method, parameters; a random choice takes the seed.
METHODS = {
    "reap": ("reap", {}),
    "frequency": ("frequency", {}),
    "router weight": ("router_weight", {}),
    "merge, dominant row": ("merge", {"router": "dominant"}),
    "merge, mean row": ("merge", {"router": "mean"}),
    "random": ("random", {}),
}
# Student's t at 97.5% by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def main() -> None:
    folder, data = (Path(word) for word in sys.argv[1:3])
    num_tokens = int(sys.argv[3]) if len(sys.argv) > 3 else 3_072
    num_seeds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    configure_process()
    model = load_model(folder, "float32")
    study = Study(model, read_windows(folder, data, TEST, num_tokens), num_seeds)
    print(f"Fewer experts, mean over {num_seeds} seeds [95% interval]")
    print(f"| experts left | {' | '.join(f'KL, {kind} | perplexity ratio, {kind}' for kind in TEST)} |")
    print("|---" * (1 + 2 * len(TEST)) + "|", flush=True)
    for seed in range(num_seeds):  # each kind has more than its share: the training took the first tokens
        windows = read_windows(
            folder, data, TRAINING, NUM_CALIBRATION_TOKENS, skip=SKIP + seed * NUM_CALIBRATION_TOKENS
        )
        study.calibrate(windows)
    for num_kept in SIZES:
        for label, (name, params) in METHODS.items():
            print(f"| {num_kept} by {label} | {' | '.join(study.row(num_kept, name, params))} |", flush=True)
    whole = ", ".join(f"{kind} {value:.2f}" for kind, value in zip(TEST, study.perplexities(), strict=True))
    print(
        f"\nPerplexity of the whole mixture of 8 experts: {whole}; {num_tokens} test tokens in all, of which each {STRIDE}th is measured."
    )
    print(f"Calibration: {study.seconds / num_seeds:.0f} s a seed of {NUM_CALIBRATION_TOKENS} tokens, all methods.")


# Tokens of each kind that `upcycle.py` learns from at its default.
SKIP = 16_128 // 3 // WINDOW * WINDOW


class Study:
    """A mixture, what it makes of the test text, and the sums of every calibration."""

    def __init__(self, model, test: Tensor, num_seeds: int) -> None:
        self.model, self.test, self.num_seeds = model, test, num_seeds
        self.layers = moe_layers(model)
        self.first = self.layers[0].block_index
        self.states = states_before(model, self.first, test)
        self.original = [self._logprobs(rows) for rows in self._batches()]
        self.totals: list = []
        self.seconds = 0.0

    def calibrate(self, windows: Tensor) -> None:
        """Run one seed's text through the mixture."""
        started = time.perf_counter()
        scan = ExpertScan(self.layers, is_dense=True)
        states = states_before(self.model, self.first, windows)
        for start in range(0, len(windows), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            with without_blocks(self.model, frozenset(), self.first, states[rows]):
                scan.update(self.model, windows[rows], torch.ones_like(windows[rows]))
        self.totals.append(scan.totals)
        self.seconds += time.perf_counter() - started

    def row(self, num_kept: int, name: str, params: dict) -> list[str]:
        """Return the cells of one method at one size."""
        by_seed = []
        for seed, totals in enumerate(self.totals):
            method = build(EXPERT_METHODS, name, {"seed": seed} if name == "random" else params)
            assignments = [assign(method, *pair, num_kept) for pair in zip(self.layers, totals, strict=True)]
            with without_experts(self.layers, assignments):
                by_seed.append(self._measured())
        return [interval(values) for values in zip(*by_seed, strict=True)]

    def perplexities(self) -> list[float]:
        """Return the whole mixture's perplexity on each kind of text."""
        pairs = zip(self.original, self._batches(), strict=True)
        losses = torch.cat([self._losses(logprobs, rows) for logprobs, rows in pairs])
        return [float(loss.mean().exp()) for loss in losses.chunk(len(TEST))]

    def _measured(self) -> list[float]:
        """Return KL to the whole mixture and the perplexity ratio on each kind of text, of what the model is now."""
        divergences, changes = [], []
        for teacher, rows in zip(self.original, self._batches(), strict=True):
            student = self._logprobs(rows)
            changes.append(self._losses(student, rows) - self._losses(teacher, rows))
            divergences.append((teacher.exp() * (teacher - student)).sum(dim=-1))
        kinds = zip(*(torch.cat(values).chunk(len(TEST)) for values in (divergences, changes)), strict=True)
        return [cell for kl, change in kinds for cell in (float(kl.mean()), float(change.mean().exp()))]

    def _batches(self) -> list[slice]:
        return [slice(start, start + BATCH_SIZE) for start in range(0, len(self.test), BATCH_SIZE)]

    @torch.no_grad()
    def _logprobs(self, rows: slice) -> Tensor:
        with without_blocks(self.model, frozenset(), self.first, self.states[rows]):
            hidden = self.model.model(input_ids=self.test[rows], use_cache=False).last_hidden_state
        return self.model.lm_head(hidden[:, :-1:STRIDE]).log_softmax(dim=-1)

    def _losses(self, logprobs: Tensor, rows: slice) -> Tensor:
        return -logprobs.gather(-1, self.test[rows, 1::STRIDE, None])[..., 0]


@contextmanager
def without_experts(layers, assignments: list[Assignment]) -> Iterator[None]:
    """Leave of the mixture, inside, what the cut would."""
    merges = assignments[0].shares is not None
    own = [[tensor.detach().clone() for _, _, tensor in layer.tensors()] for layer in layers if merges]
    fold_merged(layers, assignments)
    try:
        with masked_routers(layers, assignments):
            yield
    finally:
        with torch.no_grad():
            for layer, tensors in zip(layers if merges else [], own, strict=True):
                for (_, _, tensor), before in zip(layer.tensors(), tensors, strict=True):
                    tensor.copy_(before)


def interval(values: tuple[float, ...]) -> str:
    """Return a mean with its 95% interval."""
    mean, half = statistics.mean(values), 0.0
    if len(values) > 1:
        half = T[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


if __name__ == "__main__":
    printed = Echo(sys.stdout)
    with redirect_stdout(printed):
        main()
    write_result("experts", *read_tables(io.StringIO(printed.getvalue()).read()))
