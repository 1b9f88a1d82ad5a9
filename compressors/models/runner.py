"""What decoding and scoring need of a model. The runner for torch models, and one that puts vectors before every text.

The ONNX one is in `compressors/export/runtime.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.adapted import LearnedVectors, put_before, soft_tokens
from attar.compressors.models.slots import RaggedSlots, Slots

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SlotSource(Protocol):
    """What decoding alone needs of a model: a cache with a slot a row."""

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        """Return an empty cache for rows of at most `num_prompt` prompt tokens and `num_new` written ones."""
        ...


class CausalRunner(SlotSource, Protocol):
    """Runs a causal model over new tokens and the cache of earlier ones. Rows are padded on the left (decoding) or right (scoring)."""

    device: torch.device

    @property
    def torch_model(self) -> PreTrainedModel | None:
        """The torch model that it runs; None where another runtime does."""
        ...

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"], cache: Any, last_only: bool
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """Return logits (of the last token alone when `last_only`) and the cache that includes `input_ids`. `cache` None: empty."""
        ...


class ForkingRunner(CausalRunner, Protocol):
    """A runner that says whether several texts may go on from one reading of what they share."""

    shares_prefixes: bool


class PrefixableRunner(ForkingRunner, Protocol):
    """A runner that can read vectors before a text."""

    def take_vectors(self, vectors: Float[Tensor, "P D"]) -> Sequence[int]:
        """Take vectors beside the vocabulary, and return the ids that they go by. Raises ValueError where it cannot."""
        ...


class TorchRunner:
    """A transformers causal model under `CausalRunner`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval()
        self.device = model.device
        # a recurrent state is of every token that was read, padding too
        self.shares_prefixes = not getattr(model, "_is_stateful", False)
        self._parameters = inspect.signature(model.forward).parameters
        self._reads_ragged: bool | None = None  # not tried yet

    @property
    def torch_model(self) -> PreTrainedModel:
        return self.model

    @torch.inference_mode()
    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"], cache: Any, last_only: bool
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        options: dict[str, Any] = {}
        if "position_ids" in self._parameters:
            options["position_ids"] = positions_of(attention_mask, input_ids.shape[1])
        if last_only and "logits_to_keep" in self._parameters:
            options["logits_to_keep"] = 1
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True, **options
        )
        logits = output.logits[:, -1:] if last_only else output.logits
        return logits, output.past_key_values

    def take_vectors(self, vectors: Float[Tensor, "P D"]) -> Sequence[int]:
        put_before(self.model, LearnedVectors(vectors).requires_grad_(False), len(vectors))
        tokens = soft_tokens(self.model)
        assert tokens is not None, "just put there"
        return tokens.ids()

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        from attar.compressors.models.torch_slots import TorchSlots  # a second that a plan need not wait for

        return TorchSlots(
            self.forward,
            self.device,
            num_layers=self.model.config.num_hidden_layers,
            num_rows=num_rows,
            num_prompt=num_prompt,
            num_new=num_new,
        )

    def open_ragged(self, num_rows: int, num_prompt: int, num_new: int) -> RaggedSlots | None:
        from attar.compressors.models.ragged.slots import RaggedTorchSlots, reads_ragged  # as above

        if self._reads_ragged is None:
            self._reads_ragged = reads_ragged(self.model)
        if not self._reads_ragged:
            return None
        return RaggedTorchSlots(self.model, num_rows=num_rows, num_prompt=num_prompt, num_new=num_new)


class PrefixedRunner:
    """A runner that reads `prefix_ids`, ids of vectors that it took, before every row. Its cache keeps them from there."""

    def __init__(self, runner: ForkingRunner, prefix_ids: Sequence[int]) -> None:
        self.runner, self.prefix_ids = runner, prefix_ids
        self.device, self.shares_prefixes = runner.device, runner.shares_prefixes

    @property
    def torch_model(self) -> PreTrainedModel | None:
        return self.runner.torch_model

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"], cache: Any, last_only: bool
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """See CausalRunner.forward. The mask is of the text alone; padding on either side stays where it is, behind the vectors."""
        num_rows, count = len(input_ids), len(self.prefix_ids)
        mask = torch.cat([attention_mask.new_ones(num_rows, count), attention_mask], dim=1)
        if cache is not None:
            return self.runner.forward(input_ids, mask, cache, last_only)
        vectors = input_ids.new_tensor(list(self.prefix_ids)).expand(num_rows, -1)
        logits, cache = self.runner.forward(torch.cat([vectors, input_ids], dim=1), mask, None, last_only)
        return (logits if last_only else logits[:, count:]), cache

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        count = len(self.prefix_ids)
        return PrefixedSlots(self.runner.open_slots(num_rows, num_prompt + count, num_new), self.prefix_ids)


@dataclass(frozen=True)
class PrefixedSlots:
    """Slots whose prompts begin with the same vectors."""

    slots: Slots
    prefix_ids: Sequence[int]

    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        self.slots.fill(rows, [[*self.prefix_ids, *prompt] for prompt in prompts])

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        return self.slots.step(tokens, [length + len(self.prefix_ids) for length in lengths])

    def move(self, source: int, target: int) -> None:
        self.slots.move(source, target)


def positions_of(attention_mask: Int[Tensor, "B S"], num_tokens: int) -> Int[Tensor, "B T"]:
    """Return the position of each of the last `num_tokens` columns, counting real tokens only; padding gets 0."""
    return (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -num_tokens:]
