"""How long a model takes, with its spread and the conditions. Where another is given, both in turns, so that a ratio means something."""

from __future__ import annotations

from typing import Any

import torch

from attar.compressors.measure.cost import Latency, measure_in_turns
from attar.compressors.models.runner import CausalRunner
from attar.registry.artifacts.environment import machine_name
from attar.stages.runtime.progress import bar

NUM_TIMED_ROUNDS = 5
# Decoded in a round, and their mean taken: more of them cost more time and leave the rounds' spread, which the interval is of, as it is.
NUM_TIMED_TOKENS = 8


def timed(
    runner: CausalRunner, beside: CausalRunner | None, *, vocab_size: int, num_prompt_tokens: int
) -> dict[str, Any]:
    """Return medians and quartiles of prefill and decode, and under `beside` those of the other model in the same rounds."""
    counter = bar("timing", NUM_TIMED_ROUNDS + 1, "rounds")
    with torch.inference_mode():
        latencies = measure_in_turns(
            [runner] if beside is None else [runner, beside],
            vocab_size=vocab_size,
            num_prompt_tokens=num_prompt_tokens,
            num_new_tokens=NUM_TIMED_TOKENS,
            num_rounds=NUM_TIMED_ROUNDS,
            on_round=counter.advance,
        )
    conditions = {
        "num_prompt_tokens": num_prompt_tokens,
        "num_rounds": NUM_TIMED_ROUNDS,
        "machine": machine_name(),
        "num_threads": torch.get_num_threads(),
    }
    others = {} if beside is None else {"beside": _numbers(latencies[1])}
    return {**conditions, **_numbers(latencies[0]), **others}


def _numbers(latency: Latency) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name, spread in (("prefill_seconds", latency.prefill), ("decode_seconds_per_token", latency.decode)):
        numbers |= {name: spread.median, f"{name}_low": spread.low, f"{name}_high": spread.high}
        numbers[f"{name}_rounds"] = list(
            spread.rounds
        )  # what a gate's interval is made of, round by round beside the other's
    return numbers
