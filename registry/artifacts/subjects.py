"""What a model works on. Each subject has a name, words for refusals, and the facts that tell it before anything is made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Subject:
    """What a model works on. `form`: facts from the start; every such model and graph, and no other, has the first."""

    name: str
    words: str
    form: tuple[str, ...] = ()

    @property
    def model_type(self) -> str:
        """What MLflow calls such models."""
        return "causal-lm" if self is CAUSAL else self.name.replace("_", "-")


CAUSAL = Subject("causal", "a causal language model")
ENCODER = Subject("encoder", "an encoder", form=("pooling", "is_normalized", "max_tokens", "num_latent_tokens"))
DENOISER = Subject("denoiser", "a denoiser", form=("sample_size", "num_labels", "prediction"))
# A classifier of words: what is of classifiers is of taggers, whose labels are tags.
TAGGER = Subject("tagger", "a tagger", form=("reads_words", "labels", "num_subclasses", "max_tokens"))
CLASSIFIER = Subject("classifier", "a classifier", form=("labels", "num_subclasses", "reads_pairs", "max_tokens"))

IMAGES = Subject("image_classifier", "an image classifier", form=("image_size", "num_channels", "num_classes"))

# In the order in which facts are asked: those of a tagger name labels too.
SUBJECTS = (CAUSAL, ENCODER, TAGGER, CLASSIFIER, IMAGES, DENOISER)


# A fact of causal models that fill masks: tokens of a block, all of which are seen from both sides.
MASK_BLOCK = "mask_block_size"


def fills_masks(facts: Mapping[str, Any]) -> bool:
    """Say whether a causal model fills masks, and so writes no text from left to right."""
    return MASK_BLOCK in facts


def refuse_mask_filling(inputs: Mapping[str, Sequence[Mapping[str, Any]]], accepted: Collection[str]) -> None:
    """Raise ValueError for a model that fills masks in an input other than the accepted ones."""
    for name, given in inputs.items():
        if name not in accepted and any(map(fills_masks, given)):
            raise ValueError(
                f"input {name} fills masks, and here a model writes from left to right; accepted: a causal language model that was not "
                "trained with rows.masks"
            )


def subject_of(facts: Mapping[str, Any]) -> Subject:
    """Return what a model works on by its facts, as a forecast knows artifacts that are not made yet."""
    return next((subject for subject in SUBJECTS if subject.form and subject.form[0] in facts), CAUSAL)


def form_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a model's form, which a graph or a smaller model made of it keeps."""
    return {name: facts[name] for name in subject_of(facts).form if name in facts}
