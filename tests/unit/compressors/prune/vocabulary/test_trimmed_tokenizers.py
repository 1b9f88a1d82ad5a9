"""A trimmed tokenizer cuts its corpus as the whole one does and writes any text; what must stay for that is looked for by its absence."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from attar.compressors.prune.vocabulary.bpe import Bpe
from attar.compressors.prune.vocabulary.document import named_tokens, piece_model, token_ids, trimmed_document
from attar.compressors.prune.vocabulary.selection import Selection, renumbering
from attar.compressors.prune.vocabulary.unigram import Unigram
from tests.trained_tokenizers import CORPUS, KINDS, LINES, byte_fallback, byte_level

WITH_BYTES = [name for name in KINDS if "byte" in name]


def trim(tokenizer: Any, texts: list[str], num_tokens: int | None = None) -> tuple[Any, dict[int, int]]:
    """Return the tokenizer with the tokens of the texts, and the new id of each old one."""
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = piece_model(document)
    ids = token_ids(document, pieces)
    selection = Selection(pieces, ids, len(ids), frozenset(named_tokens(document)))
    counts: dict[int, int] = {}
    for text in texts:
        for index in tokenizer(text, add_special_tokens=False).input_ids:
            counts[index] = counts.get(index, 0) + 1
    chosen = selection.used(counts) if num_tokens is None else selection.best(counts, num_tokens)
    new_ids = renumbering(chosen)
    inner = Tokenizer.from_str(json.dumps(trimmed_document(document, pieces, new_ids)))
    names = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **{k: v for k, v in names.items() if v}), new_ids


def pieces_of(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)


def any_texts(seed: int = 0, num_texts: int = 200) -> list[str]:
    """Texts of random characters from all of Unicode, and of words that were cut."""
    generator = random.Random(seed)
    ranges = [
        (0x20, 0x7E),
        (0xA1, 0x24F),
        (0x370, 0x52F),
        (0x5D0, 0x6FF),
        (0x900, 0x97F),
        (0x3040, 0x30FF),
        (0x4E00, 0x9FFF),
        (0x1F300, 0x1FAFF),
    ]
    texts = []
    for _ in range(num_texts):
        parts = [chr(generator.randint(*generator.choice(ranges))) for _ in range(generator.randint(1, 30))]
        words = generator.choice(LINES).split()
        texts.append("".join(parts) + " " + " ".join(generator.sample(words, 3)))
    return texts


@pytest.mark.parametrize("kind", KINDS)
def test_the_corpus_gets_the_same_pieces(kind: str) -> None:
    whole = KINDS[kind]()
    trimmed, new_ids = trim(whole, CORPUS)
    assert len(trimmed) == len(new_ids) < len(whole) and sorted(new_ids.values()) == list(range(len(new_ids)))
    for text in CORPUS:
        assert pieces_of(trimmed, text) == pieces_of(whole, text)
        # the numbers too, what is put around a text included
        assert trimmed(text).input_ids == [new_ids[index] for index in whole(text).input_ids]
    for mark in (whole.bos_token, whole.eos_token):
        assert trimmed.convert_tokens_to_ids(mark) == new_ids[whole.convert_tokens_to_ids(mark)]


@pytest.mark.parametrize("kind", WITH_BYTES)
def test_any_text_is_still_written_and_comes_back(kind: str) -> None:
    whole = KINDS[kind]()
    trimmed, _ = trim(whole, CORPUS)
    for text in any_texts():
        ids = trimmed(text, add_special_tokens=False).input_ids
        assert trimmed.unk_token_id not in ids
        assert trimmed.decode(ids) == whole.decode(whole(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("kind", [name for name in KINDS if name not in WITH_BYTES])
def test_without_bytes_no_character_becomes_unknown(kind: str) -> None:
    whole = KINDS[kind]()
    trimmed, _ = trim(whole, CORPUS)
    for text in [*LINES[:7], *any_texts(num_texts=50)]:
        ids = whole(text, add_special_tokens=False).input_ids
        own = trimmed(text, add_special_tokens=False).input_ids
        assert (whole.unk_token_id in ids) == (trimmed.unk_token_id in own)
        assert trimmed.decode(own) == whole.decode(ids)


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_a_missed_merge_ancestor_cuts_the_corpus_otherwise(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, ancestors = make(), Bpe.ancestors

    def without_the_last(self: Bpe, token: str) -> set[str]:
        return set(sorted(ancestors(self, token))[:-1])

    monkeypatch.setattr(Bpe, "ancestors", without_the_last)
    trimmed, _ = trim(whole, CORPUS)
    assert any(pieces_of(trimmed, text) != pieces_of(whole, text) for text in CORPUS)


def test_no_more_stays_than_is_formed_on_the_way() -> None:
    """Merges may lead to one token along several ways, as in tokenizers taken over from sentencepiece; only one is ever gone."""
    words = ["a", "b", "c", "ab", "bc", "abc"]
    model = {
        "type": "BPE",
        "vocab": {word: index for index, word in enumerate(words)},
        "merges": [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"]],
    }
    assert Bpe(model, False).ancestors("abc") == {"a", "b", "c", "bc"}


def test_merges_of_older_files_are_texts() -> None:
    model = {"vocab": {"a": 0, "b": 1, "ab": 2, "c": 3, "abc": 4}, "merges": ["a b", "ab c"]}
    trimmed = Bpe(model, False).trimmed({"a": 0, "b": 1, "ab": 2})
    assert trimmed["merges"] == ["a b"] and trimmed["vocab"] == {"a": 0, "b": 1, "ab": 2}


def test_pieces_within_words_and_at_their_ends_are_merged_from_characters() -> None:
    vocab = {word: index for index, word in enumerate(["l", "o", "w</w>", "lo", "low</w>", "##w", "##o", "##ow"])}
    ends = Bpe({"vocab": vocab, "merges": [["l", "o"], ["lo", "w</w>"]], "end_of_word_suffix": "</w>"}, False)
    assert ends.ancestors("low</w>") == {"l", "o", "w</w>", "lo"} and ends.text("low</w>") == "low"
    within = Bpe({"vocab": vocab, "merges": [["##o", "##w"]], "continuing_subword_prefix": "##"}, False)
    assert within.ancestors("##ow") == {"##o", "##w"} and within.always() == {"l", "o", "##w", "##o"}


def test_the_lowest_piece_stays_because_what_is_unknown_is_priced_by_it() -> None:
    """Unknown costs the lowest score and ten: without `zz` it would cost 22, and `cde` be cut as unknown and `de`."""
    vocab = [["<unk>", 0.0], ["cd", -12.0], ["e", -11.9], ["de", -1.0], ["zz", -20.0]]
    content = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}

    def cut(pieces: list) -> list[str]:
        return Tokenizer(models.Unigram([tuple(piece) for piece in pieces], 0, False)).encode("cde").tokens

    assert cut(vocab) == ["cd", "e"] and cut(vocab[:-1]) == ["c", "de"]
    assert "zz" in Unigram(content).always()
    assert Unigram(content).trimmed({"cd": 1, "e": 2, "<unk>": 0, "zz": 3})["vocab"] == [
        vocab[0],
        vocab[1],
        vocab[2],
        vocab[4],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_is_met_exactly_and_the_least_is_named(kind: str) -> None:
    whole = KINDS[kind]()
    with pytest.raises(ValueError, match=r"num_tokens is 3, but .* take \d+ tokens; accepted: \d+ to \d+") as refused:
        trim(whole, CORPUS, 3)
    least = int(str(refused.value).split(" take ")[1].split()[0])
    middle = (least + len(whole)) // 2
    for number in (least, middle, len(whole)):
        trimmed, _ = trim(whole, CORPUS, number)
        assert len(trimmed) == number
    assert len(pieces_of(trim(whole, CORPUS, middle)[0], CORPUS[0])) <= len(
        pieces_of(trim(whole, CORPUS, least)[0], CORPUS[0])
    )


def test_a_kind_without_fallback_is_refused() -> None:
    inner = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, "<unk>"))
    with pytest.raises(
        ValueError, match="of type 'WordLevel', which cannot be trimmed; accepted: BPE, Unigram, WordPiece"
    ):
        piece_model(json.loads(inner.to_str()))
