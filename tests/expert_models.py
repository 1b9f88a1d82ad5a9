"""Random models with experts as tests use them, and routers written down a second time, by hand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attar.compressors.models.experts import MoeLayer, moe_layers
from attar.stages.ingest.tiny_model import random_model

HIDDEN = 32
IDS = torch.randint(3, 250, (2, 40), generator=torch.Generator().manual_seed(0))
GROUPED = ("glm4_moe", "deepseek_v2", "deepseek_v3")
# What the 8 experts of a block come down to: two of each group of four where there are groups.
KEPT_EXPERTS = torch.tensor([0, 3, 4, 7])


def expert_model(family: str, num_blocks: int = 3, seed: int = 0):
    """A random model in which routers are sure and correction biases are not zero, so that both matter."""
    model = random_model(family, num_blocks=num_blocks, hidden_size=HIDDEN, seed=seed)[0]
    draw = torch.Generator().manual_seed(seed)
    for layer in moe_layers(model):
        layer.router.weight.data.normal_(std=0.5, generator=draw)
        for bias in (*layer.router.parameters(), *layer.router.buffers()):
            if bias.ndim == 1:
                bias.data.normal_(std=0.2, generator=draw)
    return model


@contextmanager
def routed_by_hand(model, family: str, kept_experts: Tensor):
    """Run the model with routers that know only some experts, restated here from the families' papers."""
    layers = moe_layers(model)
    for layer in layers:
        layer.router.forward = hand_router(layer, family, kept_experts)
    try:
        yield
    finally:
        for layer in layers:
            del layer.router.forward


def hand_router(
    layer: MoeLayer, family: str, kept_experts: Tensor
) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    router = layer.router

    def forward(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = hidden.reshape(-1, HIDDEN).float() @ router.weight[kept_experts].T.float()
        if family == "gpt_oss":
            logits = logits + router.bias[kept_experts]
        weights, index = chosen(router, family, logits, kept_experts)
        return logits, weights, kept_experts[index]

    return forward


def chosen(router: nn.Module, family: str, logits: Tensor, kept_experts: Tensor) -> tuple[Tensor, Tensor]:
    if family in ("granitemoe", "gpt_oss"):
        top, index = logits.topk(2)
        return top.softmax(-1), index
    if family not in GROUPED:
        top, index = logits.softmax(-1).topk(2)
        is_normalised = family == "mixtral" or router.norm_topk_prob
        return (top / top.sum(-1, keepdim=True) if is_normalised else top), index
    scores = logits.softmax(-1) if family == "deepseek_v2" else logits.sigmoid()
    choice = scores if family == "deepseek_v2" else scores + router.e_score_correction_bias[kept_experts]
    halves = choice.reshape(len(choice), 2, -1)
    strength = halves.max(-1).values if family == "deepseek_v2" else halves.topk(2).values.sum(-1)
    best = strength.argmax(-1)
    own = torch.arange(halves.shape[-1])[None] + best[:, None] * halves.shape[-1]
    index = own.gather(1, choice.gather(1, own).topk(2).indices)
    weights = scores.gather(1, index)
    if family != "deepseek_v2":
        weights = weights / weights.sum(-1, keepdim=True)
    return weights * router.routed_scaling_factor, index
