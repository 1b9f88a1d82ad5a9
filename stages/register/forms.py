"""The forms of a version beside its Hugging Face folder, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterable

from attar.registry.artifacts.handles import (
    CTranslate2Artifact,
    GgufArtifact,
    ModelArtifact,
    OnnxArtifact,
    OpenVinoArtifact,
)

Form = OnnxArtifact | GgufArtifact | ModelArtifact | OpenVinoArtifact | CTranslate2Artifact
# Words of a quantization that its folder need not repeat.
PLAIN_WORDS = ("none", "weights")


def forms_by_folder(graphs: Iterable[OnnxArtifact], others: Iterable[Form]) -> dict[str, Form]:
    """Return the forms by their folder in the version, graphs first: `onnx` has float32 weights, `onnx-int8` or `gguf-q8_0` say theirs.

    Raises ValueError for two of a kind, which would need one folder.
    """
    forms: dict[str, Form] = {}
    # MLmodel lists the first graph
    for slot, given in (
        ("onnx", sorted(graphs, key=lambda graph: quantization(graph) != "none")),
        ("forms", list(others)),
    ):
        for form in given:
            name = folder_of(form)
            if name in forms:
                what = "graphs" if form.kind == OnnxArtifact.kind else "forms"
                raise ValueError(
                    f"{slot}: two {what} of quantization {quantization(form)}; a version takes one of each"
                )
            forms[name] = form
    return forms


def folder_of(form: Form) -> str:
    """Return the name of a form's folder in the version: its kind, how its weights are held, and a graph's operators unless the usual."""
    words = [word for word in quantization(form).lower().split() if word not in PLAIN_WORDS]
    return "-".join([form.kind, *words, *([str(form.facts["operators"])] if "operators" in form.facts else [])])


def quantization(form: Form) -> str:
    """Return how a form's weights are held; `none` for a graph's or folder's floats."""
    return form.facts.quantization or "none"
