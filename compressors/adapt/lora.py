"""LoRA through PEFT: which matrices get an adapter, and putting one on a model. https://arxiv.org/abs/2106.09685"""

from __future__ import annotations

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from compressors.prune.blocks import decoder_blocks


def add_lora(model: PreTrainedModel, *, rank: int, alpha: float, dropout: float, targets: list[str]) -> PeftModel:
    """Return the model with trainable adapters of `rank` on `targets` (module names; empty: every matrix of every block).

    The update is (alpha / rank) B A, with B zero at the start: step 0 is the base model exactly.
    """
    names = targets or linear_names(model)
    if rank > 0 and not names:
        raise ValueError("the model has no linear layer to adapt")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type] - PEFT divides by rank, a float is as good
        lora_dropout=dropout,
        target_modules=names,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)  # type: ignore[return-value]


def linear_names(model: PreTrainedModel) -> list[str]:
    """Return the names of the matrices inside a decoder block, each once, such as q_proj or down_proj."""
    block = decoder_blocks(model)[0]
    return sorted({name.split(".")[-1] for name, m in block.named_modules() if isinstance(m, nn.Linear | Conv1D)})
