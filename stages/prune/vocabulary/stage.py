"""Stage `trim_vocabulary`: keep the tokens that a corpus needs, in tokenizer, embedding and head alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.compressors.measure.same_logits import difference
from attar.compressors.prune.vocabulary.document import trimmed_document
from attar.compressors.prune.vocabulary.tables import cut_vocabulary, kept_logprobs, num_rows, probe_logprobs
from attar.registry.artifacts.facts import Facts
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.handles import ModelArtifact
from attar.stages.artifacts.model.folder import load_model, load_tokenizer, save_model
from attar.stages.artifacts.model.proof import kept_logits, prove_written
from attar.stages.artifacts.model.size_forecast import stored_bytes, with_tokens
from attar.stages.artifacts.model.tokenizer_files import companion_bytes
from attar.stages.contract import Forecast, stage
from attar.stages.prune.vocabulary.choice import Choice, Words, choose_tokens
from attar.stages.prune.vocabulary.config import TrimVocabularyConfig, TrimVocabularyInputs
from attar.stages.prune.vocabulary.corpus import Corpus, refuse_other_language
from attar.stages.prune.vocabulary.pieces_proof import Agreement, agreement, check_tokens
from attar.stages.prune.vocabulary.tokenizer_folder import write_trimmed_tokenizer
from attar.stages.runtime.device import pick_device
from attar.stages.runtime.progress import metric, note

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

NAME = "trim_vocabulary"
# Of the largest log-probability: the same rows, multiplied in products of another size.
TOLERANCES = {"float32": 1e-6, "bfloat16": 1e-2, "float16": 2e-3}


def _forecast(config: TrimVocabularyConfig, inputs: Mapping[str, tuple[Facts, ...]]) -> Forecast:
    model, num_tokens = inputs["model"][0], config.num_tokens
    if not inputs.get("data"):
        raise ValueError("data: no data set is given; accepted: rows and texts of the kind that the model is for")
    size = model.get("vocab_size")
    if num_tokens is not None and size is not None and num_tokens >= int(size):
        raise ValueError(f"num_tokens is {num_tokens}, but the model has {size}; accepted: 1 to {int(size) - 1}")
    num_bytes = 4.0 * float(model.get("num_parameters", 0))
    facts = with_tokens(model, num_tokens)
    return Forecast(facts, peak_memory_bytes=2 * num_bytes, disk_bytes=stored_bytes(facts) or num_bytes)


@stage(NAME, version=1, forecast=_forecast)
def trim_vocabulary(config: TrimVocabularyConfig, inputs: TrimVocabularyInputs, workdir: Path) -> ModelArtifact:
    """Keep the tokens that a corpus, the chat template, bytes and special tokens need, in tokenizer, embedding and head.

    The corpus must get the same pieces as before, and a kept token the log-probability that it had among the kept ones, which is tried
    on what was written. Raises ValueError for an empty corpus, one in another language than the chat template, a number of tokens below
    what must stay, a tokenizer that cannot be trimmed, or when the proof fails.
    """
    folder, device = inputs.model.path, pick_device()
    words = Words.of(load_tokenizer(folder))
    corpus = Corpus.read(inputs.data, words.tokenizer)
    refuse_other_language(corpus, words.tokenizer, config.keep_scripts)
    model = load_model(folder, "auto", device)
    choice = choose_tokens(config, folder, words, corpus, rows := num_rows(model))
    expected = _cut(model, choice.kept_ids)
    content = workdir / "content"
    artifact = save_model(model, content)
    del model
    document = trimmed_document(words.document, words.pieces, choice.new_ids)
    left_out = write_trimmed_tokenizer(folder, content, document, choice.new_ids)
    if left_out:
        note(f"left out, since they hold the whole vocabulary: {', '.join(left_out)}")
    coverage = _prove_pieces(words, content, corpus, choice)
    prove_written(content, expected, NAME, device)
    _record(content, choice)
    num_kept, now = len(choice.kept_ids), artifact.facts
    removed = {
        "num_removed_tokens": rows - num_kept,
        "num_removed_parameters": inputs.model.facts.num_parameters - now.num_parameters,
    }
    note(f"kept {num_kept:,} of {rows:,} tokens: {removed['num_removed_parameters']:,} parameters are gone")
    facts: dict[str, Any] = {**now, **removed, "coverage": coverage}
    facts |= {"companion_bytes": companion_bytes(content)}  # the tokenizer came after the weights
    facts |= {name: inputs.model.facts[name] for name in ("removed_blocks",) if name in inputs.model.facts}
    return ModelArtifact.at(content, facts)


def _cut(model: PreTrainedModel, kept_ids: list[int]) -> Tensor:
    """Cut in place and return the logits on the proof's prompts; kept tokens must say what they said among themselves."""
    whole = kept_logprobs(model, kept_ids)
    cut_vocabulary(model, kept_ids)
    error, dtype = difference(whole, probe_logprobs(model)), str(model.dtype).removeprefix("torch.")
    if not error <= TOLERANCES.get(dtype, 1e-2):
        raise ValueError(
            f"{NAME}: {type(model).__name__} says something else of the kept tokens than before, {error:.2g} of the largest "
            "log-probability apart; its family is not taken"
        )
    metric("proof_kept_logprob_error", error)
    return kept_logits(model, NAME)


def _prove_pieces(words: Words, content: Path, corpus: Corpus, choice: Choice) -> float:
    """Read the written tokenizer as anyone would, and cut the corpus and the held-out rows by both.

    Return the share of the held-out tokens that stayed, of the corpus's where nothing is held out. Raises ValueError where the corpus is
    cut otherwise though all that it uses is there.
    """
    trimmed = load_tokenizer(content)
    check_tokens(trimmed, choice.tokens)
    on_corpus = agreement(words.tokenizer, trimmed, choice.new_ids, corpus.texts, "proving pieces")
    if choice.is_whole and on_corpus.num_same_texts < on_corpus.num_texts:
        raise ValueError(
            f"{NAME}: {on_corpus.num_texts - on_corpus.num_same_texts} of {on_corpus.num_texts} texts of the corpus get other pieces, "
            f"such as {on_corpus.example[:60]!r}; this tokenizer is not taken"
        )
    _tell("corpus", on_corpus)
    if not corpus.heldout:
        return on_corpus.coverage
    on_heldout = agreement(words.tokenizer, trimmed, choice.new_ids, corpus.heldout, "cutting held-out texts")
    _tell("heldout", on_heldout)
    return on_heldout.coverage


def _tell(name: str, result: Agreement) -> None:
    metric(f"{name}_same_fraction", result.same_fraction)
    metric(f"{name}_coverage", result.coverage)
    metric(f"{name}_token_ratio", result.token_ratio)
    note(
        f"{name}: {result.num_same_texts:,} of {result.num_texts:,} texts have the same pieces; {result.coverage:.2%} of the tokens "
        f"stayed, and the trimmed tokenizer writes {result.token_ratio:.3f} times as many"
    )
    if result.num_changed_texts:
        note(
            f"warning: {name}: {result.num_changed_texts:,} texts do not come back as before: the tokenizer has no bytes"
        )


def _record(content: Path, choice: Choice) -> None:
    """Write the id that each row had, and its token: the weights no longer tell."""
    tokens = {index: token for token, index in choice.ids.items()}
    (content / RECORDS_FOLDER).mkdir(exist_ok=True)
    entries = {"old_ids": choice.kept_ids, "tokens": [tokens[index] for index in choice.kept_ids]}
    (content / RECORDS_FOLDER / "kept_tokens.json").write_text(json.dumps(entries, ensure_ascii=False))
