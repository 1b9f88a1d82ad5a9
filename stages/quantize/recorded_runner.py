"""What a model said, kept on disk and said again: two models are compared though only one is in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.measure.likelihood import Pair, scoring_batches
from attar.compressors.models.runner import CausalRunner
from attar.compressors.models.slots import Slots


class RecordedRunner:
    """A `CausalRunner` that replays recorded logits. Of some pairs, one a batch, in the same order.

    float32 on disk in `folder`: 4 bytes a token and entry of the vocabulary.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        runner: CausalRunner,
        pairs: Sequence[Pair],
        folder: Path,
        on_text: Callable[[int], None] = lambda count: None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._num_read = folder, 0
        self._inputs: list[Tensor] = []
        for index, (_, ids, mask) in enumerate(scoring_batches(pairs, 1, runner.device)):
            logits, _ = runner.forward(ids, mask, None, last_only=False)
            np.save(folder / f"{index}.npy", logits.float().cpu().numpy())
            self._inputs.append(ids.cpu())
            on_text(1)

    @property
    def torch_model(self) -> None:
        return None

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"], cache: Any, last_only: bool
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """Return what was said to the next text; see CausalRunner.forward."""
        index = self._num_read % len(self._inputs)
        assert torch.equal(self._inputs[index], input_ids.cpu()), "asked in the order of the recording"
        self._num_read += 1
        return torch.from_numpy(np.load(self._folder / f"{index}.npy")), None

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        """Refuse: what was not said cannot be said."""
        raise NotImplementedError("a recording writes no text")
