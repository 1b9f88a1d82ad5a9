"""Slots of a transformers model whose rows begin at column 0 and end where they end.

A pass reads any number of tokens of each row, laid end to end. What prompts begin with alike is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from attar.compressors.models.ragged.attention import Spans, attending
from attar.compressors.models.slots import pad_right, prefill_chunks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Prompt tokens of one pass: products are at their full speed, and what lies between them stays in a processor's cache.
MAX_READ_TOKENS = 2048


class RaggedTorchSlots:
    """Slots of a transformers model that attends to every earlier token. A last row, which nobody decodes, keeps what prompts share."""

    def __init__(self, model: PreTrainedModel, *, num_rows: int, num_prompt: int, num_new: int) -> None:
        num_cells = num_prompt + num_new
        self._model, self._shared_row = model, num_rows
        self._layers = [_Cells(num_rows + 1, num_cells) for _ in range(model.config.num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))
        self._shared: tuple[int, ...] = ()

    @torch.inference_mode()
    def fill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        wanted = [tuple(prompt[:-1]) for prompt in prompts]
        if not self._shared and len(set(wanted)) > 1:
            self._shared = _common_start(wanted)
            if self._shared:
                self._read([self._shared_row], [self._shared], [0])
        for chunk in prefill_chunks(rows, prompts, MAX_READ_TOKENS):
            self._fill_chunk(chunk)

    def _fill_chunk(self, chunk: Sequence[tuple[int, Sequence[int]]]) -> None:
        first_rows: dict[tuple[int, ...], int] = {}  # samples of one prompt share its pass
        for row, prompt in chunk:
            first_rows.setdefault(tuple(prompt[:-1]), row)
        starts = []
        for prompt, row in first_rows.items():
            # the last token is read at least: a row without tokens is no row of a pass
            starts.append(min(len(_common_start([self._shared, prompt])), len(prompt) - 1))
            self._copy(self._shared_row, row, starts[-1])
        rests = [prompt[start:] for prompt, start in zip(first_rows, starts, strict=True)]
        self._read(list(first_rows.values()), rests, starts)
        for row, prompt in chunk:
            source = first_rows[tuple(prompt[:-1])]
            if source != row:
                self._copy(source, row, len(prompt) - 1)

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Float[Tensor, "B V"]:
        return self.read([[token] for token in tokens], lengths)

    @torch.inference_mode()
    def read(self, tokens: Sequence[Sequence[int]], lengths: Sequence[int]) -> Float[Tensor, "N V"]:
        """Feed any number of tokens to each of the first rows; return the logits behind each, row after row."""
        rows = [row for row, given in enumerate(tokens) if given]
        return self._read(rows, [tokens[row] for row in rows], [lengths[row] for row in rows], num_logits=0)

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        self._copy(source, target, None)

    def _read(
        self, rows: list[int], tokens: Sequence[Sequence[int]], lengths: list[int], num_logits: int = 1
    ) -> Float[Tensor, "N V"]:
        spans = Spans(rows, [len(given) for given in tokens], lengths, self._model.device)
        ids = torch.tensor([[token for given in tokens for token in given]], device=self._model.device)
        for layer in self._layers:
            layer.spans = spans
        with attending(self._model):
            output = self._model(
                input_ids=ids,
                position_ids=spans.columns[None],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=num_logits,
                spans=spans,
            )
        return output.logits[0]

    def _copy(self, source: int, target: int, num_columns: int | None) -> None:
        for layer in self._layers:
            if layer.keys is not None and layer.values is not None:
                for states in (layer.keys, layer.values):
                    states[target, :, :num_columns] = states[source, :, :num_columns]


class _Cells(CacheLayerMixin):
    """Keys and values of one block for all rows."""

    is_sliding = False

    def __init__(self, num_rows: int, num_cells: int) -> None:
        super().__init__()
        self._num_rows, self._num_cells = num_rows, num_cells
        self.spans: Spans | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate, now that head counts and sizes are known. Zeros: what a mask hides must still be finite."""
        for name, states in (("keys", key_states), ("values", value_states)):
            shape = (self._num_rows, states.shape[1], self._num_cells, states.shape[3])
            setattr(self, name, torch.zeros(shape, dtype=states.dtype, device=states.device))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write every token into its cell and return all cells."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.spans is not None and self.keys is not None and self.values is not None
        cells = self.spans.token_rows, slice(None), self.spans.columns
        self.keys[cells] = key_states[0].transpose(0, 1)
        self.values[cells] = value_states[0].transpose(0, 1)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of what is seen, and where it begins."""
        return self._num_cells, 0

    def get_seq_length(self) -> int:
        """Return nothing: rows differ, and every token says its position."""
        return 0

    def get_max_length(self) -> int:
        """Return how many cells a row has."""
        return self._num_cells


def _common_start(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    shortest, longest = min(rows), max(rows)  # of sorted rows the outer two differ soonest
    same = 0
    while same < min(len(shortest), len(longest)) and shortest[same] == longest[same]:
        same += 1
    return shortest[:same]


def reads_ragged(model: PreTrainedModel) -> bool:
    """Return whether a model writes the same in these slots: by what it says of itself, and by one try."""
    config = model.config
    if getattr(model, "_is_stateful", False) or not getattr(model, "_supports_attention_backend", False):
        return False
    if getattr(config, "sliding_window", None) or set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return False
    rows = [[5, 6, 7], [5, 6, 8, 9, 10]]
    rows = [[token % config.vocab_size for token in row] for row in rows]
    slots = RaggedTorchSlots(model, num_rows=2, num_prompt=5, num_new=1)
    slots.fill([0, 1], [row[:-1] for row in rows])
    tried = slots.read([row[-2:] for row in rows], [len(row) - 2 for row in rows])
    ids, mask = pad_right(rows, model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits
    expected = torch.cat([logits[index, len(row) - 2 : len(row)] for index, row in enumerate(rows)])
    # a wrong mask or position moves logits by about their own spread; rounding, in bfloat16 too, by far less
    return bool((tried - expected).float().abs().mean() < 0.05 * expected.float().std())
