"""Drafts while rewriting: what they came to by style, and whether the texts are still the model's own."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from attar.compressors.measure.redrawn import largest_departure
from attar.compressors.models.runner import CausalRunner
from attar.compressors.models.sampling import Generation, Sampling
from attar.registry.artifacts.files import write_synced
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.stages.artifacts.samplers import Prompt
from attar.stages.runtime.progress import metric, note

# Among the records of a shard: what was drafted in it, by style.
COUNTS = "drafts.json"
# Texts of each shard that are read again without drafts: a hundredth of its work.
NUM_CHECKED = 4
# What rounding alone moves: nats of a greedy token, probability mass of a drawn one.
FLOAT32_MISS, HALF_GREEDY_MISS, HALF_SAMPLED_MISS = 1e-3, 0.5, 0.1


@dataclass
class DraftCount:
    """What was written in a style, and how much of it was drafted."""

    num_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0


class DraftCounts:
    """Counts of a process by style; shards that an earlier one wrote are not in them."""

    def __init__(self) -> None:
        self.by_style: dict[str, DraftCount] = defaultdict(DraftCount)

    def add(self, style: str, generations: Sequence[Generation]) -> None:
        """Count what was written for one row."""
        count = self.by_style[style]
        for generation in generations:
            count.num_tokens += len(generation.token_ids)
            count.num_drafted += generation.num_drafted
            count.num_accepted += generation.num_accepted

    def save(self, folder: Path) -> None:
        """Write the counts beside what was written."""
        (folder / RECORDS_FOLDER).mkdir(parents=True, exist_ok=True)
        # a new file each time: the old one may be a sealed shard's
        plain = {style: asdict(count) for style, count in sorted(self.by_style.items())}
        write_synced(folder / RECORDS_FOLDER / COUNTS, json.dumps(plain))

    @classmethod
    def of(cls, folders: Iterable[Path]) -> DraftCounts:
        """Return what several workers have counted, together."""
        counts = cls()
        for folder in folders:
            for style, count in json.loads((folder / RECORDS_FOLDER / COUNTS).read_text()).items():
                for name, number in count.items():
                    setattr(counts.by_style[style], name, getattr(counts.by_style[style], name) + number)
        return counts

    def report(self) -> None:
        """Tell each style's accepted share of what was drafted, and its tokens a pass: 1 without drafts."""
        for style, count in sorted(self.by_style.items()):
            if count.num_drafted:
                accepted = count.num_accepted / count.num_drafted
                tokens_a_pass = count.num_tokens / (count.num_tokens - count.num_accepted)
                metric(f"draft_accepted_fraction_{style}", accepted)
                metric(f"tokens_per_pass_{style}", tokens_a_pass)
                note(
                    f"drafts, {style}: {accepted:.0%} of {count.num_drafted} accepted, {tokens_a_pass:.2f} tokens a pass"
                )


def check_drafted(
    runner: CausalRunner,
    prompts: Sequence[Prompt],
    generations: Sequence[Generation],
    sampling: Sampling,
    is_exact: bool,
) -> None:
    """Refuse a drafted text that the model would not have written alone. `is_exact`: the model computes in float32."""
    half = HALF_GREEDY_MISS if sampling.is_greedy else HALF_SAMPLED_MISS
    allowed = FLOAT32_MISS if is_exact else half
    drafted = [pair for pair in zip(prompts, generations, strict=True) if pair[1].num_drafted]
    for prompt, generation in drafted[:NUM_CHECKED]:
        departure = largest_departure(runner, prompt.token_ids, generation.token_ids, sampling, prompt.seed)
        if departure.miss > allowed:
            raise ValueError(
                f"a draft changed a text: token {departure.token_index} of {len(generation.token_ids)} misses the model's own by "
                f"{departure.miss:.2g}, rounding by at most {allowed:g}; accepted: drafts.max_tokens: 0"
            )
