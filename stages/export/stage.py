"""Stage `export`: a plain model in the form that a runtime reads. Accepted only when it writes the same text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import (
    AnyGraph,
    Artifact,
    ClassifierGraphArtifact,
    CTranslate2Artifact,
    EncoderGraphArtifact,
    GgufArtifact,
    ImageGraphArtifact,
    ModelArtifact,
    OpenVinoArtifact,
    SamplerGraphArtifact,
    TaggerGraphArtifact,
)
from attar.registry.artifacts.subjects import CAUSAL, CLASSIFIER, DENOISER, ENCODER, IMAGES, TAGGER, Subject, subject_of
from attar.stages.artifacts.images.fit import refuse_other_data
from attar.stages.contract import Forecast, stage
from attar.stages.export.classifier import export_classifier_graph
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.denoiser import export_sampler_graph, sampler_graph_forecast
from attar.stages.export.encoder import encoder_graph_forecast, export_encoder_graph, refuse_exits
from attar.stages.export.image_classifier import export_image_graph, image_graph_forecast
from attar.stages.export.rooms import ROOMS

# Of models of another subject than causal text: what is forecast and refused, how they are written, and as what.
FORECASTS = {
    ENCODER: encoder_graph_forecast,
    CLASSIFIER: encoder_graph_forecast,
    TAGGER: encoder_graph_forecast,
    IMAGES: image_graph_forecast,
    DENOISER: sampler_graph_forecast,
}
RUNS: dict[Subject, Callable[..., AnyGraph | SamplerGraphArtifact]] = {
    ENCODER: export_encoder_graph,
    CLASSIFIER: export_classifier_graph,
    TAGGER: export_classifier_graph,
    IMAGES: export_image_graph,
    DENOISER: export_sampler_graph,
}
GRAPHS: dict[Subject, type[Artifact]] = {
    ENCODER: EncoderGraphArtifact,
    CLASSIFIER: ClassifierGraphArtifact,
    TAGGER: TaggerGraphArtifact,
    IMAGES: ImageGraphArtifact,
    DENOISER: SamplerGraphArtifact,
}


def _forecast(config: ExportConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    form, model = config.format, inputs["model"][0]
    if model.get("quantization", "none") != "none":
        raise ValueError(
            f"format.kind is {form.kind!r}, but the input is in {model['quantization']}: export first, then quantize"
        )
    refuse_other_data(model, inputs.get("data", ()))
    if form.kind == "onnx":
        refuse_exits(form, model)
    if (forecast := FORECASTS.get(subject_of(model))) is not None:
        return forecast(config, model, {name: inputs[name] for name in ("guidance", "text") if inputs.get(name)})
    if inputs.get("guidance") and form.kind == "onnx" and form.is_rounded:
        field = f"precision is {form.precision!r}" if form.precision != "float32" else "cache.kind is 'int8'"
        raise ValueError(
            f"format.{field}, but the node has the input guidance; accepted: precision float32 and cache float"
        )
    if inputs.get("guidance") and not ROOMS[form.kind].takes_guidance(form):
        is_graph = form.kind == "onnx"
        field = "format.operators is 'standard'" if is_graph else f"format.kind is {form.kind!r}"
        raise ValueError(f"{field}, which has no input for guidance_scale; accepted: {'fused' if is_graph else 'onnx'}")
    return ROOMS[form.kind].forecast(form, model)


def _makes(config: ExportConfig, kind: type[Artifact] | None) -> type[Artifact]:
    return GRAPHS.get(kind.subject if kind else CAUSAL, config.format.makes)


@stage("export", version=5, forecast=_forecast, output=_makes, follows="model")
def export(
    config: ExportConfig, inputs: ExportInputs, workdir: Path
) -> AnyGraph | GgufArtifact | ModelArtifact | OpenVinoArtifact | CTranslate2Artifact | SamplerGraphArtifact:
    """Write a model in the form that a runtime reads, and compare that with torch on real prompts.

    onnx: in float32 or 16 bits, external data, what other runtimes read beside it. gguf: one file with tokenizer and template, and a Modelfile.
    compressed_tensors: a folder in 8 or 4 bits, codes chosen on the data's training rows, the loss held to limits on its held-out ones.
    openvino, ctranslate2: a folder in the runtime's own form, in floats or 8 bits, which that runtime reads beside torch.
    Of an encoder a graph that pools and normalizes itself, compared by its vectors; of a classifier, of texts or images, one that gives a
    logit a class; of a tagger one that gives a logit a tag for each token; of a denoiser its whole sampler, compared by its images.
    Raises ValueError for a family that the format cannot say, and when the text or the logits differ.
    """
    if (run := RUNS.get(inputs.model.subject)) is not None:
        return run(config, inputs, workdir / "content")
    return ROOMS[config.format.kind].run(config.format, config, inputs, workdir)  # type: ignore[return-value] - the format's kind
