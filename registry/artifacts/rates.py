"""How fast this machine works, stage by stage: learned from finished nodes, read by the plan."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attar.registry.artifacts.environment import machine_name
from attar.registry.artifacts.files import write_synced

logger = logging.getLogger(__name__)
RATES = "rates.json"
# Of each stage the newest are kept: a machine changes, and so does the code.
MAX_KEPT = 24
# A larger work than any seen goes at the speed of the largest seen, if starting was no part of that worth counting, or it is hardly larger.
LONG_SECONDS = 10.0
NEAR = 10.0


@dataclass(frozen=True)
class Observation:
    """One finished node with its forecast and the seconds it took. Forecast: FLOPs, and bytes that stay on disk; 0: not known."""

    machine: str
    num_flops: float
    num_bytes: float
    seconds: float

    @property
    def is_of_flops(self) -> bool:
        """Whether its work counts in FLOPs; else it counts in bytes."""
        return self.num_flops > 0

    @property
    def amount(self) -> float:
        """FLOPs where they are known, else bytes."""
        return self.num_flops or self.num_bytes


def learn_rate(home: Path, stage: str, num_flops: float, num_bytes: float, seconds: float) -> None:
    """Keep what a node took. A work of unknown size teaches nothing, and a file that cannot be written costs a warning."""
    observed = Observation(machine_name(), num_flops, num_bytes, seconds)
    if not observed.amount or seconds <= 0:
        return
    known = _read(home)
    known[stage] = [*known.get(stage, []), observed][-MAX_KEPT:]
    content = {name: [asdict(entry) for entry in entries] for name, entries in sorted(known.items())}
    try:
        write_synced(home / RATES, json.dumps(content, indent=1))
    except OSError as error:
        logger.warning("%s: not written, so that a plan does not learn from this run: %s", home / RATES, error)


def forecast_seconds(home: Path, works: list[tuple[str, float, float]]) -> list[float | None]:
    """Return the seconds that each (stage, FLOPs, bytes) would take on this machine. None: nothing of its kind and size was seen here."""
    known = _read(home)
    return [_seconds(known.get(stage, []), num_flops, num_bytes) for stage, num_flops, num_bytes in works]


def _seconds(observations: list[Observation], num_flops: float, num_bytes: float) -> float | None:
    amount, here = num_flops or num_bytes, machine_name()
    alike = [seen for seen in observations if seen.machine == here and seen.is_of_flops == (num_flops > 0)]
    if not amount or not alike:
        return None
    largest, smallest = max(alike, key=lambda seen: seen.amount), min(seen.amount for seen in alike)
    if amount > largest.amount:
        is_proportional = largest.seconds >= LONG_SECONDS or amount <= NEAR * largest.amount
        return _line(alike, amount) if is_proportional else None
    # below all that was seen, starting is what counts, and one size alone does not tell it
    return _line(alike, amount) if smallest < largest.amount or amount >= smallest / NEAR else None


def _line(observations: list[Observation], amount: float) -> float:
    """Return `start + amount / rate` of the line that lies nearest in relative terms; neither part is negative."""
    weights = [1.0 / seen.seconds**2 for seen in observations]
    total = sum(weights)
    mean_amount = sum(w * seen.amount for w, seen in zip(weights, observations, strict=True)) / total
    mean_seconds = sum(w * seen.seconds for w, seen in zip(weights, observations, strict=True)) / total
    spread = sum(w * (seen.amount - mean_amount) ** 2 for w, seen in zip(weights, observations, strict=True))
    shared = sum(
        w * (seen.amount - mean_amount) * (seen.seconds - mean_seconds)
        for w, seen in zip(weights, observations, strict=True)
    )
    slope = shared / spread if spread > 0 else 0.0
    start = mean_seconds - slope * mean_amount
    if spread == 0 or start < 0:
        return amount * mean_seconds / mean_amount
    return start + max(slope, 0.0) * amount


def _read(home: Path) -> dict[str, list[Observation]]:
    """Return what is known; a file that is damaged or not there knows nothing."""
    try:
        content: Any = json.loads((home / RATES).read_text()) if (home / RATES).is_file() else {}
        return {stage: [_observation(entry) for entry in entries] for stage, entries in content.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _observation(entry: dict[str, Any]) -> Observation:
    numbers = [float(entry[name]) for name in ("num_flops", "num_bytes", "seconds")]
    if not all(map(math.isfinite, numbers)) or min(numbers) < 0 or not numbers[2]:
        raise ValueError(f"{numbers}: no measurement")
    return Observation(str(entry["machine"]), *numbers)
