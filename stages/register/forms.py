"""The forms of a version beside its Hugging Face folder, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterable

from attar.registry.artifacts.handles import (
    AnyGraph,
    CTranslate2Artifact,
    GgufArtifact,
    ModelArtifact,
    OnnxArtifact,
    OpenVinoArtifact,
    SamplerGraphArtifact,
)

Form = AnyGraph | SamplerGraphArtifact | GgufArtifact | ModelArtifact | OpenVinoArtifact | CTranslate2Artifact
# Words of a quantization that its folder need not repeat.
PLAIN_WORDS = ("none", "weights")


def forms_by_folder(graphs: Iterable[AnyGraph | SamplerGraphArtifact], others: Iterable[Form]) -> dict[str, Form]:
    """Return the forms by their folder in the version, graphs first: `onnx` has float32 weights, `onnx-float16` or `gguf-q8_0` say theirs.

    Raises ValueError for two of a kind, which would need one folder.
    """
    forms: dict[str, Form] = {}
    # MLmodel lists the first graph
    for slot, given in (
        ("onnx", sorted(graphs, key=lambda graph: folder_of(graph) != OnnxArtifact.kind)),
        ("forms", list(others)),
    ):
        for form in given:
            name = folder_of(form)
            if name in forms:
                what = "graphs" if form.is_graph else "forms"
                raise ValueError(
                    f"{slot}: two {what} of quantization {quantization(form)}; a version takes one of each"
                )
            forms[name] = form
    return forms


def folder_of(form: Form) -> str:
    """Return the name of a form's folder in the version. Its format, how its weights are held; of a graph what else is not the usual."""
    words = [word for word in quantization(form).lower().split() if word not in PLAIN_WORDS]
    words += [str(form.facts[name]) for name in ("precision", "operators") if name in form.facts]
    words += [f"{form.facts['cache']}-cache"] if "cache" in form.facts else []
    return "-".join([format_of(form), *words])


def format_of(form: Form) -> str:
    """Return what a form is written in: its kind, of an encoder's graph that of any graph."""
    return OnnxArtifact.kind if form.is_graph else form.kind


def quantization(form: Form) -> str:
    """Return how a form's weights are held; `none` for a graph's or folder's floats."""
    return form.facts.quantization or "none"
