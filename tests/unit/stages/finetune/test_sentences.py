"""Sentences of an answer are cut in one place, the same for every tokenizer and for every stage that scores them."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attar.stages.finetune import sentence_scores
from attar.stages.finetune.sentence_scores import sentence_ends, token_pieces
from attar.stages.ingest.tiny_model import byte_tokenizer
from attar.stages.label import choose_answers

WORDS = ["One", "Two", "three", "costs", "3", ".", "14", "!", "Four", "\n", "five"]


def with_spaces_in_front() -> PreTrainedTokenizerFast:
    """As SentencePiece's: a word's token holds the space before it, which decoding a lone token takes away."""
    vocabulary = {word: index for index, word in enumerate([*WORDS, *(f"▁{word}" for word in WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="One"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def ids(tokenizer: PreTrainedTokenizerFast, *pieces: str) -> list[int]:
    return tokenizer.convert_tokens_to_ids(list(pieces))


def test_a_token_with_its_space_in_front_still_ends_a_sentence() -> None:
    tokenizer = with_spaces_in_front()
    answer = ids(tokenizer, "▁One", ".", "▁Two", "▁costs", "▁3", ".", "14", "!", "▁Four")
    assert tokenizer.decode(answer) == "One. Two costs 3.14! Four"
    assert tokenizer.decode(answer[2:3]) == "Two", "alone it has lost its space"
    assert sentence_ends(tokenizer, answer) == [2, 8, 9]


def test_a_decimal_point_ends_nothing_and_a_line_does() -> None:
    tokenizer = byte_tokenizer()
    text = "It costs 3.14. Good!\nYes"
    answer = tokenizer(text, add_special_tokens=False).input_ids
    assert len(answer) == len(text)
    assert sentence_ends(tokenizer, answer) == [len("It costs 3.14. "), len("It costs 3.14. Good!\n"), len(text)]


def test_half_a_character_is_no_sentence() -> None:
    tokenizer = byte_tokenizer()
    answer = tokenizer("Gut. Schön! Ja", add_special_tokens=False).input_ids
    assert sentence_ends(tokenizer, answer) == [5, 13, 15], "two bytes are one character"
    assert sentence_ends(tokenizer, answer[:9])[-1] == 9, "cut within one"


def test_the_pieces_of_a_long_answer_are_its_text() -> None:
    tokenizer = with_spaces_in_front()
    answer = ids(tokenizer, *(["▁One", ".", "▁Two", "▁costs", "▁3", ".", "14", "!", "\n"] * 40))
    pieces = token_pieces(tokenizer, answer)
    assert len(pieces) == len(answer) and "".join(pieces) == tokenizer.decode(answer)
    assert pieces[:4] == ["One", ".", " Two", " costs"]
    assert len(sentence_ends(tokenizer, answer)) == 40 * 2, "One. and Two costs 3.14!, behind which the line ends"


@pytest.mark.parametrize("num_tokens", [1, 2, 5])
def test_the_last_token_always_ends_a_sentence(num_tokens: int) -> None:
    tokenizer = with_spaces_in_front()
    answer = ids(tokenizer, "▁One", ".", "▁Two", "▁costs", "▁3")[:num_tokens]
    assert sentence_ends(tokenizer, answer)[-1] == num_tokens


def test_both_scores_cut_alike() -> None:
    assert choose_answers.sentence_ends is sentence_scores.sentence_ends
