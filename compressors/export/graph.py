"""Trace a causal model into one ONNX graph with a KV cache that serves prefill (empty cache) and decode alike."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.export.block_kinds import block_kinds, representatives
from attar.compressors.export.cache_parts import cache_parts, of_blocks
from attar.compressors.export.exporter import trace
from attar.compressors.export.fused import fused_operators
from attar.compressors.export.names import APPENDED, CACHE, FIRST_VECTOR, PAST, PREFIX, PRESENT, CachePart, cache_names
from attar.compressors.export.prefix_input import GivenVectors, reading_vectors
from attar.compressors.export.segments import NotRepeatedError
from attar.compressors.export.standard import refuse_other_nodes, standard_operators
from attar.compressors.export.tidy import tidy
from attar.compressors.export.tracing import Tracing
from attar.compressors.export.unroll import unroll
from attar.compressors.models.blocks import decoder_blocks, only_blocks
from attar.compressors.models.config_cut import cut_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Kinds of blocks for which there are nodes, by the names that configs give them.
BLOCK_KINDS = {
    *("full_attention", "sliding_attention", "attention"),
    *("linear_attention", "conv", "mamba", "mamba2", "hybrid", "hybrid_sliding"),
    *("mlp", "moe", "dense", "sparse", "experts"),
}
OPSETS = (20, 23)
# Nodes of onnxruntime's own for attention, rotary embedding, recurrences and experts; or ONNX' own alone.
Operators = Literal["fused", "standard"]


class CachedForward(nn.Module):
    """A causal model with its cache as a flat list of tensors. A graph can hold nothing else.

    In: input_ids, attention_mask (cache and input), position_ids, then the parts of the cache, and with `given` vectors that ids behind the
    vocabulary name. Out: logits and the grown cache.
    """

    def __init__(self, model: PreTrainedModel, tracing: Tracing, given: GivenVectors | None = None) -> None:
        super().__init__()
        self.model = model
        self._tracing, self._given = tracing, given

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B S"],
        position_ids: Int[Tensor, "B T"],
        past: list[Tensor],
        prefix: Float[Tensor, "P D"] | None = None,
    ) -> tuple[Tensor, ...]:
        if self._given is not None:
            self._given.vectors = prefix
        cache = self._tracing.begin(past, attention_mask, position_ids)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return (output.logits, *self._tracing.outputs())


def export_graph(
    model: PreTrainedModel, opset: int = OPSETS[1], operators: Operators = "fused", *, takes_prefix: bool = False
) -> ir.Model:
    """Return the graph of a model in float32; batch, input, cache and total lengths dynamic. Weights stay the model's own until saved.

    Attention is one GroupQueryAttention node a block: it appends to the cache, in place where the caller binds one buffer to both
    ends, keeps sliding windows, and leaves out what attention_mask hides, left or right. A convolution or recurrence is one node that
    moves its state on, and the experts of a block one that multiplies by those chosen. With standard operators attention is products
    and a softmax, the cache grows by columns at its end, and any runtime of ONNX reads the graph. `takes_prefix`: `prefix` is an input, P
    vectors, which ids behind the vocabulary name.

    Raises ValueError for a model without such a graph.
    """
    _check_exportable(model)
    kinds, parts = block_kinds(model), cache_parts(model)
    if operators == "standard":
        refuse_other_nodes(model, parts)
    traced = representatives(kinds)
    with reading_vectors(model) if takes_prefix else nullcontext() as given:
        tracer = _Tracer(model, opset, operators, given)
        program = _few_repeated(tracer, parts, kinds, traced) if len(traced) < len(kinds) else None
        program = program or tracer.trace(parts)
    tidy(program)
    _name_axes(program, parts)
    if takes_prefix:
        program.metadata_props[FIRST_VECTOR] = str(model.get_input_embeddings().weight.shape[0])  # type: ignore[union-attr]
    if operators == "standard":
        program.metadata_props[CACHE] = APPENDED
    return program


@dataclass(frozen=True)
class _Tracer:
    """How a model is traced: all of it, or with some of its blocks alone."""

    model: PreTrainedModel
    opset: int
    operators: Operators
    given: GivenVectors | None

    def trace(self, parts: Sequence[CachePart]) -> ir.Model:
        example, shapes = _example_inputs(parts)
        names = ["input_ids", "attention_mask", "position_ids", *cache_names(parts, PAST)]
        if self.given is not None:
            width = int(self.model.get_input_embeddings().weight.shape[1])  # type: ignore[union-attr, arg-type]
            example[PREFIX], shapes[PREFIX] = torch.zeros(7, width), {0: torch.export.Dim("num_vectors")}
            names.append(PREFIX)
        traced_by = standard_operators if self.operators == "standard" else fused_operators
        with traced_by(self.model, parts, fuse_norms=self.opset >= OPSETS[1]) as tracing:
            return trace(
                CachedForward(self.model, tracing, self.given),
                name=type(self.model).__name__,
                opset=self.opset,
                kwargs=example,
                input_names=names,
                output_names=["logits", *cache_names(parts, PRESENT)],
                dynamic_shapes=shapes,
            )


def _few_repeated(tracer: _Tracer, parts: Sequence[CachePart], kinds: list[int], traced: list[int]) -> ir.Model | None:
    """Trace these blocks and repeat them for the others; None where that cannot be done."""
    model = tracer.model
    blocks = decoder_blocks(model)
    prefix = next(f"model.{name}" for name, module in model.named_modules() if module is blocks)
    try:
        cut_config(copy.deepcopy(model.config), len(blocks), traced)
    except ValueError:  # a block reads what one left out has made for it
        return None
    try:
        with only_blocks(model, traced):
            program = tracer.trace(of_blocks(parts, traced))
        unroll(program.graph, model, prefix, parts, kinds, traced)
    except NotRepeatedError:
        return None
    return program


def _check_exportable(model: PreTrainedModel) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES  # a second at import

    name, config = type(model).__name__, model.config
    parameters = inspect.signature(model.forward).parameters
    if getattr(config, "is_encoder_decoder", False) or config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ValueError(f"{name} is an encoder, or has one; only decoders are exported")
    if "position_ids" not in parameters or "past_key_values" not in parameters:
        raise ValueError(f"{name} takes no position_ids or no cache; it has no cached graph")
    if others := set(getattr(config, "layer_types", None) or []) - BLOCK_KINDS:
        raise ValueError(f"{name} has blocks of {', '.join(sorted(others))}; no graph is built for these")


def _example_inputs(parts: Sequence[CachePart]) -> tuple[dict[str, Any], dict[str, Any]]:
    num_rows, num_new, num_past = 2, 3, 5  # distinct and above 1: the tracer specialises on 0, 1 and on equal sizes
    example = {
        "input_ids": torch.ones(num_rows, num_new, dtype=torch.long),
        "attention_mask": torch.ones(num_rows, num_past + num_new, dtype=torch.long),
        "position_ids": torch.arange(num_past, num_past + num_new).repeat(num_rows, 1),
        "past": [torch.zeros(num_rows, *(dim or num_past for dim in part.size)) for part in parts],
    }
    batch, new = torch.export.Dim("batch"), torch.export.Dim("new")
    old, total = torch.export.Dim("past"), torch.export.Dim.DYNAMIC
    shapes = {
        "input_ids": {0: batch, 1: new},
        "attention_mask": {0: batch, 1: total},
        "position_ids": {0: batch, 1: new},
        "past": [{0: batch, 2: old} if part.is_growing else {0: batch} for part in parts],
    }
    return example, shapes


def _name_axes(model: ir.Model, parts: Sequence[CachePart]) -> None:
    """Give the axes of inputs and outputs the names that optimum's graphs have."""
    tokens, cached, grown = ["batch_size", "sequence_length"], "past_sequence_length", "total_sequence_length"
    for ports, prefix, columns in ((model.graph.inputs, PAST, cached), (model.graph.outputs, PRESENT, grown)):
        sizes = {part.port(prefix): part.size for part in parts}
        for value in ports:
            name = str(value.name)
            if name in sizes:
                value.shape = ir.Shape([tokens[0], *(dim or columns for dim in sizes[name])])
            elif name == PREFIX:
                value.shape = ir.Shape(["num_vectors", list(value.shape)[1]])  # type: ignore[arg-type]
            elif name == "logits":
                value.shape = ir.Shape([*tokens, list(value.shape)[2]])  # type: ignore[arg-type]
            else:
                value.shape = ir.Shape([tokens[0], grown if name == "attention_mask" else tokens[1]])
