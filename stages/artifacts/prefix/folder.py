"""Vectors before a prompt as a folder. Written, read, and put before a model or a graph that they were made for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from attar.compressors.distill.teachers.contexts import Demonstrations, Shown
from attar.compressors.models.adapted import VectorSource
from attar.compressors.models.runner import PrefixableRunner, PrefixedRunner
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Artifact, CompressorArtifact, PrefixArtifact
from attar.registry.artifacts.subjects import CAUSAL, subject_of

VECTORS_FILE, DEMONSTRATIONS_FILE = "prefix.safetensors", "demonstrations.json"
COMPRESSOR_FILE, COMPRESSOR_CONTEXT = "compressor.safetensors", "compressor.json"
NAME = "vectors"


@dataclass(frozen=True)
class StoodFor:
    """What vectors stand for: the demonstrations, and how a teacher reads them."""

    shown: Shown
    context: Demonstrations


def write_prefix(content: Path, vectors: Float[Tensor, "P D"], shown: Shown, context: Demonstrations) -> None:
    """Write vectors, in float32, and what they stand for."""
    content.mkdir(parents=True, exist_ok=True)
    save_file({NAME: vectors.detach().float().cpu().contiguous()}, content / VECTORS_FILE)
    pairs = [
        {"id": name, "question": question, "answer": answer}
        for name, (question, answer) in zip(shown.names, shown.pairs, strict=True)
    ]
    record = {"template": context.template, "demonstrations": pairs}
    (content / DEMONSTRATIONS_FILE).write_text(json.dumps(record, indent=1, ensure_ascii=False))


def read_vectors(prefix: PrefixArtifact) -> Float[Tensor, "P D"]:
    """Return the vectors. Raises ValueError for some that are no numbers."""
    vectors = load_file(prefix.path / VECTORS_FILE)[NAME]
    if not bool(torch.isfinite(vectors).all()):
        raise ValueError(f"{prefix.path / VECTORS_FILE} has vectors that are no numbers; train the prefix anew")
    return vectors


def read_stood_for(prefix: PrefixArtifact) -> StoodFor:
    """Return the demonstrations that the vectors stand for."""
    record = json.loads((prefix.path / DEMONSTRATIONS_FILE).read_text())
    rows = record["demonstrations"]
    shown = Shown(tuple(row["id"] for row in rows), tuple((row["question"], row["answer"]) for row in rows))
    return StoodFor(shown, Demonstrations(num_shown=len(rows), template=record["template"]))


def refuse_unfitting(prefix: Facts, model: Facts) -> None:
    """Raise ValueError for a prefix that a model cannot read, as far as facts tell before either is made."""
    if (subject := subject_of(model)) is not CAUSAL:
        raise ValueError(
            f"prefix: vectors stand before a prompt, and the model is {subject.words}; accepted: a causal language model"
        )
    if "format" in model and "prefix_model" not in model and model["format"] == "onnx":
        raise ValueError("prefix: the graph has no input for vectors; export it with format.takes_prefix: true")
    for name in ("hidden_size", "vocab_size"):
        if name in prefix and name in model and prefix[name] != model[name]:
            raise ValueError(
                f"prefix: made for a model with {name} {prefix[name]}, and this one has {model[name]}; accepted: one made for it"
            )


def refuse_other_model(prefix: Artifact[Any], model: Artifact[Any]) -> None:
    """Raise ValueError for a prefix or compressor that was made for a model of another fingerprint."""
    own = model.facts.get("prefix_model", "") if model.is_graph else model.fingerprint
    made_for = prefix.facts["model_fingerprint"]
    if made_for != own:
        what = "the graph was exported from" if model.is_graph else "the model is"
        raise ValueError(
            f"{prefix.kind}: made for the model {made_for[:12]}, and {what} {own[:12] or 'none that takes one'}; accepted: one made for it"
        )


def refuse_others_prefix(config: Any, inputs: Any) -> None:
    """Raise ValueError for a prefix that was made for another model. The check of stages with both as inputs."""
    if inputs.prefix is not None:
        refuse_other_model(inputs.prefix, inputs.model)


def prefixed(runner: PrefixableRunner, prefix: PrefixArtifact) -> PrefixedRunner:
    """Return the runner with the vectors before every text that it reads."""
    return PrefixedRunner(runner, runner.take_vectors(read_vectors(prefix)))


def write_compressor(content: Path, compressor: VectorSource, context: Demonstrations) -> None:
    """Write a compressor, and how the teacher that it learned from reads demonstrations."""
    content.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.cpu().contiguous() for name, weight in compressor.state_dict().items()}
    save_file(weights, content / COMPRESSOR_FILE)
    record = {"num_shown": context.num_shown, "template": context.template}
    (content / COMPRESSOR_CONTEXT).write_text(json.dumps(record, indent=1, ensure_ascii=False))


def load_compressor(compressor: CompressorArtifact, into: Any) -> None:
    """Give a compressor the weights of a stored compressor. Raises ValueError for one of another size."""
    stored = load_file(compressor.path / COMPRESSOR_FILE)
    own = into.state_dict()
    differing = sorted(
        name
        for name in stored.keys() | own.keys()
        if name not in stored or name not in own or stored[name].shape != own[name].shape
    )
    if differing:
        facts = compressor.facts
        raise ValueError(
            f"start: a compressor of {facts.num_vectors} vectors and {facts.num_compressor_blocks} blocks does not fit this one, in {differing[0]} "
            "for one; accepted: the same num_vectors and num_blocks"
        )
    into.load_state_dict(stored)


def read_context(compressor: CompressorArtifact) -> Demonstrations:
    """Return how the teacher that a compressor learned from reads demonstrations."""
    return Demonstrations(**json.loads((compressor.path / COMPRESSOR_CONTEXT).read_text()))
