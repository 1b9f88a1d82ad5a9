"""Who writes: a torch model, an exported graph or a server, behind one protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from attar.compressors.models.decode import decode
from attar.compressors.models.ragged.lookup import Drafts
from attar.compressors.models.runner import SlotSource
from attar.compressors.models.sampling import Generation, Sampling


@dataclass(frozen=True)
class Prompt:
    """One prompt with the seed of its answer. As text for a server, which has a chat template of its own, and as tokens."""

    text: str
    token_ids: list[int]
    seed: int
    # of a conversation its turns and tools, for a server
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)


class Sampler(Protocol):
    """Writes a continuation of each prompt."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        num_recorded: int = 0,
        is_scored: bool = False,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Generation]:
        """Return the continuations in order; candidates and log-probabilities as `decode` says, where the writer can give them."""
        ...


@dataclass(frozen=True)
class RunnerSampler:
    """A model in this process, torch or ONNX Runtime: batches that are refilled as their rows finish."""

    runner: SlotSource
    stop_ids: Sequence[int]
    batch_size: int
    drafts: Drafts | None = None

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        num_recorded: int = 0,
        is_scored: bool = False,
        on_finished: Callable[[int], None] = lambda count: None,
    ) -> list[Generation]:
        return decode(
            self.runner,
            [prompt.token_ids for prompt in prompts],
            max_new_tokens=max_new_tokens,
            stop_ids=self.stop_ids,
            batch_size=self.batch_size,
            sampling=sampling,
            seeds=[prompt.seed for prompt in prompts],
            num_recorded=num_recorded,
            is_scored=is_scored,
            drafts=self.drafts,
            on_finished=on_finished,
        )


def row_seed(seed: int, row_id: str, sample_index: int) -> int:
    """Return the seed of one sample of one row: its own, whatever shard or batch the row is in."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{row_id}:{sample_index}".encode()).digest()[:7])
