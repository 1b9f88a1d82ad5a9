"""Low-rank adapters through PEFT: which matrices get one, and putting them on a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from attar.compressors.adapt.fast_lora import speed_up
from attar.compressors.models.blocks import decoder_blocks

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Lora:
    """W + (alpha / rank) B A, with B zero at the start: step 0 is the base model exactly. https://arxiv.org/abs/2106.09685

    `is_rank_stabilized`: the scale is alpha / sqrt(rank), https://arxiv.org/abs/2312.03732. `is_decomposed`: magnitude and direction
    of each row learn apart (DoRA), https://arxiv.org/abs/2402.09353. `targets`: names of matrices; empty: every one of a block.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    is_rank_stabilized: bool = False
    is_decomposed: bool = False

    def __call__(self, model: PreTrainedModel, first_block: int) -> PeftModel:
        """Return the model with trainable adapters in the blocks from `first_block` on. Raises ValueError when nothing matches."""
        from peft import LoraConfig, get_peft_model  # half a second, which only a model with adapters pays
        from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

        known = linear_names(model)
        unknown = sorted(set(self.targets) - set(known))
        if unknown:
            raise ValueError(
                f"targets {', '.join(unknown)} name no matrix of the model's blocks. Known: {', '.join(known)}"
            )
        blocks = range(first_block, len(decoder_blocks(model)))
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type] - PEFT divides by rank, a float is as good
            lora_dropout=self.dropout,
            target_modules=list(self.targets) or known,
            layers_to_transform=list(blocks) if first_block else None,
            fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
            use_rslora=self.is_rank_stabilized,
            use_dora=self.is_decomposed,
            task_type="CAUSAL_LM",
        )
        adapted = get_peft_model(model, config)
        speed_up(adapted)
        return adapted  # type: ignore[return-value]


def linear_names(model: PreTrainedModel) -> list[str]:
    """Return the names of the matrices inside a decoder block, each once, such as q_proj or down_proj."""
    from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

    block = decoder_blocks(model)[0]
    names = sorted({name.split(".")[-1] for name, m in block.named_modules() if isinstance(m, nn.Linear | Conv1D)})
    if not names:
        raise ValueError("the model has no linear layer to adapt")
    return names
