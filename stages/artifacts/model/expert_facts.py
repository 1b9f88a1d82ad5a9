"""What a model's mixtures of experts are and cost, as facts. A plan tells the smaller size, and refuses what cannot be, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.compressors.models.experts import Routing, idle_parameters, moe_layers
from attar.registry.artifacts.facts import Facts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Field of Routing -> fact.
ROUTING_FACTS = {
    "num_experts": "num_experts",
    "top_k": "num_experts_per_token",
    "num_groups": "num_expert_groups",
    "top_groups": "num_expert_groups_per_token",
    "least_in_group": "least_experts_of_group",
}
# Of one expert in every block that has any, with its rows in the routers; and of matrices that a token passes by.
COST_FACTS = ("expert_parameters", "num_idle_parameters")


def expert_facts(model: PreTrainedModel) -> Facts:
    """Return the facts of a model's mixtures, nothing for a dense model or experts of an unknown form."""
    try:
        layers = moe_layers(model)
    except ValueError:
        return {}
    if not layers:
        return {}
    cost = (sum(layer.expert_parameters for layer in layers), sum(idle_parameters(model)))
    routing = {fact: getattr(layers[0].routing, name) for name, fact in ROUTING_FACTS.items()}
    return {**routing, **dict(zip(COST_FACTS, cost, strict=True))}


def known_routing(facts: Facts) -> Routing | None:
    """Return the routing that a model's facts tell, None where they do not."""
    if not facts.keys() >= set(ROUTING_FACTS.values()):
        return None
    return Routing(**{name: int(facts[fact]) for name, fact in ROUTING_FACTS.items()})


def is_dense(facts: Facts) -> bool:
    """Return whether facts say that a model has no experts. Those that `narrow` takes channels from have none."""
    return "num_ffn_channels" in facts and "num_experts" not in facts


def with_experts(model: Facts, num_kept: int) -> Facts:
    """Return the facts of a model with fewer experts a block; they follow from its expert facts."""
    num_experts, one_expert = int(model["num_experts"]), int(model["expert_parameters"])
    names = ("vocab_size", "hidden_size", "num_blocks", "attention_width", "companion_bytes", "dtype", "architecture")
    facts: Facts = {
        name: model[name] for name in (*names, *ROUTING_FACTS.values(), "expert_parameters") if name in model
    }
    num_removed, num_passed_by = num_experts - num_kept, num_experts - int(model["num_experts_per_token"])
    matrices = int(model["num_idle_parameters"]) // num_passed_by  # of one expert, without its rows in the routers
    if "num_parameters" in model:
        facts["num_parameters"] = int(model["num_parameters"]) - num_removed * one_expert
    if "num_matmul_parameters" in model:
        facts["num_matmul_parameters"] = int(model["num_matmul_parameters"]) - num_removed * (one_expert - matrices)
    return {**facts, "num_experts": num_kept, "num_idle_parameters": matrices * (num_passed_by - num_removed)}


def float_fraction(facts: Facts) -> float:
    """Return the share of the parameters that fused experts hold, which bitsandbytes leaves in float; 0 where there are none."""
    if not facts.keys() >= {"num_experts", "expert_parameters", "num_parameters"}:
        return 0.0
    return int(facts["num_experts"]) * int(facts["expert_parameters"]) / int(facts["num_parameters"])


def refuse_float_experts(fraction: float, field: str, method: str) -> None:
    """Raise ValueError for a model most or some of which bitsandbytes would leave as it is, without a word."""
    if fraction > 0:
        raise ValueError(
            f"{field} is {method!r}, but bitsandbytes packs no fused experts: {fraction:.0%} of this model would stay in float; "
            "accepted: models without experts"
        )
