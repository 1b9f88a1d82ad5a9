"""What a model is under adapters: asked without importing PEFT, which takes half a second and brings bitsandbytes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.soft_tokens import soft_tokens
from attar.compressors.models.trained_weights import HasParameters

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def is_adapted(model: Any) -> TypeGuard[PeftModel]:
    """Say whether PEFT has wrapped a model; where nothing has imported PEFT, it has wrapped none."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def has_base(model: Any) -> bool:
    """Say whether what learns stands beside a base that stays: adapters, or vectors behind its vocabulary."""
    return is_adapted(model) or soft_tokens(model) is not None


@contextmanager
def base_alone(model: Any) -> Iterator[None]:
    """Let the base of a model that has one run alone. Adapters are off; vectors are, as a text without their ids meets none."""
    if not is_adapted(model):
        yield
        return
    with model.disable_adapter():
        yield


def mixed_precision(model: HasParameters) -> torch.autocast:
    """Return the context in which a model multiplies in bf16. Its weights are bf16, those that are trained float32."""
    dtypes = {parameter.dtype for parameter in model.parameters()}
    device = next(model.parameters()).device
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=torch.bfloat16 in dtypes)


def plain_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the transformers model, its adapters in place."""
    return model.get_base_model() if is_adapted(model) else model  # type: ignore[return-value]


def first_trained_block(model: PreTrainedModel) -> int:
    """Return the index of the first block that is trained. 0 when the input embedding is, the number of blocks when none is."""
    if any(p.requires_grad for p in model.get_input_embeddings().parameters()):
        return 0
    blocks = decoder_blocks(model)
    trained = [i for i, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters())]
    return min(trained, default=len(blocks))
