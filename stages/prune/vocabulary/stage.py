"""Stage `trim_vocabulary`: keep the tokens that a corpus needs, in tokenizer, embedding and head alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.compressors.measure.same_logits import difference
from attar.compressors.prune.vocabulary.document import (
    Document,
    PieceModel,
    named_tokens,
    piece_model,
    token_ids,
    trimmed_document,
)
from attar.compressors.prune.vocabulary.renumber import named_ids
from attar.compressors.prune.vocabulary.scripts import in_scripts
from attar.compressors.prune.vocabulary.selection import Selection, renumbering
from attar.compressors.prune.vocabulary.tables import cut_vocabulary, kept_logprobs, num_rows, probe_logprobs
from attar.registry.artifacts.fingerprint import RECORDS_FOLDER
from attar.registry.artifacts.handles import Facts, ModelArtifact
from attar.stages.artifacts.model.folder import load_model, load_tokenizer, save_model
from attar.stages.artifacts.model.proof import kept_logits, prove_written
from attar.stages.artifacts.model.safe_folder import read_object
from attar.stages.artifacts.model.size_forecast import stored_bytes, with_tokens
from attar.stages.artifacts.model.tokenizer_files import CONFIG_FILES, companion_bytes
from attar.stages.contract import Forecast, stage
from attar.stages.prune.vocabulary.config import TrimVocabularyConfig, TrimVocabularyInputs
from attar.stages.prune.vocabulary.corpus import Corpus, count_tokens, refuse_other_language, template_texts
from attar.stages.prune.vocabulary.pieces_proof import Agreement, agreement, check_tokens
from attar.stages.prune.vocabulary.tokenizer_folder import tokenizer_document, write_trimmed_tokenizer
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
    return Forecast(facts, peak_memory_bytes=2 * num_bytes, disk_bytes=stored_bytes(facts or model) or num_bytes)


@stage(NAME, version=1, forecast=_forecast)
def trim_vocabulary(config: TrimVocabularyConfig, inputs: TrimVocabularyInputs, workdir: Path) -> ModelArtifact:
    """Keep the tokens that the corpus, the chat template, bytes and special tokens need; cut tokenizer, embedding and head to them.

    The corpus must get the same pieces as before, and a kept token the log-probability that it had among the kept ones, which is tried
    on what was written. Raises ValueError for an empty corpus, one in another language than the chat template, a number of tokens below
    what must stay, a tokenizer that cannot be trimmed, or when the proof fails.
    """
    tokenizer = load_tokenizer(inputs.model.path)
    document = tokenizer_document(tokenizer)
    pieces = piece_model(document)
    corpus = Corpus.read(inputs.data, tokenizer)
    refuse_other_language(corpus, tokenizer, config.keep_scripts)
    device = pick_device()
    model = load_model(inputs.model.path, "auto", device)
    ids, rows = token_ids(document, pieces), num_rows(model)
    named = frozenset(_named(inputs.model.path, document) | set(count_tokens(tokenizer, template_texts(tokenizer), "template")))
    selection = Selection(pieces, ids, rows, named)
    used, chosen = _chosen(config, selection, count_tokens(tokenizer, corpus.texts, "counting tokens"))
    new_ids = renumbering(chosen)
    kept_ids = [index for index in new_ids if index < rows]
    if len(kept_ids) == rows:
        raise ValueError(f"the corpus and what must stay take all {rows} tokens: nothing can be cut; give num_tokens")
    num_parameters = int(inputs.model.facts["num_parameters"])
    expected = _cut(model, kept_ids)
    content = workdir / "content"
    artifact = save_model(model, content)
    del model
    left_out = write_trimmed_tokenizer(
        inputs.model.path, content, trimmed_document(document, pieces, new_ids), new_ids
    )
    on_corpus, on_heldout = _prove_pieces(tokenizer, content, corpus, new_ids, ids, is_whole=used <= chosen)
    prove_written(content, expected, NAME, device)
    _record(content, kept_ids, ids)
    removed = {
        "num_removed_tokens": rows - len(kept_ids),
        "num_removed_parameters": num_parameters - int(artifact.facts["num_parameters"]),
    }
    _report(len(kept_ids), removed, on_corpus, on_heldout, left_out)
    facts: Facts = {**artifact.facts, **removed, "coverage": (on_heldout or on_corpus).coverage}
    facts |= {"companion_bytes": companion_bytes(content)}  # the tokenizer came after the weights
    facts |= {name: inputs.model.facts[name] for name in ("removed_blocks",) if name in inputs.model.facts}
    return ModelArtifact.at(content, **facts)


def _named(folder: Path, document: Document) -> set[int]:
    """Return the ids that tokenizer, config and generation config name."""
    configs = [read_object(folder / name) for name in CONFIG_FILES if (folder / name).exists()]
    return named_tokens(document).union(*(named_ids(config) for config in configs))


def _chosen(config: TrimVocabularyConfig, selection: Selection, counts: Mapping[int, int]) -> tuple[set[int], set[int]]:
    """Return what the corpus takes, and what stays."""
    pieces: PieceModel = selection.pieces
    used = selection.used(counts)
    frequent = {index: count for index, count in counts.items() if count >= config.min_count}
    preferred: set[int] = set()
    if config.keep_scripts:
        pattern, texts = in_scripts(config.keep_scripts), {token: pieces.text(token) for token in pieces.ids}
        preferred = {pieces.ids[token] for token, text in texts.items() if text is not None and pattern.fullmatch(text)}
    if config.num_tokens is None:
        return used, selection.used({*frequent, *preferred})
    return used, selection.best(frequent, config.num_tokens, preferred)


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


def _prove_pieces(
    whole: Any, content: Path, corpus: Corpus, new_ids: Mapping[int, int], ids: Mapping[str, int], *, is_whole: bool
) -> tuple[Agreement, Agreement | None]:
    """Read the written tokenizer as anyone would, and cut the corpus and the held-out rows by both. Raises ValueError where they differ."""
    trimmed = load_tokenizer(content)
    num_kept = int(read_object(content / "config.json")["vocab_size"])
    tokens = {token: new_ids[index] for token, index in ids.items() if index in new_ids}
    check_tokens(trimmed, {token: index for token, index in tokens.items() if index < num_kept})
    on_corpus = agreement(whole, trimmed, new_ids, corpus.texts, "proving pieces")
    if is_whole and on_corpus.num_same_texts < on_corpus.num_texts:
        raise ValueError(
            f"{NAME}: {on_corpus.num_texts - on_corpus.num_same_texts} of {on_corpus.num_texts} texts of the corpus get other pieces, "
            f"such as {on_corpus.example[:60]!r}; this tokenizer is not taken"
        )
    heldout = agreement(whole, trimmed, new_ids, corpus.heldout, "held-out pieces") if corpus.heldout else None
    return on_corpus, heldout


def _report(
    num_kept: int, removed: Mapping[str, int], on_corpus: Agreement, on_heldout: Agreement | None, left_out: list[str]
) -> None:
    note(
        f"kept {num_kept:,} tokens, removed {removed['num_removed_tokens']:,} and with them {removed['num_removed_parameters']:,} parameters"
    )
    for name, result in {"corpus": on_corpus, **({"heldout": on_heldout} if on_heldout else {})}.items():
        metric(f"{name}_same_fraction", result.same_fraction)
        metric(f"{name}_coverage", result.coverage)
        metric(f"{name}_token_ratio", result.token_ratio)
        note(
            f"{name}: {result.num_same_texts:,} of {result.num_texts:,} texts have the same pieces; {result.coverage:.2%} of the tokens "
            f"stayed, and the trimmed tokenizer writes {result.token_ratio:.3f} times as many"
        )
        if result.num_changed_texts:
            note(f"warning: {name}: {result.num_changed_texts:,} texts are not given back as before: the tokenizer has no bytes")
    if left_out:
        note(f"left out, since they hold the whole vocabulary: {', '.join(left_out)}")


def _record(content: Path, kept_ids: list[int], ids: Mapping[str, int]) -> None:
    """Write the id that each row had, and its token: row by row, the embedding no longer tells."""
    tokens = {index: token for token, index in ids.items()}
    (content / RECORDS_FOLDER).mkdir(exist_ok=True)
    entries = {"old_ids": kept_ids, "tokens": [tokens[index] for index in kept_ids]}
    (content / RECORDS_FOLDER / "kept_tokens.json").write_text(json.dumps(entries, ensure_ascii=False))
