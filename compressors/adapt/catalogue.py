"""The ways a student is adapted."""

from __future__ import annotations

from typing import Protocol

from peft import PeftModel
from transformers import PreTrainedModel

from compressors.adapt.lora import Lora
from compressors.adapt.weights import FullWeights, LastBlocks


class AdaptMethod(Protocol):
    """Makes some of a model's weights trainable, none before `first_block`; what it returns computes what the model computed."""

    def __call__(self, model: PreTrainedModel, first_block: int) -> PreTrainedModel | PeftModel: ...


ADAPT_METHODS: dict[str, type[AdaptMethod]] = {
    "lora": Lora,
    "rslora": Lora,
    "dora": Lora,
    "full": FullWeights,
    "last_blocks": LastBlocks,
}
