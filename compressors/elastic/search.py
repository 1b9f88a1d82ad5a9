"""Which sub-network is taken: of those under a budget, the one that a proxy says does best. https://arxiv.org/abs/2201.12507"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attar.compressors.elastic.space import Subnet

# Quantities of a sub-network, each as a share of the whole's.
Costs = Mapping[str, float]


@dataclass(frozen=True)
class Candidate:
    """A sub-network with its costs, and how far it is from the teacher: lower is better."""

    subnet: Subnet
    costs: Costs
    proxy_nats: float


def meeting(costs: Mapping[Subnet, Costs], budget: Costs) -> list[Subnet]:
    """Return the sub-networks whose costs are within every budget. Raises ValueError, with the nearest, where there is none."""
    under = [subnet for subnet, own in costs.items() if all(own[name] <= budget[name] for name in budget)]
    if not under:
        nearest = min(costs, key=lambda subnet: max(costs[subnet][name] / budget[name] for name in budget))
        raise ValueError(
            f"budget is {_shown(budget)}, which none of {len(costs)} sub-networks meets; the nearest is {nearest} with "
            f"{_shown({name: costs[nearest][name] for name in budget})}"
        )
    return under


def largest(subnets: Sequence[Subnet], costs: Mapping[Subnet, Costs], num_candidates: int) -> list[Subnet]:
    """Return those with the most parameters, of which the best is nearly always one."""
    return sorted(subnets, key=lambda subnet: -costs[subnet]["parameters"])[:num_candidates]


def spread(subnets: Sequence[Subnet], costs: Mapping[Subnet, Costs], num_candidates: int) -> list[Subnet]:
    """Return so many, evenly over their numbers of parameters, from the fewest to the most. For a budget of what must be measured."""
    ordered = sorted(subnets, key=lambda subnet: costs[subnet]["parameters"])
    count = min(num_candidates, len(ordered))
    return [ordered[index * (len(ordered) - 1) // max(count - 1, 1)] for index in range(count)]


def best(candidates: Sequence[Candidate]) -> Candidate:
    """Return the candidate nearest to the teacher; of equal ones the one with fewer parameters."""
    return min(candidates, key=lambda candidate: (candidate.proxy_nats, candidate.costs["parameters"]))


def _shown(costs: Costs) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in costs.items())
