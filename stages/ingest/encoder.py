"""A sentence encoder as it comes in. From a folder, sentence-transformers' or a transformer's alone, with its pooling said or asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from attar.compressors.encode.encoder import SentenceEncoder
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.handles import Artifact, EncoderArtifact, ModelArtifact
from attar.stages.artifacts.encoder.folder import (
    default_form,
    described,
    encoder_facts,
    folder_facts,
    form_facts,
    load_encoder,
    refuse_no_encoder,
    save_encoder,
)
from attar.stages.artifacts.encoder.latent_tokens import (
    LatentTokens,
    add_latent_tokens,
    grown,
    latent_names,
    num_latent_tokens,
    refuse_lost_words,
    refuse_too_many,
    with_latent_tokens,
)
from attar.stages.artifacts.encoder.modules_file import SentenceForm, read_form, stored_limit
from attar.stages.artifacts.encoder.proof import probe_vectors, prove_encoder
from attar.stages.artifacts.model.folder import load_tokenizer, quiet_transformers
from attar.stages.artifacts.model.older_form import write_older_tokenizer
from attar.stages.artifacts.model.safe_folder import refuse_unsafe
from attar.stages.artifacts.model.tokenizer_files import (
    add_tokenizer_files,
    companion_bytes,
    refuse_changed_tokens,
    refuse_no_tokenizer,
    without_rows,
)
from attar.stages.contract import StageConfig
from attar.stages.ingest.source_line import FORMS, ModelSource, random_options, source_folder
from attar.stages.ingest.tiny_model import ENCODER_FAMILIES, random_encoder
from attar.stages.runtime.progress import note

# What some tokenizers give for "no limit", 10^30.
NO_LIMIT = 1_000_000
LATENT_FIELD = "model.latent.num_tokens"
# Positions that these families do not count from the first: their padding has the first two.
OFFSET_FAMILIES = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}


class CausalModel(StageConfig):
    """A causal language model: it writes, token by token."""

    kind: Literal["causal"] = "causal"
    """A causal language model: it writes, token by token."""

    artifact: ClassVar[type[Artifact[Any]]] = ModelArtifact


class SentenceModel(StageConfig):
    """An encoder that makes a vector of a text."""

    kind: Literal["encoder"] = "encoder"
    """An encoder that makes a vector of a text."""

    pooling: Literal["", "mean", "cls", "max", "mean_sqrt_len"] = ""
    """How the states of a text's tokens become its vector; empty: as the folder's modules.json says, without one mean."""

    is_normalized: bool | None = None
    """Whether vectors have length one; null: as the folder's modules.json says, without one false."""

    max_tokens: int = Field(default=0, ge=0)
    """Where texts are cut, special tokens included; 0: as the folder says, without that at the last position that the model has."""

    query_prompt: str | None = None
    """What stands before every question, such as "query: "; null: as the folder's config_sentence_transformers.json says."""

    document_prompt: str | None = None
    """What stands before every text of a corpus, such as "passage: "; null: as the folder says."""

    latent: LatentTokens | None = None
    """Latent tokens before each text, {num_tokens: 3}, in which a retriever thinks; null: as many as the folder has."""

    artifact: ClassVar[type[Artifact[Any]]] = EncoderArtifact

    @model_validator(mode="after")
    def _leaves_a_text_room(self) -> SentenceModel:
        if self.latent is not None and self.max_tokens:
            refuse_too_many(self.latent.num_tokens, self.max_tokens, 0, LATENT_FIELD, "model.max_tokens")
        return self


def check_text_source(source: ModelSource, strip_from_names: Sequence[str], kind: str = "encoder") -> None:
    """Raise ValueError for a source that no model which reads whole texts comes from."""
    is_folder = source.scheme in ("folder", "hub", "models") or (source.scheme == "wheel" and source.rest.endswith("/"))
    if source.scheme == "random" and source.parts["family"] not in ENCODER_FAMILIES:
        raise ValueError(
            f"source is {source.scheme}:{source.rest}, but model.kind is {kind!r}; accepted: random: and one of "
            f"{', '.join(ENCODER_FAMILIES)}"
        )
    if not is_folder and source.scheme != "random":
        accepted = ", ".join(FORMS[name] for name in ("folder", "hub", "models"))
        raise ValueError(
            f"source is a {source.scheme}: file, but model.kind is {kind!r}; accepted: {accepted}, wheel:PROJECT==VERSION/FOLDER/, random:bert"
        )
    if strip_from_names:
        raise ValueError(f"strip_from_names is for causal models; accepted with model.kind {kind!r}: none")


def encoder_forecast(source: ModelSource, config: SentenceModel) -> Facts:
    """Return the facts that can be told before fetching. That it is an encoder is one of them."""
    if source.scheme == "random":
        with torch.device("meta"):
            model, tokenizer = random_encoder(source.parts["family"], **random_options(source))
        form = _form(None, config, model.config)
        return _with_latent(encoder_facts(model, form), form, tokenizer, config)
    if source.scheme == "folder":
        form = _prompted(default_form(source.path, *_wanted(config)), source.path, config)
        facts = {**folder_facts(source.path, form), "max_tokens": text_limit(source.path, config.max_tokens)}
        return _with_latent(facts, form, load_tokenizer(source.path), config) if config.latent is not None else facts
    return form_facts(_prompted(default_form(None, *_wanted(config)), None, config))


