"""How a folder names its classes: `id2label` of its config.json. Whether texts or words have them, and how many outputs make a class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.compressors.data.spans import wrong_tags
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import (
    Artifact,
    ClassifierArtifact,
    ClassifierGraphArtifact,
    TaggerArtifact,
    TaggerGraphArtifact,
)
from attar.stages.artifacts.model.safe_folder import ENCODER_FAMILIES, read_object


@dataclass(frozen=True)
class Head:
    """What puts classes on texts or on words. `ending`: of the name of its model's class; `reader`: transformers' word for such models."""

    ending: str
    reader: str
    kind: str
    words: str
    model: type[Artifact[Any]]
    graph: type[Artifact[Any]]


TEXT_HEAD = Head(
    "ForSequenceClassification",
    "AutoModelForSequenceClassification",
    "classifier",
    "a head over classes",
    ClassifierArtifact,
    ClassifierGraphArtifact,
)
WORD_HEAD = Head(
    "ForTokenClassification",
    "AutoModelForTokenClassification",
    "tagger",
    "a head over tags of words",
    TaggerArtifact,
    TaggerGraphArtifact,
)
HEADS = (TEXT_HEAD, WORD_HEAD)
# What transformers calls a class that nobody has named.
UNNAMED = re.compile(r"LABEL_\d+")
# Key of a config.json: outputs of the head a class. Class by class, named `label#0`, `label#1` and so on.
SUBCLASSES, MARK = "num_subclasses", "#"
ONE_CLASS_A_TEXT = "single_label_classification"
# What a head of one output tells of two texts: its logit is that of the second, 0 that of the first.
PAIR_LABELS = ("apart", "alike")


@dataclass(frozen=True, kw_only=True)
class ClassForm:
    """The names of the classes in the order of the logits, and how many outputs of the head each has.

    `reads_pairs`: a row is two texts, and the head has a single output, how alike they are. `reads_words`: each word has a class, a tag.
    """

    labels: tuple[str, ...]
    num_subclasses: int = 1
    reads_pairs: bool = False
    reads_words: bool = False

    @property
    def head(self) -> Head:
        """What puts them on texts or on words."""
        return WORD_HEAD if self.reads_words else TEXT_HEAD

    @property
    def output_names(self) -> list[str]:
        """The names of the head's outputs."""
        if self.reads_pairs:
            return [self.labels[1]]
        if self.num_subclasses == 1:
            return list(self.labels)
        return [f"{label}{MARK}{index}" for label in self.labels for index in range(self.num_subclasses)]

    def facts(self, max_tokens: int) -> Facts:
        """Return what it adds to a classifier's facts."""
        named: Facts = {"labels": self.labels, "num_subclasses": self.num_subclasses, "max_tokens": max_tokens}
        more: Facts = {name: True for name in ("reads_pairs", "reads_words") if getattr(self, name)}
        return {**named, **more}


PAIR_FORM = ClassForm(labels=PAIR_LABELS, reads_pairs=True)


def head_of(folder: Path) -> Head | None:
    """Return the head of a folder's model; None where it has none over classes."""
    what = _architecture(read_object(folder / "config.json"))
    return next((head for head in HEADS if what.endswith(head.ending)), None)


def refuse_no_classifier(folder: Path) -> None:
    """Raise ValueError unless a folder's config is that of a classifier of texts of a family that is taken."""
    config = read_object(folder / "config.json")
    family, what = config.get("model_type"), _architecture(config)
    if config.get("is_encoder_decoder") or config.get("is_decoder") or family not in ENCODER_FAMILIES:
        raise ValueError(
            f"{folder} is a {what or family}; as a classifier are accepted: {', '.join(ENCODER_FAMILIES)} without a decoder"
        )
    if not what.endswith(tuple(head.ending for head in HEADS)):
        accepted = " or ".join(f"a {head.ending}" for head in HEADS)
        raise ValueError(f"{folder} is a {what or family}, which has no head over classes; accepted: {accepted}")
    if config.get("problem_type") not in (None, ONE_CLASS_A_TEXT) and len(config.get("id2label") or "ab") > 1:
        raise ValueError(
            f"{folder}: problem_type is {config['problem_type']!r}; accepted: {ONE_CLASS_A_TEXT}, of which each text has a single class"
        )
    if "quantization_config" in config:
        raise ValueError(f"{folder} holds packed weights (quantization_config); accepted: a classifier in floats")


