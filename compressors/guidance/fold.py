"""Fold an offset adapter at a fixed scale into the base. A vector added to the attention's output is a bias of its last matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from attar.compressors.guidance.adapters import GuidanceAdapters, attention_modules
from attar.compressors.models.exits import ATTENTION_EXITS

if TYPE_CHECKING:
    import transformers
    from transformers.pytorch_utils import Conv1D


@torch.no_grad()
def fold_offsets(
    model: transformers.PreTrainedModel, adapters: GuidanceAdapters, scale: float
) -> transformers.PreTrainedModel:
    """Return a plain model that computes what `model` does under these adapters at this scale.

    Where the attention's output matrix has a bias, the vector is added to it in place. Where the family has a switch for it
    (`attention_bias`: Llama, Qwen3, Gemma and their kin), the model is built again with the switch on; the other biases that come
    along are zero. Raises ValueError for other families, for cross adapters, and for scales outside the trained range.
    """
    if not all(block.is_constant for block in adapters.blocks):
        raise ValueError(
            "cross adapters read the hidden state: at a fixed scale they are still no constant, and nothing in the base can hold "
            "them. Fold an offset adapter or a LoRA at a fixed scale, or export with guidance_scale as an input"
        )
    wanted = torch.tensor([scale])
    if not torch.equal(adapters.scales.clamp(wanted), wanted):
        raise ValueError(
            f"guidance_scale is {scale:g}; trained and accepted: {adapters.scales.low:g} to {adapters.scales.high:g}"
        )
    vectors = [prepared[0].flatten() for prepared in adapters.prepared(scale)]
    if exit_matrix(attention_modules(model)[0]).bias is None:
        model = _with_attention_bias(model)
    for module, vector in zip(attention_modules(model), vectors, strict=True):
        bias = exit_matrix(module).bias
        bias.copy_((bias.float() + vector.float()).to(bias.dtype))
    return model


def exit_matrix(attention: nn.Module) -> nn.Linear | Conv1D:
    """Return the last matrix of an attention. Raises ValueError for a family that gives it another name."""
    from transformers.pytorch_utils import Conv1D  # a second that a plan need not wait for

    for name in ATTENTION_EXITS:
        matrix = getattr(attention, name, None)
        if isinstance(matrix, nn.Linear | Conv1D):
            return matrix
    raise ValueError(f"{type(attention).__name__}: no output matrix of a known name; offsets cannot be folded")


def _with_attention_bias(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    import transformers  # a second that a plan need not wait for

    family = type(model).__name__
    if getattr(model.config, "attention_bias", None) is not False:
        raise ValueError(
            f"{family}: its attention output has no bias and its config no switch to add one; offsets cannot be folded, "
            "export with guidance_scale as an input"
        )
    config = type(model.config).from_dict({**model.config.to_dict(), "attention_bias": True})
    grown = transformers.AutoModelForCausalLM.from_config(config, dtype=model.dtype).to(model.device).eval()
    if getattr(exit_matrix(attention_modules(grown)[0]), "bias", None) is None:
        raise ValueError(f"{family}: attention_bias adds none to the attention's output; offsets cannot be folded")
    own: dict[str, Tensor] = model.state_dict()
    missing, unexpected = grown.load_state_dict(own, strict=False)
    assert not unexpected and all(name.endswith(".bias") for name in missing), "only biases are new"
    parameters = dict(grown.named_parameters())
    for name in missing:
        parameters[name].zero_()
    grown.generation_config = model.generation_config
    return grown
