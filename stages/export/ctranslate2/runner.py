"""Ask a CTranslate2 model. Logits of whole texts under a torch model's interface, and what it writes over its own cache."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from attar.compressors.models.slots import Slots

VOCABULARY = "vocabulary.json"


class CTranslate2Runner:
    """A `ctranslate2.Generator` as a `CausalRunner` for whole texts. Its cache is its own: it goes on from a prompt by `write`."""

    device = torch.device("cpu")
    shares_prefixes = False

    def __init__(self, generator: Any, vocabulary: Sequence[str], ends: Sequence[int]) -> None:
        self._generator, self._vocabulary, self._ends = generator, vocabulary, list(ends)

    @property
    def torch_model(self) -> None:
        return None

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B S"], cache: Any, last_only: bool
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """See CausalRunner.forward; padding is taken out before and gets zeros for logits. There is no cache."""
        assert cache is None, "whole texts alone"
        is_token = attention_mask.bool()
        texts = [ids[real].tolist() for ids, real in zip(input_ids, is_token, strict=True)]
        given = torch.from_numpy(np.array(self._generator.forward_batch(texts), dtype=np.float32))
        logits = given.new_zeros(*input_ids.shape, given.shape[-1])
        for row, text in enumerate(texts):
            logits[row, is_token[row]] = given[row, : len(text)]
        return (logits[:, -1:] if last_only else logits), None

    def open_slots(self, num_rows: int, num_prompt: int, num_new: int) -> Slots:
        """Refuse: the runtime does not hand out its cache."""
        raise NotImplementedError("CTranslate2 steps by itself")

    def write(self, prompt: Sequence[int], num_new_tokens: int) -> list[int]:
        """Return what the runtime writes greedily to a prompt, an end of text included."""
        return self._generate(prompt, num_new_tokens, min_length=0)

    def time_once(self, prompt: Int[Tensor, "1 T"], num_new_tokens: int) -> tuple[float, float]:
        """Return seconds to prefill, which the first token ends, and seconds a token behind it. No end of text ends it."""
        times = [time.perf_counter()]
        num_tokens = num_new_tokens + 1
        self._generate(
            prompt[0].tolist(),
            num_tokens,
            min_length=num_tokens,
            callback=lambda step: times.append(time.perf_counter()) or False,
        )
        return times[1] - times[0], (times[-1] - times[1]) / (len(times) - 2)

    def _generate(self, prompt: Sequence[int], num_new_tokens: int, **options: Any) -> list[int]:
        [result] = self._generator.generate_batch(
            [[self._vocabulary[index] for index in prompt]],
            max_length=num_new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            end_token=self._ends,
            return_end_token=True,
            **options,
        )
        return list(result.sequences_ids[0])


def open_folder(folder: Path, weights: str, ends: Sequence[int]) -> CTranslate2Runner:
    """Return a runner of the folder's model on the CPU, with as many threads as torch uses. Raises ValueError where it does not open."""
    ctranslate2 = importlib.import_module("ctranslate2")
    try:
        generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type=weights, inter_threads=1, intra_threads=torch.get_num_threads()
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"CTranslate2 does not open the folder: {str(error).partition(chr(10))[0]}") from error
    return CTranslate2Runner(generator, json.loads((folder / VOCABULARY).read_text()), ends)
