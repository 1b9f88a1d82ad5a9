"""A classifier of texts or words: a transformer that sees both sides of a token, and a head over classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A part that some families put behind the last block, of an encoder: a head of another family does without.
POOLER = "pooler."


class TextClassifier(nn.Module):
    """A transformer with a head over classes, as one module and as an `EmbeddingRunner` whose rows are logits.

    A head with `num_subclasses` outputs a class, class by class, is summed: a class's logit is the log of their summed exponentials.
    A head of a single output reads pairs of texts: of "apart" the logit is 0, of "alike" that output, so that its sigmoid is the share of "alike".
    A head over words, a tagger's, gives a row a token: what is [B, C] of texts is [B, T, C] of their tokens.
    """

    def __init__(self, model: PreTrainedModel, num_subclasses: int = 1) -> None:
        super().__init__()
        self.model, self.num_subclasses = model, num_subclasses
        self.reads_pairs = model.config.num_labels == 1
        has_segments = getattr(model.config, "type_vocab_size", 0) > 1
        self._separator = getattr(model.config, "sep_token_id", None) if self.reads_pairs and has_segments else None

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self.model.device

    def forward(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B ... C"]:
        """Return the logits of a batch padded on the right."""
        return of_classes(self.outputs(input_ids, attention_mask), self.num_subclasses)

    def outputs(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B ... CS"]:
        """Return what the head gives, a number for each subclass."""
        more = {} if self._separator is None else {"token_type_ids": segments(input_ids, self._separator)}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **more).logits

    @torch.inference_mode()
    def embed(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B ... C"]:
        """Return the logits without gradient."""
        return self(input_ids, attention_mask)


def of_classes(outputs: Float[Tensor, "... CS"], num_subclasses: int) -> Float[Tensor, "... C"]:
    """Return the logits of classes from those of their subclasses: probabilities are added. A single output gets its other side, 0."""
    if outputs.shape[-1] == 1:
        return torch.cat([torch.zeros_like(outputs), outputs], dim=-1)
    if num_subclasses == 1:
        return outputs
    return outputs.unflatten(-1, (-1, num_subclasses)).logsumexp(dim=-1)


def segments(input_ids: Int[Tensor, "B T"], separator: int) -> Int[Tensor, "B T"]:
    """Return 0 for tokens of a pair's first text, its separator included, and 1 for those behind it."""
    ends = (input_ids == separator).long()
    return (ends.cumsum(dim=1) - ends).clamp(max=1)


def last_layer(model: PreTrainedModel) -> nn.Linear:
    """Return the layer of a head that makes its outputs. Raises ValueError for a head that has none."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no last layer of {model.config.num_labels} outputs")
    return layers[-1]


def head_parts(model: PreTrainedModel) -> list[nn.Module]:
    """Return what a classifier has behind its last block. A pooler where there is one, and the layers of the head."""
    own: nn.Module = getattr(model, model.base_model_prefix)
    pooler = getattr(own, "pooler", None)
    return [*([] if pooler is None else [pooler]), *(part for part in model.children() if part is not own)]


def with_head(
    encoder: PreTrainedModel, names: Sequence[str], seed: int, reader: str = "AutoModelForSequenceClassification"
) -> PreTrainedModel:
    """Return the encoder under its family's head for these outputs, whose weights are drawn with `seed`. `reader`: transformers' word for such heads.

    Raises ValueError for an encoder whose parts are not those that the family's classifier reads.
    """
    import transformers  # there since the encoder is

    config = copy.deepcopy(encoder.config)
    config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    config.problem_type = "single_label_classification" if len(names) > 1 else None
    # transformers initialises from the global generator; forked, so that the caller's stays as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, reader).from_config(config, dtype=encoder.dtype)
    report = getattr(model, model.base_model_prefix).load_state_dict(encoder.state_dict(), strict=False, assign=True)
    if wrong := [name for name in (*report.missing_keys, *report.unexpected_keys) if not name.startswith(POOLER)]:
        raise ValueError(f"{type(model).__name__} does not read what the encoder holds: {wrong[0]}")
    return model.eval()
