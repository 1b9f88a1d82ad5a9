"""Read and write the folders of classifiers and taggers. The whole model or a refusal, in the form that transformers reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attar.compressors.encode.classifier import TextClassifier
from attar.registry.artifacts.facts import Facts
from attar.stages.artifacts.classifier.class_form import (
    HEADS,
    ClassForm,
    head_of,
    named_outputs,
    read_class_form,
    refuse_no_classifier,
)
from attar.stages.artifacts.encoder.folder import read_whole, sizes_of
from attar.stages.artifacts.model.folder import load_tokenizer, quiet_transformers
from attar.stages.artifacts.model.load_report import refuse_not_finite
from attar.stages.artifacts.model.older_form import write_older_tokenizer
from attar.stages.artifacts.model.safe_folder import refuse_unsafe
from attar.stages.artifacts.model.tokenizer_files import companion_bytes, copy_tokenizer

if TYPE_CHECKING:
    import transformers


def load_classifier(
    folder: Path,
    dtype: torch.dtype | str = "auto",
    device: torch.device | None = None,
    form: ClassForm | None = None,
) -> TextClassifier:
    """Load a safe folder of a classifier or tagger in evaluation mode. `form`: instead of what the folder says.

    Raises ValueError for an unsafe folder, another kind of model, and unless its weights are all there, finite, and its config's.
    """
    refuse_unsafe(folder)
    refuse_no_classifier(folder)
    form = form or read_class_form(folder)
    model = read_whole(folder, dtype, form.head.reader)
    refuse_not_finite(folder, model.state_dict())
    model = model.to(device=device) if device is not None else model  # type: ignore[call-arg]
    return TextClassifier(with_names(model, form), form.num_subclasses).eval()


def random_classifier(classifier: TextClassifier, seed: int) -> TextClassifier:
    """Return a classifier of the same shape whose weights are drawn with `seed`: it knows nothing."""
    import transformers  # there since the classifier is

    reader = next(head.reader for head in HEADS if type(classifier.model).__name__.endswith(head.ending))
    # transformers initialises from the global generator; forked, so that the caller's stays as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, reader).from_config(classifier.model.config, dtype=classifier.model.dtype)
    return TextClassifier(model.to(classifier.device), classifier.num_subclasses).eval()


def with_names(model: transformers.PreTrainedModel, form: ClassForm) -> transformers.PreTrainedModel:
    """Return the model with the names of its classes in its config."""
    for key, value in named_outputs(form).items():
        setattr(model.config, key, value)
    return model


def save_classifier(classifier: TextClassifier, folder: Path, tokenizer_from: Path | None = None) -> Any:
    """Write a classifier or tagger as safetensors with its tokenizer files, and return the handle with its facts."""
    quiet_transformers()
    classifier.model.save_pretrained(folder, safe_serialization=True)
    head = head_of(folder)
    assert head is not None, "a classifier has a head"
    if tokenizer_from is None:
        return head.model.at(folder, sizes_of(classifier.model))
    copy_tokenizer(tokenizer_from, folder)
    write_older_tokenizer(folder)
    facts = classifier_facts(classifier.model, read_class_form(folder), longest_text(folder))
    return head.model.at(folder, facts, companion_bytes=companion_bytes(folder))


def classifier_facts(model: transformers.PreTrainedModel, form: ClassForm, max_tokens: int) -> Facts:
    """Return the facts of a loaded classifier."""
    return {**sizes_of(model), **form.facts(max_tokens)}


def longest_text(folder: Path) -> int:
    """Return where a written folder's tokenizer cuts texts."""
    return int(load_tokenizer(folder).model_max_length)


def folder_facts(folder: Path, form: ClassForm, max_tokens: int) -> Facts:
    """Return the facts of a classifier's folder from its config.json and the headers of its weights, without memory for them."""
    refuse_unsafe(folder)
    refuse_no_classifier(folder)
    quiet_transformers()
    model = read_whole(folder, "auto", form.head.reader, device_map="meta")
    return {**classifier_facts(model, form, max_tokens), "companion_bytes": companion_bytes(folder)}
