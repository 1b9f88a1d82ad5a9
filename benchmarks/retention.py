"""Retention of an original in models made from it, on the test parts of WikiText-2 and GSM8K: for the benchmarks that tell it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attar.compressors.data.prompts import answer_tokens, chat_prompt
from attar.compressors.measure.closeness import Estimate, Sums, TextCloseness, closeness_of_each
from attar.compressors.measure.likelihood import Pair
from attar.compressors.models.blocks import only_blocks
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.slots import Slots
from attar.stages.artifacts.model.folder import load_tokenizer

# A text of WikiText-2, in tokens: short, so that a few thousand of them are texts enough to resample.
WINDOW = 256
# More letters than a token of WikiText-2 has in the mean.
LETTERS_A_TOKEN = 8
# First block and number of blocks.
Window = tuple[int, int]
WIKITEXT, GSM8K = "WikiText", "GSM8K"


def text_windows(folder: Path, text: Path, num_tokens: int, num_a_window: int = WINDOW) -> list[list[int]]:
    """Return the first tokens of a file of text in windows of equal length, at most `num_tokens`."""
    ids = load_tokenizer(folder)(text.read_text()[: LETTERS_A_TOKEN * num_tokens], add_special_tokens=False).input_ids
    num_windows = min(len(ids), num_tokens) // num_a_window
    return [ids[index * num_a_window : (index + 1) * num_a_window] for index in range(num_windows)]


def pairs_of(folder: Path, data: Path, num_tokens: int) -> dict[str, list[Pair]]:
    """Return by name WikiText's windows, and GSM8K's solutions given their questions until they have `num_tokens`."""
    windows, tokenizer = text_windows(folder, data / "wikitext2/test.txt", num_tokens), load_tokenizer(folder)
    solutions: list[Pair] = []
    for line in (data / "gsm8k/test.jsonl").read_text().splitlines():
        if sum(len(answer) for _, answer in solutions) >= num_tokens:
            break
        row = json.loads(line)
        solutions.append((chat_prompt(tokenizer, row["question"]), answer_tokens(tokenizer, row["answer"])))
    return {WIKITEXT: [(window[:1], window[1:]) for window in windows], GSM8K: solutions}


@dataclass
class WithoutWindow:
    """A runner's model without the blocks of a window, for scoring: all such models share its weights."""

    whole: TorchRunner
    window: Window
    device: torch.device

    def forward(self, input_ids: Any, attention_mask: Any, cache: Any, last_only: bool) -> tuple[Any, Any]:
        first, num_blocks = self.window
        blocks = range(self.whole.model.config.num_hidden_layers)
        with only_blocks(self.whole.model, [*blocks[:first], *blocks[first + num_blocks :]]):
            return self.whole.forward(input_ids, attention_mask, cache, last_only)

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        raise NotImplementedError("nothing is decoded here")


def losses_of_cuts(
    whole: TorchRunner, windows: Sequence[Window], pairs: Mapping[str, Sequence[Pair]], *, batch_size: int
) -> dict[Window, dict[str, Sums]]:
    """Return what removing each window leaves of the model, by test part; the whole model runs once for all of them."""
    students = [WithoutWindow(whole, window, whole.device) for window in windows]
    losses: dict[Window, dict[str, Sums]] = {window: {} for window in windows}
    for name, some in pairs.items():
        scored = closeness_of_each(students, whole, some, batch_size=batch_size)
        for window, texts in zip(windows, scored, strict=True):
            losses[window][name] = sums(texts)
    return losses


def sums(texts: Sequence[TextCloseness]) -> Sums:
    """Return by text what KL to the original, and the rise of ln perplexity, are means of, both in nats a token."""
    rises = [text.loss_nats - text.original_loss_nats for text in texts]
    return Sums({"kl": [text.kl_nats for text in texts], "rise": rises}, [text.num_tokens for text in texts])


def mean(several: Sequence[Sums]) -> Sums:
    """Return the mean of several models on the same texts, text by text."""
    measures = several[0].of_texts
    together = {name: zip(*(entry.of_texts[name] for entry in several), strict=True) for name in measures}
    return Sums(
        {name: [sum(some) / len(some) for some in texts] for name, texts in together.items()}, several[0].counts
    )


def cells(left: Mapping[str, Sums], minus: Mapping[str, Sums] | None = None, *, is_log: bool = False) -> list[str]:
    """Return WikiText's perplexity divided by the original's, then KL on both parts in nats a token, each with its 95% interval.

    With `minus`, by how much another model's are less, on the same texts: the perplexities' quotient. `is_log`: ln of these quotients.
    """
    estimates = {name: share.minus(minus[name]) if minus else share.estimates() for name, share in left.items()}
    rise = estimates[WIKITEXT]["rise"]
    if not is_log:
        rise = Estimate(math.exp(rise.value), math.exp(rise.low), math.exp(rise.high))
    measured = (rise, estimates[WIKITEXT]["kl"], estimates[GSM8K]["kl"])
    return [f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in measured]
