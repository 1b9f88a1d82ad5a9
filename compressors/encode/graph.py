"""Trace a model that reads whole texts into one ONNX graph. An encoder with its pooling inside, a classifier or tagger with its head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attar.compressors.encode.session import INPUTS, LOGITS, TOKENS, VECTORS
from attar.compressors.export.exporter import trace
from attar.compressors.export.tidy import tidy

if TYPE_CHECKING:
    import onnx_ir as ir  # in an extra

    from attar.compressors.encode.classifier import TextClassifier
    from attar.compressors.encode.encoder import SentenceEncoder

INTERFACE = "attar_encoder_graph"
OPSETS = (20, 23)


@dataclass
class Hidden:
    """What the attention of every block needs of the graph's inputs. Set by the traced forward before the model is called."""

    mask: Int[Tensor, "B T"] | None = None


class TracedEncoder(nn.Module):
    """An encoder whose attention is one node a block. In: token ids and their mask. Out: states of the tokens, vectors of the texts."""

    def __init__(self, encoder: SentenceEncoder, hidden: Hidden) -> None:
        super().__init__()
        self.encoder, self._hidden = encoder, hidden

    def forward(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
        self._hidden.mask = attention_mask.to(torch.int32)
        states = self.encoder.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states, self.encoder.pooling(states, attention_mask)


class TracedClassifier(nn.Module):
    """A classifier whose attention is one node a block. In: token ids and their mask. Out: a logit a class, of a tagger for each token."""

    def __init__(self, classifier: TextClassifier, hidden: Hidden) -> None:
        super().__init__()
        self.classifier, self._hidden = classifier, hidden

    def forward(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Tensor:
        self._hidden.mask = attention_mask.to(torch.int32)
        if self.classifier.reads_pairs:  # one logit a pair, as cross-encoders give
            return self.classifier.outputs(input_ids, attention_mask)
        return self.classifier(input_ids, attention_mask)


def export_encoder(encoder: SentenceEncoder, opset: int = OPSETS[1]) -> ir.Model:
    """Return the graph of an encoder in float32, batch and length dynamic; its weights stay the model's own until saved.

    Attention is one MultiHeadAttention node a block. Raises ValueError for a family that has no such graph.
    """
    width = encoder.model.config.hidden_size
    shapes = {TOKENS: ["batch_size", "sequence_length", width], VECTORS: ["batch_size", width]}
    return traced_graph(lambda hidden: TracedEncoder(encoder, hidden), encoder.model, shapes, opset)


def export_classifier(classifier: TextClassifier, opset: int = OPSETS[1], *, reads_words: bool = False) -> ir.Model:
    """Return the graph of a classifier as `export_encoder` does; its subclasses are summed inside. `reads_words`: a row a token."""
    num_outputs: Any = classifier.model.config.num_labels
    num_classes = num_outputs // classifier.num_subclasses
    shapes = {LOGITS: ["batch_size", *(["sequence_length"] if reads_words else []), num_classes]}
    return traced_graph(lambda hidden: TracedClassifier(classifier, hidden), classifier.model, shapes, opset)


def traced_graph(
    traced: Callable[[Hidden], nn.Module], model: Any, shapes: Mapping[str, list[str | int]], opset: int
) -> ir.Model:
    """Return the graph of what is traced, in float32, its outputs named and shaped as `shapes` says."""
    import onnx_ir as ir  # in an extra

    batch, tokens = torch.export.Dim("batch_size"), torch.export.Dim("sequence_length")
    # distinct and above 1: the tracer specialises on 0, 1 and on equal sizes
    example = {name: torch.ones(2, 5, dtype=torch.long) for name in INPUTS}
    with _attention_nodes(model) as hidden:
        graph = trace(
            traced(hidden),
            name=type(model).__name__,
            opset=opset,
            kwargs=example,
            input_names=list(INPUTS),
            output_names=list(shapes),
            dynamic_shapes={name: {0: batch, 1: tokens} for name in INPUTS},
        )
    tidy(graph)
    for value in graph.graph.inputs:
        value.shape = ir.Shape(["batch_size", "sequence_length"])
    for value in graph.graph.outputs:
        value.shape = ir.Shape(shapes[str(value.name)])
    return graph


@contextmanager
def _attention_nodes(model: Any) -> Iterator[Hidden]:
    """Trace the model's attention as single nodes inside the block, which read the mask from what is yielded."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface  # there since the model is

    hidden = Hidden()
    if (
        not model._supports_attention_backend
    ):  # attention of the family's own, such as MPNet's with its position bias: traced as written
        yield hidden
        return
    before = model.config._attn_implementation
    AttentionInterface.register(INTERFACE, _attention(hidden))
    model.config._attn_implementation = INTERFACE
    try:
        yield hidden
    finally:
        model.config._attn_implementation = before
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop(INTERFACE, None)


def _attention(hidden: Hidden) -> Callable[..., tuple[Tensor, None]]:
    def attend(
        module: nn.Module,
        query: Float[Tensor, "B H T D"],
        key: Float[Tensor, "B H T D"],
        value: Float[Tensor, "B H T D"],
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        if options.get("position_bias") is not None:
            raise ValueError(f"{type(module).__name__} adds a position bias to its scores; no graph is built for it")
        num_rows, num_heads, num_tokens, head_size = query.shape
        flat = [states.transpose(1, 2).reshape(num_rows, num_tokens, -1) for states in (query, key, value)]
        output = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            [*flat, None, hidden.mask],
            {"num_heads": num_heads, "scale": float(scaling if scaling is not None else head_size**-0.5)},
            dtype=query.dtype,
            shape=flat[0].shape,
            version=1,
        )
        return output.reshape(num_rows, num_tokens, num_heads, head_size), None

    return attend
