"""What a plan warns of before anything runs: cuts that are seldom healed, and a hub that does not answer."""

from __future__ import annotations

import os
from collections.abc import Iterable

from attar.pipelines.recipe.plan import PlannedNode
from attar.registry.artifacts.facts import Facts

# The paper of the method (arXiv:2410.09982) removes 10 of 32 blocks at most.
MAX_REMOVED_SHARE = 1 / 3
HUB = "https://huggingface.co"
HUB_SECONDS = 4.0


def cautions(plan: Iterable[PlannedNode]) -> list[str]:
    """Return a line for each thing that a plan allows and its author should know."""
    plan = list(plan)
    return [*_deep_cuts(plan), *_silent_hub(plan)]


def _deep_cuts(plan: list[PlannedNode]) -> list[str]:
    facts: dict[str, Facts] = {planned.node.name: planned.facts for planned in plan}
    lines = []
    for planned in plan:
        before = next((facts.get(name, {}) for name in planned.node.inputs.get("model", ())), {})
        was, left = before.get("num_blocks"), planned.facts.get("num_blocks")
        if planned.node.stage.name != "prune" or not was or left is None:
            continue
        removed = int(was) - int(left)
        if removed > MAX_REMOVED_SHARE * int(was):
            lines.append(
                f"node {planned.node.name!r} removes {removed} of {was} blocks ({removed / int(was):.0%}): past a third of them"
                " healing seldom brings a model back; fewer blocks, or several rounds as in `iterative`, lose less"
            )
    return lines


def _silent_hub(plan: list[PlannedNode]) -> list[str]:
    """Return a line where a source of a hub is to be fetched and the hub does not answer."""
    sources = {
        planned.node.name: str(getattr(planned.node.config, "source", "")) for planned in plan if planned.state != "hit"
    }
    waiting = [f"{name!r} ({source})" for name, source in sources.items() if source.startswith("hub:")]
    if not waiting:
        return []
    address = os.environ.get("HF_ENDPOINT") or HUB
    reason = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else _no_answer(address)
    if not reason:
        return []
    return [
        f"the hub at {address} does not answer ({reason}): {', '.join(waiting[:3])} cannot be fetched;"
        " set HF_ENDPOINT to a hub that does, or take folder:PATH, gguf:PATH or jsonl:PATH"
    ]


def _no_answer(address: str) -> str:
    """Return why a hub does not answer; empty when it does, whatever it says."""
    import httpx  # most plans ask no hub

    try:
        httpx.head(address, timeout=HUB_SECONDS, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"[:120]
    return ""
