"""Low-rank adapters through PEFT: which matrices get one, and putting them on a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from attar.compressors.adapt.fast_lora import speed_up
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.experts import EXPERT_MATRICES, moe_layers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# Names that PEFT 0.21 takes for a router or fused experts, at twice the rank, wherever in the model of some families a matrix bears
# them: a shared expert's gate_proj is not adapted then, all routed experts are.
FUSED_NAMES = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """W + (alpha / rank) B A, with B zero at the start: step 0 is the base model exactly. https://arxiv.org/abs/2106.09685

    `is_rank_stabilized`: the scale is alpha / sqrt(rank), https://arxiv.org/abs/2312.03732. `is_decomposed`: magnitude and direction
    of each row learn apart (DoRA), https://arxiv.org/abs/2402.09353. `targets`: names of matrices; empty: every one of a block.
    `expert_rank`: of a pair on each matrix of every routed expert, with the same scale; 0: experts and routers stay as they are.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    is_rank_stabilized: bool = False
    is_decomposed: bool = False
    expert_rank: int = 0

    def __call__(self, model: PreTrainedModel, first_block: int) -> PeftModel:
        """Return the model with trainable adapters in the blocks from `first_block` on. Raises ValueError when nothing matches."""
        from peft import LoraConfig, get_peft_model  # half a second, which only a model with adapters pays
        from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

        known = linear_names(model)
        _check_targets(model, self.targets, known)
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
            **self._of_experts(model, first_block),
        )
        with patterns_of_experts():
            adapted = get_peft_model(model, config)
        speed_up(adapted)
        return adapted  # type: ignore[return-value]

    def _of_experts(self, model: PreTrainedModel, first_block: int) -> dict[str, Any]:
        """Return PEFT's options for fused experts: each tensor by its full name, a pair of `expert_rank` an expert."""
        if not self.expert_rank:
            return {}
        names = expert_names(model, first_block)
        if not names:
            raise ValueError(
                f"expert_rank is {self.expert_rank}, but {type(model).__name__} has no experts; accepted: 0"
            )
        ratio = self.expert_rank / self.rank
        alpha = self.alpha * (ratio**0.5 if self.is_rank_stabilized else ratio)
        ending = rf"experts\.({'|'.join(EXPERT_MATRICES)})"
        return {
            "target_parameters": names,
            "rank_pattern": {ending: self.expert_rank},
            "alpha_pattern": {ending: alpha},
        }


@contextmanager
def patterns_of_experts() -> Iterator[None]:
    """Silence PEFT's warning that it ignored the rank of experts: it heeds it (seen with 0.21.2)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"The following (rank|alpha)_pattern keys did not match")
        yield


def linear_names(model: PreTrainedModel) -> list[str]:
    """Return the names of the matrices inside the decoder blocks, each once, such as q_proj or down_proj.

    Not those that PEFT takes for experts.
    """
    from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

    modules = [entry for block in decoder_blocks(model) for entry in block.named_modules()]
    names = sorted({name.split(".")[-1] for name, module in modules if isinstance(module, nn.Linear | Conv1D)})
    if not names:
        raise ValueError("the model has no linear layer to adapt")
    taken = _taken_names(model)
    return [name for name in names if name not in taken]


def expert_names(model: PreTrainedModel, first_block: int = 0) -> list[str]:
    """Return the full names of the fused matrices of experts in the blocks from `first_block` on."""
    fused = {
        id(tensor)
        for layer in moe_layers(model)
        for tensor in layer.experts.parameters()
        if layer.block_index >= first_block and tensor.ndim == 3
    }
    return [name for name, tensor in model.named_parameters() if id(tensor) in fused]


def _check_targets(model: PreTrainedModel, targets: Sequence[str], known: Sequence[str]) -> None:
    if not (unknown := sorted(set(targets) - set(known))):
        return
    if fused := [name for name in unknown if name in _taken_names(model)]:
        raise ValueError(
            f"targets {', '.join(fused)}: PEFT takes these names for the experts of {type(model).__name__}; expert_rank adapts "
            f"those. Known: {', '.join(known)}"
        )
    raise ValueError(f"targets {', '.join(unknown)} name no matrix of the model's blocks. Known: {', '.join(known)}")


def _taken_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the names that PEFT takes for the experts of the model's family, by its own table where it has that."""
    if not moe_layers(model):
        return ()
    from peft.utils import transformers_weight_conversion as conversion  # half a second, for models with experts

    families = getattr(conversion, "_MODEL_TO_CONVERSION_PATTERN", None)
    return FUSED_NAMES if families is None or model.config.model_type in families else ()
