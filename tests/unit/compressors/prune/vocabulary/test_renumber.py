"""Ids in configs under another numbering, and scripts of texts."""

from __future__ import annotations

from typing import Any

import pytest

from attar.compressors.prune.vocabulary.renumber import named_ids, renumbered, resized
from attar.compressors.prune.vocabulary.scripts import in_scripts, letters_by_script

NEW_IDS = {0: 0, 2: 1, 5: 2, 9: 3}


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({"bos_token_id": 2, "hidden_size": 2}, {"bos_token_id": 1}),
        ({"eos_token_id": [2, 9]}, {"eos_token_id": [1, 3]}),
        ({"pad_token_id": 7}, {"pad_token_id": None}),
        ({"pad_token_id": -1, "sep_token_id": None}, {}),
        ({"image_token_index": 9}, {"image_token_index": 3}),
        ({"suppress_tokens": [1, 2, 5]}, {"suppress_tokens": [1, 2]}),
        ({"bad_words_ids": [[2, 5], [2, 3]]}, {"bad_words_ids": [[1, 2]]}),
        ({"bad_words_ids": [[3]]}, {"bad_words_ids": None}),
        ({"forced_decoder_ids": [[1, 5]]}, {"forced_decoder_ids": [[1, 2]]}),
        ({"force_words_ids": [[[2, 5]]]}, {"force_words_ids": [[[1, 2]]]}),
        ({"sequence_bias": [[[2, 9], -1.0], [[4], 2.0]]}, {"sequence_bias": [[[1, 3], -1.0]]}),
        ({"sequence_bias": {(2,): 1.0, (4,): 1.0}}, {"sequence_bias": {(1,): 1.0}}),
        ({"is_token_id_checked": True, "bos_token_id": 0}, {}),
    ],
)
def test_every_kind_of_id_is_renumbered(values: dict[str, Any], changes: dict[str, Any]) -> None:
    assert renumbered(values, NEW_IDS) == changes


def test_what_a_config_names_must_stay_but_what_it_forbids_need_not() -> None:
    values = {
        "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1, "unk_token_id": None, "use_cache": True,
        "forced_decoder_ids": [[1, 4]], "force_words_ids": [[5], [[6]]], "suppress_tokens": [7], "bad_words_ids": [[8]],
    }  # fmt: skip
    assert named_ids(values) == {1, 2, 3, 4, 5, 6}


def test_sizes_of_the_vocabulary_alone_are_changed() -> None:
    values = {"vocab_size": 64, "hidden_size": 64, "vocab_size_per_layer_input": 64}
    assert resized(values, 64, 9) == {"vocab_size": 9, "vocab_size_per_layer_input": 9}
    assert resized({"vocab_size": 64, "vocab_size_per_layer_input": 32}, 64, 9) == {"vocab_size": 9}


def test_scripts_of_texts() -> None:
    counts = letters_by_script(["Größe 12", "Привет, 你好"])
    assert counts == {"Latin": 5, "Cyrillic": 6, "Han": 2}
    latin = in_scripts(["Latin"])
    assert all(latin.fullmatch(text) for text in (" the", "12,5", "naïve", "e\u0301", "🙂"))
    assert not any(latin.fullmatch(text) for text in (" мир", "a你", "नि"))
    assert in_scripts(["Latin", "Cyrillic"]).fullmatch(" мир of")