def read_class_form(folder: Path, given: Sequence[str] = ()) -> ClassForm:
    """Return the classes of a classifier's folder. Names that are `given` stand in for those of a folder that has none.

    Raises ValueError for a folder without labels, or with others than those given.
    """
    config = read_object(folder / "config.json")
    named, num_subclasses = config.get("id2label"), config.get(SUBCLASSES, 1)
    if not isinstance(named, Mapping) or not isinstance(num_subclasses, int) or num_subclasses < 1:
        named, num_subclasses = {"0": "LABEL_0", "1": "LABEL_1"}, 1  # what transformers reads in no names
    outputs = outputs_of(folder, named)
    reads_words = head_of(folder) is WORD_HEAD
    if len(outputs) == 1 and not reads_words:
        return PAIR_FORM
    labels = tuple(output.rpartition(MARK)[0] for output in outputs[::num_subclasses])
    labels = labels if num_subclasses > 1 else tuple(outputs)
    if len(labels) < 2 or len(labels) * num_subclasses != len(outputs):
        raise ValueError(f"{folder}: its head has {len(outputs)} outputs; accepted: two classes at least")
    if all(UNNAMED.fullmatch(label) for label in labels):
        if len(given) != len(labels):
            named_there = f"model.labels has {len(given)} names" if given else "model.labels names none"
            raise ValueError(
                f"{folder}: config.json has no labels ({labels[0]}, {labels[1]}), and {named_there}; accepted: {len(labels)} names there"
            )
        return ClassForm(labels=tuple(given), num_subclasses=num_subclasses, reads_words=reads_words)
    for wrong in wrong_tags(labels) if reads_words else ():
        raise ValueError(f"{folder}: its head over words has {wrong}")
    if given and tuple(given) != labels:
        raise ValueError(
            f"model.labels is {', '.join(given)}, but {folder} has a head over {shortened(labels)}; accepted: these, or none"
        )
    return ClassForm(labels=labels, num_subclasses=num_subclasses, reads_words=reads_words)


def outputs_of(folder: Path, named: Mapping[Any, Any]) -> list[str]:
    """Return the names in an `id2label` in the order of their outputs. Raises ValueError unless they are names, numbered from 0."""
    by_number = {str(number): name for number, name in named.items()}
    numbers = [str(index) for index in range(len(named))]
    if by_number.keys() != {*numbers}:
        wrong = next(number for number in by_number if number not in numbers)
        raise ValueError(
            f"{folder}: id2label of config.json has a class of number {wrong[:40]!r}; accepted: each from 0 to {len(named) - 1} once"
        )
    names = [by_number[number] for number in numbers]
    for number, name in zip(numbers, names, strict=True):
        is_name = isinstance(name, str) or (isinstance(name, int | float) and not isinstance(name, bool))
        if not is_name or not str(name).strip():
            raise ValueError(
                f"{folder}: id2label of config.json names class {number} {str(name)[:40]!r}; accepted: a word"
            )
    return [str(name) for name in names]


def named_outputs(form: ClassForm) -> dict[str, Any]:
    """Return the keys of a config.json that name a form's outputs."""
    outputs = form.output_names
    named = {
        "id2label": dict(enumerate(outputs)),
        "label2id": {name: index for index, name in enumerate(outputs)},
        "problem_type": None if form.reads_pairs or form.reads_words else ONE_CLASS_A_TEXT,
    }
    return named | ({SUBCLASSES: form.num_subclasses} if form.num_subclasses > 1 else {})


def shortened(labels: Sequence[str]) -> str:
    """Return the names of classes for a line: the first few of many."""
    return ", ".join(labels) if len(labels) <= 8 else f"{', '.join(labels[:6])} and {len(labels) - 6} more"


def wrong_names(labels: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with names of classes that are given."""
    if len(labels) == 1:
        yield f"labels is {labels[0]!r} alone; accepted: two classes at least"
    for label in labels:
        if not label.strip() or len(label.splitlines()) > 1 or MARK in label:
            yield f"labels has {label[:60]!r}; accepted: words on a line, without {MARK}"
        if labels.count(label) > 1:
            yield f"labels has {label[:60]!r} twice; accepted: each once"


def _architecture(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""
