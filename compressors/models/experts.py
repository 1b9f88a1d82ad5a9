"""The mixtures of experts of a causal model. Fused expert tensors, and the router that sends each token to a few of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from attar.compressors.models.blocks import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What families call the router, beside a module `experts`.
ROUTER_NAMES = ("gate", "router")
# An expert's matrices as fused tensors, in the order in which their module holds them.
EXPERT_MATRICES = ("gate_up_proj", "up_proj", "down_proj")
# The number of routed experts, in configs and in modules.
COUNT_NAMES = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# A bias that is added to the scores for the choice alone (DeepSeek-V3): its routers rank a group by its two best experts.
CORRECTION = "e_score_correction_bias"


@dataclass(frozen=True)
class Routing:
    """How a router chooses: `top_k` experts a token, of the `top_groups` best of `num_groups` groups of neighbours."""

    num_experts: int
    top_k: int
    num_groups: int = 1
    top_groups: int = 1
    least_in_group: int = 1

    def is_possible(self, num_kept: int) -> bool:
        """Return whether the router can choose from this many experts, equally many of each group."""
        in_group, rest = divmod(num_kept, self.num_groups)
        return not rest and in_group >= self.least_in_group and in_group * self.top_groups >= self.top_k

    def check(self, num_kept: int, field: str) -> None:
        """Raise ValueError, naming what is accepted, unless some experts go and the router can choose from those that stay."""
        if 0 < num_kept < self.num_experts and self.is_possible(num_kept):
            return
        accepted = [count for count in range(1, self.num_experts) if self.is_possible(count)]
        if num_kept >= self.num_experts:
            why = f"a block has {self.num_experts} experts"
        elif num_kept < self.top_k:
            why = f"a token goes to {self.top_k} experts"
        else:
            why = f"the router chooses {self.top_k} experts among {self.top_groups} of {self.num_groups} equal groups"
        raise ValueError(f"{field} is {num_kept}, but {why}; accepted: {_listed(accepted, self.num_groups)}")


@dataclass(frozen=True)
class MoeLayer:
    """The routed experts of one block. Each tensor of `experts` and `router` has an entry an expert in its first dimension."""

    block_index: int
    experts: nn.Module
    router: nn.Module
    routing: Routing

    def tensors(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        """Yield (module, name, tensor) of every parameter and buffer, each with an entry an expert."""
        for module in (self.experts, self.router):
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                yield module, name, tensor

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert, with its row in the router."""
        parameters = (*self.experts.parameters(), *self.router.parameters())
        return sum(parameter.numel() for parameter in parameters) // self.routing.num_experts

    @property
    def group_size(self) -> int:
        """Experts of one group."""
        return self.routing.num_experts // self.routing.num_groups


def moe_layers(model: PreTrainedModel) -> list[MoeLayer]:
    """Return the mixture of every block that has one, none for a dense model. Raises ValueError for experts of an unknown form."""
    family = type(model).__name__
    layers = []
    for index, block in enumerate(decoder_blocks(model)):
        for module in block.modules():
            children = dict(module.named_children())
            if "experts" in children:
                layers.append(_layer(index, children, family))
    routings = sorted({layer.routing for layer in layers}, key=lambda routing: routing.num_experts)
    if len(routings) > 1:
        counts = f"{routings[0].num_experts} to {routings[-1].num_experts}"
        raise ValueError(f"{family}: its blocks have {counts} experts; equal mixtures are accepted")
    return layers


def expert_fraction(model: PreTrainedModel) -> float:
    """Return the share of a model's parameters that its routed experts hold; 0 for a dense one."""
    held = sum(parameter.numel() for layer in moe_layers(model) for parameter in layer.experts.parameters())
    return held / sum(parameter.numel() for parameter in model.parameters())


def idle_parameters(model: PreTrainedModel) -> list[int]:
    """Return, a block each, the matrix parameters that a token passes by. Those are of experts it is not sent to."""
    idle = [0] * len(decoder_blocks(model))
    try:
        layers = moe_layers(model)
    except ValueError:  # experts of another form: all count as at work
        return idle
    for layer in layers:
        num_experts, top_k = layer.routing.num_experts, layer.routing.top_k
        fused = sum(parameter.numel() for parameter in layer.experts.parameters() if parameter.ndim == 3)
        idle[layer.block_index] += fused // num_experts * (num_experts - top_k)
    return idle


def _layer(block_index: int, children: dict[str, nn.Module], family: str) -> MoeLayer:
    experts = children["experts"]
    fused = [tensor for tensor in experts.parameters(recurse=False) if tensor.ndim == 3]
    if not fused or len(list(experts.children())) > len(_activations(experts)):
        raise ValueError(f"{family}: its experts are no fused tensors, which alone are known")
    router = next((children[name] for name in ROUTER_NAMES if name in children), None)
    if router is None or not isinstance(getattr(router, "top_k", None), int):
        raise ValueError(f"{family}: its router is not of a known form (a module gate or router with a top_k)")
    routing = _routing(router, len(fused[0]))
    layer = MoeLayer(block_index, experts, router, routing)
    inner = [name for module in (experts, router) for name, _ in module.named_parameters() if "." in name]
    strangers = [name for _, name, tensor in layer.tensors() if not tensor.ndim or len(tensor) != routing.num_experts]
    if inner or strangers:
        name = (*inner, *strangers)[0]
        raise ValueError(
            f"{family}: {name} of its experts or router has no entry an expert; such mixtures are not known"
        )
    return layer


def _routing(router: nn.Module, num_experts: int) -> Routing:
    num_groups = getattr(router, "num_group", None) or 1
    if getattr(router, "topk_method", "") == "greedy":  # DeepSeek-V2 has groups in its config and passes them by
        num_groups = 1
    return Routing(
        num_experts=num_experts,
        top_k=int(router.top_k),  # type: ignore[arg-type]
        num_groups=num_groups,
        top_groups=(getattr(router, "topk_group", None) or 1) if num_groups > 1 else 1,
        least_in_group=2 if hasattr(router, CORRECTION) and hasattr(router, "num_group") else 1,
    )


def _activations(experts: nn.Module) -> list[nn.Module]:
    """Return the children without parameters: what a family's activation function is a module of."""
    return [child for child in experts.children() if not any(True for _ in child.parameters())]


def _listed(counts: list[int], step: int) -> str:
    if not counts:
        return "none, all must stay"
    if len(counts) > 4 and counts == list(range(counts[0], counts[-1] + 1, step)):
        return f"{counts[0]} to {counts[-1]}" + (f", multiples of {step}" if step > 1 else "")
    return ", ".join(map(str, counts))