def _with_latent(facts: Facts, form: SentenceForm, tokenizer: Any, config: SentenceModel) -> Facts:
    """Return the facts of an encoder as latent tokens will make it. Raises ValueError for more than its texts leave room for."""
    if config.latent is None:
        return facts
    num_special, words = tokenizer.num_special_tokens_to_add(), tokenizer.get_vocab()
    refuse_too_many(config.latent.num_tokens, int(facts["max_tokens"]), num_special, LATENT_FIELD, "max_tokens")
    return facts if latent_names(1)[0] in words else grown(facts, num_latent_tokens(form), len(words))


def ingest_encoder(
    source: ModelSource, config: SentenceModel, sha256: str, scratch: Path, content: Path
) -> EncoderArtifact:
    """Write the encoder of a source as sentence-transformers lays it out, and prove it. Raises ValueError as `load_encoder` does."""
    quiet_transformers()
    folder = source_folder(source, sha256, scratch)
    if folder is None:
        model, tokenizer = random_encoder(source.parts["family"], **random_options(source))
        form = _form(None, config, model.config)
    else:
        refuse_unsafe(folder)
        refuse_no_encoder(folder)
        refuse_no_tokenizer(folder)
        tokenizer = load_tokenizer(folder)
        stored = default_form(folder, *_wanted(config))
        refuse_lost_words(stored, tokenizer)
        model = load_encoder(folder, form=stored).model
        form = _form(folder, config, model.config)
    if count := num_latent_tokens(form):
        num_special = tokenizer.num_special_tokens_to_add()
        refuse_too_many(count, form.max_tokens, num_special, LATENT_FIELD, "max_tokens")
        add_latent_tokens(model, tokenizer, count)
    encoder = SentenceEncoder(model, form.pooling).eval()
    expected = probe_vectors(encoder, "ingest_model")
    artifact = save_encoder(encoder, content, form)
    write_tokenizer(tokenizer, folder, content)
    del encoder, model
    prove_encoder(content, expected, "ingest_model", torch.device("cpu"))
    note(f"a sentence encoder: {described(artifact.facts)}")
    if any(form.prompts):
        note("before a question stands {!r}, before a text of a corpus {!r}".format(*form.prompts))
    beyond = {"num_tokens_without_row": len(without_rows(tokenizer)) or None}
    return EncoderArtifact.at(content, artifact.facts | beyond, companion_bytes=companion_bytes(content))


def _form(folder: Path | None, config: SentenceModel, model_config: Any) -> SentenceForm:
    """Return the form with the length at which texts are cut. Raises ValueError for one that the model has no positions for."""
    form, wanted = default_form(folder, *_wanted(config)), config.max_tokens
    longest = cut_length(model_config, wanted) if folder is None else text_limit(folder, wanted, model_config)
    form = SentenceForm(pooling=form.pooling, max_tokens=longest, settings=form.settings)
    return _prompted(form, folder, config)


def _prompted(form: SentenceForm, folder: Path | None, config: SentenceModel) -> SentenceForm:
    """Return the form with the prompts and latent tokens that are asked for, else those of the folder."""
    stored = read_form(folder) if folder is not None else None
    return with_latent_tokens(form.with_prompts(config.query_prompt, config.document_prompt), config.latent, stored)


def text_limit(folder: Path, wanted: int, model_config: Any = None) -> int:
    """Return where a folder's texts are cut: as `wanted`, else as sentence-transformers or the tokenizer say, at the last position.

    Raises ValueError for more than the model has positions.
    """
    from transformers import AutoConfig  # a second that a plan need not wait for

    model_config = model_config or AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return cut_length(model_config, wanted, stored_limit(folder) or load_tokenizer(folder).model_max_length)


def cut_length(model_config: Any, wanted: int, stored: Any = NO_LIMIT) -> int:
    """Return where texts are cut: as `wanted`, else as what is stored says, at most at the last position. Raises ValueError past that."""
    positions = int(model_config.max_position_embeddings) - OFFSET_FAMILIES.get(model_config.model_type, 0)
    if wanted > positions:
        raise ValueError(f"max_tokens is {wanted}, but the model has {positions} positions; accepted: 1 to {positions}")
    is_count = isinstance(stored, int | float) and not isinstance(stored, bool) and 1 <= stored < NO_LIMIT
    return wanted or min(positions, int(stored) if is_count else positions)


def _wanted(config: SentenceModel) -> tuple[str, bool | None, int]:
    return config.pooling, config.is_normalized, config.max_tokens


def write_tokenizer(tokenizer: Any, folder: Path | None, content: Path) -> None:
    """Write the tokenizer as transformers does, what that leaves out of its folder, and the words that older readers know."""
    tokenizer.save_pretrained(content)
    if folder is not None:
        add_tokenizer_files(folder, content)
    write_older_tokenizer(content)
    refuse_changed_tokens(tokenizer, load_tokenizer(content))
