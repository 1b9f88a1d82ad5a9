"""A classifier of texts or a tagger of words as it comes in. A folder with a head over classes, or an encoder that gets a fresh one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attar.compressors.encode.classifier import TextClassifier, with_head
from attar.compressors.encode.encoder import Pooling
from attar.registry.artifacts.facts import Facts
from attar.stages.artifacts.classifier.class_form import (
    ClassForm,
    head_of,
    read_class_form,
    shortened,
)
from attar.stages.artifacts.classifier.folder import (
    classifier_facts,
    folder_facts,
    load_classifier,
    save_classifier,
    with_names,
)
from attar.stages.artifacts.encoder.folder import load_encoder, read_whole, refuse_no_encoder
from attar.stages.artifacts.encoder.modules_file import SentenceForm
from attar.stages.artifacts.encoder.proof import probe_vectors, prove_encoder
from attar.stages.artifacts.model.folder import load_tokenizer, quiet_transformers
from attar.stages.artifacts.model.safe_folder import refuse_unsafe
from attar.stages.artifacts.model.tokenizer_files import companion_bytes, refuse_no_tokenizer, without_rows
from attar.stages.ingest.encoder import check_text_source, cut_length, text_limit, write_tokenizer
from attar.stages.ingest.heads import HeadModel
from attar.stages.ingest.source_line import ModelSource, random_options, source_folder
from attar.stages.ingest.tiny_model import random_encoder
from attar.stages.runtime.progress import note

if TYPE_CHECKING:
    import transformers


def check_classifier_source(source: ModelSource, config: HeadModel, strip_from_names: list[str]) -> None:
    """Raise ValueError for a source that no classifier comes from, or that has no head and no labels."""
    check_text_source(source, strip_from_names, config.kind)
    if source.scheme == "random" and config.fresh_form is None:
        accepted = "a kind of span" if config.kind == "tagger" else "two names"
        raise ValueError(
            f"model.labels is empty, and a random: model has no labels of its own; accepted: {accepted} at least"
        )


def classifier_forecast(source: ModelSource, config: HeadModel) -> Facts:
    """Return the facts that can be told before fetching. Raises ValueError for a folder whose classes have no names."""
    fresh = config.fresh_form
    if source.scheme == "random" and fresh is not None:
        with torch.device("meta"):
            model = random_encoder(source.parts["family"], **random_options(source))[0]
            head = with_head(model, fresh.output_names, config.seed, config.head.reader)
        return classifier_facts(head, fresh, cut_length(model.config, config.max_tokens))
    if source.scheme == "folder":
        folder = source.path
        refuse_unsafe(folder)
        refuse_no_tokenizer(folder)
        form = _form(folder, config)
        if head_of(folder) is not None:
            return folder_facts(folder, form, text_limit(folder, config.max_tokens))
        refuse_no_encoder(folder)
        model = _under_head(read_whole(folder, "auto", device_map="meta"), form, config.seed)
        return classifier_facts(model, form, text_limit(folder, config.max_tokens, model.config))
    # where texts are cut is known when the model is there
    return {name: value for name, value in fresh.facts(0).items() if name != "max_tokens"} if fresh is not None else {}


def ingest_classifier(source: ModelSource, config: HeadModel, sha256: str, scratch: Path, content: Path) -> Any:
    """Write the classifier or tagger of a source as transformers lays it out, and prove it. Raises ValueError as `load_classifier` does."""
    quiet_transformers()
    folder = source_folder(source, sha256, scratch)
    if folder is None:
        form = config.fresh_form
        assert form is not None, "a random model without labels is refused while the recipe loads"
        encoder, tokenizer = random_encoder(source.parts["family"], **random_options(source))
        model = _under_head(encoder, form, config.seed)
        longest = cut_length(model.config, config.max_tokens)
    else:
        refuse_unsafe(folder)
        refuse_no_tokenizer(folder)
        tokenizer, form = load_tokenizer(folder), _form(folder, config)
        model = _model(folder, config, form)
        if form.reads_pairs and tokenizer.sep_token_id is None and getattr(model.config, "type_vocab_size", 0) > 1:
            raise ValueError(
                f"{folder}: the tokenizer has no sep_token, by which a {model.config.model_type} tells the texts of a pair apart; "
                "accepted: one that has"
            )
        longest = text_limit(folder, config.max_tokens, model.config)
    if form.reads_words and not tokenizer.is_fast:
        raise ValueError(
            f"{folder}: its tokenizer does not tell where tokens are in a text; accepted for a tagger: one with tokenizer.json"
        )
    if form.reads_pairs:  # by which the tokens of the second text are known
        model.config.sep_token_id = tokenizer.sep_token_id
    is_fresh = folder is None or head_of(folder) is None
    classifier = TextClassifier(with_names(model, form), form.num_subclasses).eval()
    expected = probe_vectors(classifier, "ingest_model")
    artifact = save_classifier(classifier, content)
    tokenizer.model_max_length = longest  # where texts are cut, for whoever reads the folder
    write_tokenizer(tokenizer, folder, content)
    del classifier, model
    prove_encoder(content, expected, "ingest_model", torch.device("cpu"), load_classifier)
    head = (
        f"; the head is fresh, drawn with seed {config.seed}: train it before anything is measured" if is_fresh else ""
    )
    what = "a scorer of pairs" if form.reads_pairs else f"a {config.kind} of {_names(form)}"
    note(f"{what}; texts cut at {longest} tokens{head}")
    beyond = {"num_tokens_without_row": len(without_rows(tokenizer)) or None}
    facts = artifact.facts | form.facts(longest) | beyond
    return config.artifact.at(content, facts, companion_bytes=companion_bytes(content))


def _form(folder: Path, config: HeadModel) -> ClassForm:
    """Return the classes of a folder, or those of the head that it gets. Raises ValueError where nothing names them."""
    if (head := head_of(folder)) is not None:
        if head is not config.head:
            raise ValueError(f"model.kind is {config.kind!r}, but {folder} has {head.words}; accepted: {head.kind}")
        form = read_class_form(folder, config.given)
        if form.reads_pairs != (config.kind == "pair_scorer"):
            has = "one output, which scores pairs" if form.reads_pairs else _names(form)
            kind = "pair_scorer" if form.reads_pairs else "classifier"
            raise ValueError(f"model.kind is {config.kind!r}, but {folder} has a head of {has}; accepted: {kind}")
        if config.num_subclasses not in (1, form.num_subclasses):
            raise ValueError(
                f"model.num_subclasses is {config.num_subclasses}, but {folder} has a head of {form.num_subclasses} a class; it is for fresh heads"
            )
        return form
    if config.fresh_form is None:
        raise ValueError(
            f"model.labels is empty, but {folder} has no {config.head.words.removeprefix('a ')} to take them from; "
            "accepted: the names of a fresh head's classes"
        )
    return config.fresh_form


def _names(form: ClassForm) -> str:
    return f"{len(form.labels)} {'tags' if form.reads_words else 'classes'}, {shortened(form.labels)}"


def _model(folder: Path, config: HeadModel, form: ClassForm) -> transformers.PreTrainedModel:
    if head_of(folder) is not None:
        return load_classifier(folder, form=form).model
    refuse_no_encoder(folder)
    # no vector is made of its states here: any pooling does
    return _under_head(load_encoder(folder, form=SentenceForm(pooling=Pooling())).model, form, config.seed)


def _under_head(encoder: transformers.PreTrainedModel, form: ClassForm, seed: int) -> transformers.PreTrainedModel:
    return with_head(encoder, form.output_names, seed, form.head.reader)
