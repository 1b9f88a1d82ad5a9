"""Speculative decoding. A small model drafts; the original verifies several tokens in one pass and keeps those it would have drawn.

https://arxiv.org/abs/2211.17192, in transformers' assisted generation: https://huggingface.co/blog/assisted-generation
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import transformers


@dataclass(frozen=True)
class Difference:
    """Where an assisted text left the original's. Prompt and token, and by how much the original preferred its own token, in nats."""

    prompt_index: int
    token_index: int
    margin_nats: float


@dataclass(frozen=True)
class Speculation:
    """What drafting `draft_length` tokens at a time came to, summed over prompts. A step is one forward pass of the original."""

    draft_length: int
    num_prompts: int
    num_tokens: int
    num_steps: int
    num_drafted: int
    num_accepted: int
    plain_seconds: float
    assisted_seconds: float
    differences: tuple[Difference, ...] = ()

    @property
    def acceptance_fraction(self) -> float:
        """Share of drafted tokens that the original would have written itself, in [0, 1]."""
        return self.num_accepted / max(1, self.num_drafted)

    @property
    def tokens_per_step(self) -> float:
        """Tokens written a forward pass of the original; 1 without a draft, at most draft_length + 1."""
        return self.num_tokens / max(1, self.num_steps)

    @property
    def gain(self) -> float:
        """Wall-clock seconds of plain greedy decoding divided by those with the draft; above 1 the draft pays."""
        return self.plain_seconds / self.assisted_seconds


@dataclass(frozen=True)
class _Text:
    token_ids: list[int]
    seconds: float
    # (token ids given to the original) of each of its forward passes
    passes: list[list[int]]


def measure_speculation(
    original: transformers.PreTrainedModel,
    draft: transformers.PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    draft_lengths: Sequence[int],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    on_text: Callable[[], None] = lambda: None,
) -> list[Speculation]:
    """Decode each prompt greedily without and with the draft, and return one result a draft length.

    Every length has a plain text of its own right before or after it, in turn, so that a change of load hits both sides.
    The first prompt is decoded once more ahead of all, uncounted.
    """
    _generate(original, None, prompts[0], 0, max_new_tokens, stop_ids)
    for length in draft_lengths[:1]:
        _generate(original, draft, prompts[0], length, max_new_tokens, stop_ids)
    runs = []
    for length in draft_lengths:
        pairs = []
        for index, prompt in enumerate(prompts):
            sides = (None, draft) if index % 2 == 0 else (draft, None)
            texts = {}
            for side in sides:
                texts[side is draft] = _generate(original, side, prompt, length, max_new_tokens, stop_ids)
                on_text()
            pairs.append((texts[False], texts[True]))
        runs.append(_summary(original, prompts, pairs, length))
    return runs


def _summary(
    original: transformers.PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    pairs: Sequence[tuple[_Text, _Text]],
    length: int,
) -> Speculation:
    drafted, accepted, steps, differences = 0, 0, 0, []
    for index, (plain, assisted) in enumerate(pairs):
        for num_drafted, num_accepted in _counts(len(prompts[index]), assisted):
            drafted, accepted, steps = drafted + num_drafted, accepted + num_accepted, steps + 1
        at = _first_difference(plain.token_ids, assisted.token_ids)
        if at is not None:
            margin = _margin(
                original, [*prompts[index], *plain.token_ids[:at]], plain.token_ids, assisted.token_ids, at
            )
            differences.append(Difference(index, at, margin))
    return Speculation(
        draft_length=length,
        num_prompts=len(pairs),
        num_tokens=sum(len(assisted.token_ids) for _, assisted in pairs),
        num_steps=steps,
        num_drafted=drafted,
        num_accepted=accepted,
        plain_seconds=sum(plain.seconds for plain, _ in pairs),
        assisted_seconds=sum(assisted.seconds for _, assisted in pairs),
        differences=tuple(differences),
    )


def _counts(num_prompt_tokens: int, text: _Text) -> Iterator[tuple[int, int]]:
    """Yield (drafted, accepted) of each pass: what the original was given beyond the last known token, and how much of it stayed."""
    position = 0  # tokens written before this pass
    for index, given in enumerate(text.passes):
        candidates = given[num_prompt_tokens:] if index == 0 else given[1:]
        rest = text.token_ids[position:]
        accepted = next((i for i, (a, b) in enumerate(zip(candidates, rest, strict=False)) if a != b), None)
        accepted = min(len(candidates), len(rest)) if accepted is None else accepted
        position += min(accepted + 1, len(rest))  # the pass itself gives one more, unless the text ends before
        yield len(candidates), accepted
    assert position == len(text.token_ids), "every token comes from a pass"


def _first_difference(first: Sequence[int], second: Sequence[int]) -> int | None:
    if first == second:
        return None
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


@torch.inference_mode()
def _margin(
    original: transformers.PreTrainedModel, before: Sequence[int], first: Sequence[int], second: Sequence[int], at: int
) -> float:
    """Return by how many nats the original prefers the plain text's token: next to nothing is a tie, more is a fault."""
    if at >= min(len(first), len(second)):
        return float("inf")  # one text ended where the other went on
    logprobs = original(torch.tensor([before], device=original.device)).logits[0, -1].float().log_softmax(-1)
    return float(logprobs[first[at]] - logprobs[second[at]])


def _generate(
    original: transformers.PreTrainedModel,
    draft: transformers.PreTrainedModel | None,
    prompt: Sequence[int],
    draft_length: int,
    max_new_tokens: int,
    stop_ids: Sequence[int],
) -> _Text:
    from transformers import GenerationConfig  # a second that a plan need not wait for

    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=stop_ids[0] if stop_ids else 0,
    )
    ids = torch.tensor([list(prompt)], device=original.device)
    passes: list[list[int]] = []
    with _watched(original, passes), _drafting(draft, draft_length):
        started = _now(original.device)
        with torch.inference_mode():
            output = original.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), generation_config=config, assistant_model=draft
            )
        seconds = _now(original.device) - started
    return _Text(output[0, ids.shape[1] :].tolist(), seconds, passes)


@contextmanager
def _watched(model: transformers.PreTrainedModel, passes: list[list[int]]) -> Iterator[None]:
    """Note the tokens of every forward pass; a pass itself takes a thousand times longer than the note."""

    def before(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        passes.append((kwargs["input_ids"] if "input_ids" in kwargs else args[0])[0].tolist())

    handle = model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _drafting(draft: transformers.PreTrainedModel | None, draft_length: int) -> Iterator[None]:
    """Set how many tokens the draft writes: that many every time, so that the numbers are those of a stated length."""
    from transformers import GenerationConfig  # a second that a plan need not wait for

    if draft is None:
        yield
        return
    before = draft.generation_config
    draft.generation_config = GenerationConfig.from_dict(
        {
            **(before.to_dict() if before is not None else {}),
            "num_assistant_tokens": draft_length,
            "num_assistant_tokens_schedule": "constant",
            "assistant_confidence_threshold": 0.0,
        }
    )
    try:
        yield
    finally:
        draft.generation_config = before


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()
