"""The ways a student is adapted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attar.compressors.adapt.compressor import PrefixCompressor
from attar.compressors.adapt.elastic import ElasticWeights
from attar.compressors.adapt.lora import Lora
from attar.compressors.adapt.prefix import SoftPrefix
from attar.compressors.adapt.quantization_aware import QuantizationAware
from attar.compressors.adapt.weights import FullWeights, LastBlocks
from attar.compressors.guidance.denoiser import ScaleAdapters

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class AdaptMethod(Protocol):
    """Makes some of a model's weights trainable, none before `first_block`; what it returns computes what the model computed.

    `quantization_aware` alone computes what the rounded model will.
    """

    def __call__(self, model: PreTrainedModel, first_block: int) -> PreTrainedModel | PeftModel: ...


ADAPT_METHODS: dict[str, type[AdaptMethod]] = {
    "lora": Lora,
    "rslora": Lora,
    "dora": Lora,
    "full": FullWeights,
    "last_blocks": LastBlocks,
    "quantization_aware": QuantizationAware,
    "prefix": SoftPrefix,
    "compressor": PrefixCompressor,
    "guidance": ScaleAdapters,
    "elastic": ElasticWeights,
}
# three names of one class: what each is
DIFFERENCES = {
    "lora": "W + (alpha / rank) B A, with B zero at the start: step 0 is the base model exactly. https://arxiv.org/abs/2106.09685",
    "rslora": "lora with the scale alpha / sqrt(rank), so that a higher rank does not learn more slowly. https://arxiv.org/abs/2312.03732",
    "dora": "lora on the direction of each row, whose length is learned apart; folds as lora does. https://arxiv.org/abs/2402.09353",
}
