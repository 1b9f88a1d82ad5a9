"""The calibration passes of `narrow`: score the units of every block, fit and fold the patch, record what stayed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compressors.measure.likelihood import pad_right
from compressors.prune.width_layout import Part, attention_parts, feed_forward_parts
from compressors.prune.width_refit import Refit
from compressors.prune.width_scores import WidthScan, WidthScore, highest
from registry.fingerprint import RECORDS_FOLDER
from stages.progress import bar, metric

Units = Literal["channels", "groups"]
# Normal equations held at once; a model with more of them is run several times.
MAX_GRAM_BYTES = 2e9


@dataclass(frozen=True)
class Passes:
    """Calibration samples, token ids, and the model that they run through."""

    model: PreTrainedModel
    samples: Sequence[Sequence[int]]
    batch_size: int

    def choose(self, score: WidthScore, what: Units, num_kept: int) -> list[Tensor]:
        """Score the units of every block and return the indices of those that stay, one tensor a block."""
        scan = WidthScan(score, _parts(self.model, what))
        if score.source != "weights":
            self._stream(f"scoring {what}", scan.update)
        kept = []
        for block_index, scores in enumerate(scan.scores()):
            if not torch.isfinite(scores).all():
                raise ValueError(f"block {block_index}: a score of its {what} is not a finite number")
            kept.append(highest(scores, num_kept))
            share = float(scores[kept[-1]].sum() / scores.sum().clamp(min=1e-30))
            metric(f"kept_{what}_score_fraction", share, step=block_index)
        return kept

    def patch(self, target: PreTrainedModel, what: Units, kept: Sequence[Tensor], ridge: float) -> None:
        """Fit on this model, fold into `target`, the same model perhaps in another dtype; some blocks at a time where memory is short."""
        sources, targets = _parts(self.model, what), _parts(target, what)
        num_at_once = max(1, int(MAX_GRAM_BYTES // (4 * (sources[0].num_units * sources[0].unit_width) ** 2)))
        for first in range(0, len(sources), num_at_once):
            fit = Refit(sources[first : first + num_at_once])
            self._stream(f"fitting the patch of {what}", fit.update)
            for index, part in enumerate(targets[first : first + num_at_once]):
                left = fit.fold(index, part, kept[first + index], ridge)
                metric(f"{what}_patch_residual_fraction", left, step=first + index)

    def _stream(self, label: str, update: Callable[[PreTrainedModel, Tensor, Tensor], None]) -> None:
        counter = bar(label, sum(map(len, self.samples)), "tokens")
        for start in range(0, len(self.samples), self.batch_size):
            batch = self.samples[start : start + self.batch_size]
            update(self.model, *pad_right(batch, self.model.device))
            counter.advance(sum(map(len, batch)))


def record_kept(content: Path, kept: Mapping[str, Sequence[Tensor]]) -> None:
    """Write which units stayed, a list a block: the weights no longer tell."""
    (content / RECORDS_FOLDER).mkdir()
    units = {what: [one.tolist() for one in blocks] for what, blocks in kept.items()}
    (content / RECORDS_FOLDER / "kept_units.json").write_text(json.dumps(units))


def _parts(model: PreTrainedModel, what: Units) -> list[Part]:
    return feed_forward_parts(model) if what == "channels" else attention_parts(model)
