"""Is a text what the model draws by itself? One plain pass over it tells, however it was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attar.compressors.models.runner import CausalRunner
from attar.compressors.models.sampling import Sampling, uniform_numbers


@dataclass(frozen=True)
class Departure:
    """The token of a text that is farthest from the model's own. Its miss: nats when greedy, else probability mass."""

    token_index: int
    miss: float


@torch.inference_mode()
def largest_departure(
    runner: CausalRunner, prompt: Sequence[int], token_ids: Sequence[int], sampling: Sampling, seed: int
) -> Departure:
    """Return where a text is farthest from what the model draws by the same numbers.

    At a miss of 0 each token is the model's. Rounding alone gives a miss where two tokens are all but equal; a wrong token misses by more.
    """
    ids = torch.tensor([[*prompt, *token_ids[:-1]]], device=runner.device)
    logits, _ = runner.forward(ids, torch.ones_like(ids), None, last_only=False)
    uniforms = torch.zeros(len(token_ids)) if sampling.is_greedy else uniform_numbers(seed, len(token_ids))
    tokens = torch.tensor(token_ids, device=logits.device)
    misses = sampling.misses(logits[0, len(prompt) - 1 :], uniforms, tokens)
    return Departure(int(misses.argmax()), float(misses.max()))
