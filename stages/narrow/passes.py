"""The calibration passes of `narrow`: score the units of every block, fit and fold the patch, record what stayed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from attar.compressors.prune.width.layout import attention_parts, feed_forward_parts
from attar.compressors.prune.width.parts import Part, num_inputs
from attar.compressors.prune.width.refit import Refit
from attar.compressors.prune.width.scores import WidthScan, WidthScore, highest
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.stages.artifacts.dataset.samples import run_through
from attar.stages.runtime.progress import metric

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Units = Literal["channels", "groups"]
# Normal equations held at once; a model with more of them is run several times.
MAX_GRAM_BYTES = 2e9


@dataclass(frozen=True)
class Passes:
    """Calibration samples, token ids, and the model that they run through."""

    model: PreTrainedModel
    samples: Sequence[Sequence[int]]
    batch_size: int

    def choose(self, score: WidthScore, num_kept: Mapping[Units, int]) -> dict[Units, list[Tensor]]:
        """Return the indices of the units that stay, one tensor a block. All kinds are scored in one pass."""
        scan = WidthScan(score, [part for what in num_kept for part in _parts(self.model, what)])
        if score.source != "weights":
            run_through(self.model, self.samples, self.batch_size, scan.update, "scoring width")
        scores = iter(scan.scores())
        kept_units: dict[Units, list[Tensor]] = {}
        for what, count in num_kept.items():
            kept_units[what] = []
            for block_index in range(len(_parts(self.model, what))):
                scores_of_block = next(scores)
                if not torch.isfinite(scores_of_block).all():
                    raise ValueError(f"block {block_index}: a score of its {what} is not a finite number")
                kept_units[what].append(highest(scores_of_block, count))
                share = float(scores_of_block[kept_units[what][-1]].sum() / scores_of_block.sum().clamp(min=1e-30))
                metric(f"kept_{what}_score_fraction", share, step=block_index)
        return kept_units

    def patch(self, target: PreTrainedModel, kept_units: Mapping[Units, Sequence[Tensor]], ridge: float) -> None:
        """Fit on this model, fold into `target`, the same model perhaps in another dtype.

        One pass over the samples, more where the normal equations of all blocks would take more than MAX_GRAM_BYTES.
        """
        waiting = [
            (what, block_index, *pair, kept_units[what][block_index])
            for what in kept_units
            for block_index, pair in enumerate(zip(_parts(self.model, what), _parts(target, what), strict=True))
        ]
        while waiting:
            num_bytes, now = 0.0, waiting[:1]
            for entry in waiting[1:]:
                num_bytes += 4.0 * num_inputs(entry[2].exit) ** 2
                if num_bytes > MAX_GRAM_BYTES:
                    break
                now.append(entry)
            waiting = waiting[len(now) :]
            fit = Refit([source for _, _, source, _, _ in now])
            run_through(self.model, self.samples, self.batch_size, fit.update, "fitting the patch")
            for index, (what, block_index, _, part, units) in enumerate(now):
                metric(f"{what}_patch_residual_fraction", fit.fold(index, part, units, ridge), step=block_index)


def record_kept(content: Path, kept_units: Mapping[Units, Sequence[Tensor]] | Mapping[str, Sequence[Tensor]]) -> None:
    """Write which units stayed, a list a block: the weights no longer tell."""
    (content / RECORDS_FOLDER).mkdir()
    units = {what: [block.tolist() for block in blocks] for what, blocks in kept_units.items()}
    (content / RECORDS_FOLDER / "kept_units.json").write_text(json.dumps(units))


def _parts(model: PreTrainedModel, what: Units) -> list[Part]:
    return feed_forward_parts(model) if what == "channels" else attention_parts(model)
