"""Prove that a packed folder is the rounded model. Transformers reads it, gives the same logits and writes the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.quantize.rounded import rounded_inputs
from attar.stages.export.config import ExportConfig
from attar.stages.export.formats.schemes import Scheme
from attar.stages.runtime.progress import bar, metric, note

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Logits are compared on so many tokens of a prompt, its last ones: a vocabulary of numbers each.
NUM_KEPT_LOGITS = 64


@dataclass(frozen=True)
class Answers:
    """What a model says to the prompts, in float32. Logits of their last tokens, and what it writes greedily with a cache."""

    logits: list[Tensor]
    texts: list[Sequence[int]]


def listen(model: PreTrainedModel, prompts: Sequence[Sequence[int]], num_new_tokens: int, label: str) -> Answers:
    """Ask a model. Each prompt alone: rounded inputs would carry the last digits of a padded batch on to other codes."""
    counter, runner = bar(label, len(prompts), "prompts"), TorchRunner(model)
    logits, texts = [], []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=model.device)
        with torch.no_grad():
            whole = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
        logits.append(whole[-NUM_KEPT_LOGITS:].float().cpu())
        [text] = decode(runner, [prompt], max_new_tokens=num_new_tokens, stop_ids=())
        texts.append(text.token_ids)
        counter.advance()
    return Answers(logits, texts)


def listen_rounded(
    model: PreTrainedModel,
    packed_names: Sequence[str],
    scheme: Scheme,
    prompts: Sequence[Sequence[int]],
    num_new_tokens: int,
) -> Answers:
    """Ask the rounded model in memory, its products' inputs rounded where the folder's reader rounds them."""
    linears: list[nn.Module] = [model.get_submodule(name) for name in packed_names]
    with rounded_inputs(linears, is_float8=scheme.is_float) if scheme.rounds_inputs else nullcontext():
        return listen(model, prompts, num_new_tokens, "writing with the rounded model")


def prove_read(
    model: PreTrainedModel, expected: Answers, prompts: Sequence[Sequence[int]], config: ExportConfig
) -> dict[str, float]:
    """Hold the folder as transformers read it to what the rounded model said. Return the largest difference and the agreement.

    Raises ValueError where logits or tokens are others.
    """
    answers = listen(model, prompts, config.num_new_tokens, "writing with the packed folder")
    pairs = zip(expected.logits, answers.logits, strict=True)
    largest = float(
        torch.stack([(own - other).abs().max() for own, other in pairs]).max()
    )  # NaN stays, as it must not in Python's max
    num_agreed = sum(map(_num_agreed, expected.texts, answers.texts))
    proof = {"max_logit_difference": largest, "token_agreement": num_agreed / (len(prompts) * config.num_new_tokens)}
    for name, value in proof.items():
        metric(name, value)
    summary = f"max logit difference {largest:.2g}, greedy agreement {proof['token_agreement']:.1%}"
    if not largest <= config.max_logit_difference or proof["token_agreement"] < config.min_token_agreement:
        raise ValueError(
            f"the packed {type(model).__name__} is not the rounded model: {summary}; "
            f"accepted: agreement >= {config.min_token_agreement:.0%}, difference <= {config.max_logit_difference:g}"
        )
    note(f"proved: transformers reads the packed folder as the rounded model, {summary} over {len(prompts)} prompts")
    return proof


def _num_agreed(expected: Sequence[int], written: Sequence[int]) -> int:
    pairs = zip(expected, written, strict=True)
    return next((index for index, (first, other) in enumerate(pairs) if first != other), len(expected))
