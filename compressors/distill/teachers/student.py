"""A causal model as training sees it. Hidden states of the learned tokens, with the blocks before the first trained one recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attar.compressors.distill.examples.packing import Batch, Example, batches
from attar.compressors.distill.teachers.outputs import LiveTeacher
from attar.compressors.models.adapted import first_trained_block, mixed_precision, plain_model
from attar.compressors.models.blocks import decoder_blocks
from attar.compressors.models.bypass import stopped, without_blocks
from attar.compressors.models.head import OutputHead, check_head, output_head
from attar.compressors.models.product_attention import attend_by_products

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Student(nn.Module):
    """A model (bare, or under PEFT adapters) up to its output head.

    `first_block`: blocks before it hold nothing that is trained; 0 when the embedding or block 0 does.
    """

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.model = model
        # projections of the last block to keep of each forward pass, and what the last one gave for the learned tokens
        self.reads: tuple[str, ...] = ()
        self.projections: dict[str, Tensor] = {}
        self.first_block = first_trained_block(plain_model(model))
        attend_by_products(plain_model(model))
        with mixed_precision(model):
            check_head(plain_model(model), self.head)

    @property
    def head(self) -> OutputHead:
        """The output head, with the weights of now."""
        return output_head(plain_model(self.model))

    def checkpoint_blocks(self) -> None:
        """Keep of each block only what it receives while training, and compute it again in the backward pass.

        https://arxiv.org/abs/1604.06174. Raises ValueError for families that transformers cannot do this for.
        """
        plain = plain_model(self.model)
        if not plain.supports_gradient_checkpointing:
            raise ValueError(f"gradient_checkpointing is true, but transformers has none for {type(plain).__name__}")
        plain.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(self, batch: Batch) -> Float[Tensor, "N D"]:
        """Return the last hidden state of each learned token of the batch."""
        plain = plain_model(self.model)
        device = plain.device
        options = {} if batch.attention_mask is None else {"attention_mask": batch.attention_mask.to(device)}
        recorded = None if batch.prefix is None else batch.prefix.to(device)
        resume_at = 0 if recorded is None else self.first_block
        rows, columns = batch.rows.to(device), batch.columns.to(device)
        with (
            mixed_precision(self.model),
            without_blocks(plain, frozenset(), resume_at, recorded),
            projected(plain, self.reads) as projections,
        ):
            output = plain.base_model(
                input_ids=batch.input_ids.to(device),
                position_ids=batch.position_ids.to(device),
                use_cache=False,
                **options,
            )
        self.projections = {name: value[rows, columns] for name, value in projections.items()}
        return output.last_hidden_state[rows, columns]

    def outputs(self, batch: Batch, weights: Mapping[str, Tensor] | None = None) -> LiveTeacher:
        """Return what it makes of a batch, as a teacher's outputs. `weights`: by which it has just run in place of its own."""
        return LiveTeacher(self(batch), self._head_under(weights or {}), self.projections)

    def _head_under(self, weights: Mapping[str, Tensor]) -> OutputHead:
        """Return the head with these weights, where it is trained: it is asked after the student has its own back."""
        head = self.head
        for name, parameter in self.named_parameters():
            if parameter is head.weight and name in weights:
                return replace(head, weight=weights[name])
        return head

    def logits(self, batch: Batch) -> Float[Tensor, "N V"]:
        """Return the logits of the learned tokens, all at once: for few tokens."""
        with mixed_precision(self.model):
            return self.head.logits(self(batch))


@contextmanager
def projected(model: PreTrainedModel, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what modules of the last block give, by their own names. Raises ValueError where the block has none of that name."""
    projections: dict[str, Tensor] = {}
    by_name = {name.split(".")[-1]: module for name, module in decoder_blocks(model)[-1].named_modules()}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ValueError(
            f"{type(model).__name__}: its blocks have no {', '.join(missing)}; attention_relation cannot read it"
        )
    hooks = []
    for name in names:

        def keep(module: nn.Module, args: object, output: Tensor, name: str = name) -> None:
            projections[name] = output

        hooks.append(by_name[name].register_forward_hook(keep))
    try:
        yield projections
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def record_prefix(
    student: Student, examples: Sequence[Example], *, tokens_per_batch: int, is_packed: bool
) -> Iterator[tuple[int, Float[Tensor, "T D"]]]:
    """Yield (index, what the first trained block of `student` receives for that example), running only the blocks before it.

    The frozen blocks give the same for an example in every epoch, so they need to run once: https://arxiv.org/abs/1706.04983.
    """
    plain = plain_model(student.model).eval()
    block = decoder_blocks(plain)[student.first_block]
    for batch in batches(examples, tokens_per_batch=tokens_per_batch, order=range(len(examples)), is_packed=is_packed):
        with stopped(block, is_before=True) as received:
            student(batch)
        for index, row, start in batch.locations:
            yield index, received[0][row, start : start + examples[index].num_tokens]
