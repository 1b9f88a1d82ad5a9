"""Tokenizers as GGUF says them: the name of the first cuts, merges, scores that merge in the order of merges, kinds of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attar.stages.artifacts.gguf.pre_tokenizers import EXPRESSIONS, pre_tokenizer_name, pre_tokenizer_of
from attar.stages.artifacts.gguf.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, vocabulary_of
from attar.stages.ingest.tiny_model import byte_tokenizer

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
NO_REGEX = {**BYTE_LEVEL, "use_regex": False}


def split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def cuts(*steps: dict[str, Any], ignore_merges: bool = False) -> dict[str, Any]:
    given = {"type": "Sequence", "pretokenizers": list(steps)} if len(steps) > 1 else steps[0]
    return {"pre_tokenizer": given, "model": {"ignore_merges": ignore_merges}}


@pytest.mark.parametrize(
    ("document", "name"),
    [
        (cuts(BYTE_LEVEL), "gpt-2"),
        (cuts({"type": "Digits", "individual_digits": True}, BYTE_LEVEL), "smollm"),
        (cuts(split(LLAMA3), NO_REGEX, ignore_merges=True), "llama-bpe"),
        (cuts(split(LLAMA3), NO_REGEX), "dbrx"),
        (cuts(split(LLAMA3.replace("{1,3}", "")), NO_REGEX), "qwen2"),
    ],
)
def test_first_cuts_have_llama_cpps_names(document: dict[str, Any], name: str) -> None:
    assert pre_tokenizer_name(document) == name


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (cuts({**BYTE_LEVEL, "add_prefix_space": True}), "add_prefix_space: true"),
        (cuts(split(r"\w+"), NO_REGEX), r"Split, ByteLevel by '\\\\w\+'"),
        (cuts(BYTE_LEVEL, ignore_merges=True), "words that are tokens taken whole"),
        (cuts({"type": "Whitespace"}), r"no name for this tokenizer's pre_tokenizer \(Whitespace\)"),
    ],
)
def test_cuts_without_a_name_are_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pre_tokenizer_name(document)


@pytest.mark.parametrize(
    "name", ["gpt-2", "smollm", *(name for names in EXPRESSIONS.values() for name in names if name)]
)
def test_a_name_and_its_cuts_lead_to_each_other(name: str) -> None:
    import json

    cut, ignores_merges = pre_tokenizer_of(name)
    inner = Tokenizer(models.BPE(vocab={"a": 0}, merges=[], ignore_merges=ignores_merges))
    inner.pre_tokenizer = cut
    assert pre_tokenizer_name(json.loads(inner.to_str())) == name
    assert cut.pre_tokenize_str("It's 2024!")


def test_a_byte_level_vocabulary(tmp_path: Path) -> None:
    vocabulary = vocabulary_of(byte_tokenizer(), tmp_path, 262)
    assert vocabulary.pieces.model == "gpt2" and vocabulary.pieces.pre == "gpt-2"
    assert vocabulary.tokens[:3] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert vocabulary.kinds[:4] == (CONTROL, CONTROL, CONTROL, NORMAL)
    assert vocabulary.tokens[-1] == "[PAD261]" and vocabulary.kinds[-3:] == (UNUSED,) * 3
    assert vocabulary.special == {"bos": 1, "eos": 2, "padding": 0}
    assert not vocabulary.adds_bos and vocabulary.chat_templates[""].startswith("{% for message")


def sentencepiece() -> PreTrainedTokenizerFast:
    """Merges `a b` before `b c`: of `abc` the tokens are `ab`, `c`."""
    words = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "c", "bc", "ab", "▁ab"]
    merges = [("a", "b"), ("b", "c"), ("▁", "ab")]
    model = models.BPE(
        vocab={word: index for index, word in enumerate(words)}, merges=merges, unk_token="<unk>", byte_fallback=True
    )
    inner = Tokenizer(model)
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore[assignment]
    inner.decoder = decoders.ByteFallback()  # type: ignore[assignment]
    inner.add_special_tokens(["<s>", "</s>"])
    inner.add_tokens(["▁▁note"])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_scores_of_a_sentencepiece_vocabulary_merge_in_the_order_of_its_merges(tmp_path: Path) -> None:
    vocabulary = vocabulary_of(sentencepiece(), tmp_path, 12)
    pieces = vocabulary.pieces
    assert pieces.model == "llama" and pieces.settings == {"add_space_prefix": True}
    scores = [(pieces.scores or {})[token] for token in ("ab", "bc", "▁ab", "a", "c")]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 5
    kinds = dict(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
    assert kinds["<unk>"] == UNKNOWN and kinds["<0x0A>"] == BYTE and kinds["</s>"] == CONTROL
    assert kinds["  note"] == USER_DEFINED, "llama.cpp looks for it in the text as it was given"


def test_unigram_scores_are_its_own(tmp_path: Path) -> None:
    inner = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.5), ("b", -2.25)], unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    vocabulary = vocabulary_of(tokenizer, tmp_path, 3)
    assert vocabulary.pieces.model == "t5" and vocabulary.pieces.scores == {"<unk>": 0.0, "▁a": -1.5, "b": -2.25}
    assert (vocabulary.pieces.settings or {})["add_space_prefix"] is True and vocabulary.kinds[0] == UNKNOWN


def test_a_vocabulary_that_llama_cpp_does_not_have_is_refused(tmp_path: Path) -> None:
    inner = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(ValueError, match="gguf cannot say a WordLevel tokenizer .*; accepted: byte-level BPE"):
        vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>"), tmp_path, 2)
    split_words = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    split_words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w"), "isolated")  # type: ignore[assignment]
    with pytest.raises(ValueError, match="gguf cannot say a BPE tokenizer without byte_fallback"):
        vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=split_words), tmp_path, 1)
