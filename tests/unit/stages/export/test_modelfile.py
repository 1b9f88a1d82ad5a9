"""The Modelfile: turns read off a chat template, and left out where text around turns is not all that it does."""

from __future__ import annotations

from typing import Any

import pytest

from attar.stages.export.gguf.modelfile import chat_turns, modelfile
from attar.stages.ingest.tiny_model import byte_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_DEFAULT = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
COUNTING = (
    "{% for m in messages %}{{ loop.index }}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)


def tokenizer(template: str | None) -> Any:
    made = byte_tokenizer()
    made.chat_template = template
    return made


@pytest.mark.parametrize("template", [CHATML, WITH_DEFAULT], ids=["chatml", "with a default"])
def test_turns_are_read_off_a_template(template: str) -> None:
    turns = chat_turns(tokenizer(template))
    assert turns is not None
    assert turns.around["user"] == ("<|im_start|>user\n", "<|im_end|>\n") and turns.ask == "<|im_start|>assistant\n"
    assert turns.unasked == ("<|im_start|>system\nBe kind.<|im_end|>\n" if template == WITH_DEFAULT else "")


def test_a_modelfile_names_the_file_template_and_stops() -> None:
    text = modelfile(tokenizer(WITH_DEFAULT), [2], "model.gguf", adds_bos=False)
    assert text.startswith("FROM ./model.gguf\n") and 'PARAMETER stop "<|im_end|>"' in text
    assert '{{ if ne (index .Messages 0).Role "system" }}<|im_start|>system\nBe kind.' in text
    assert '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n{{ end }}' in text


@pytest.mark.parametrize("template", [COUNTING, None, "{{ raise_exception('no') }}"], ids=["counts", "none", "refuses"])
def test_a_template_that_does_more_is_left_to_the_file(template: str | None) -> None:
    assert chat_turns(tokenizer(template)) is None
    assert 'TEMPLATE "' not in modelfile(tokenizer(template), [2], "model.gguf", adds_bos=False)
