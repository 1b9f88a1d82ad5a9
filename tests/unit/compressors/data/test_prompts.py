"""What begins and ends a prompt: BOS once, and the end that the chat template writes, for templates as real families have them."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from attar.compressors.data.prompts import (
    answer_tokens,
    chat_prompt,
    choice_tokens,
    encoded,
    end_token_id,
    stop_token_ids,
    text_windows,
)
from attar.compressors.data.turns import conversation_prompt, reply_tokens
from tests.chat_tokenizers import KINDS, chat_tokenizer

TURNS = [
    {"role": "user", "content": "One"},
    {"role": "assistant", "content": "Two"},
    {"role": "user", "content": "Three"},
]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_ends_as_the_template_ends_it(kind: str) -> None:
    tokenizer, end = chat_tokenizer(kind), KINDS[kind][-1]
    assert tokenizer.convert_ids_to_tokens(end_token_id(tokenizer)) == end
    assert answer_tokens(tokenizer, "Hi")[-1] == end_token_id(tokenizer)
    assert set(stop_token_ids(tokenizer)) == {end_token_id(tokenizer), tokenizer.eos_token_id}
    assert 7 in stop_token_ids(tokenizer, GenerationConfig(eos_token_id=[7]))


def test_without_any_end_the_answer_is_refused() -> None:
    tokenizer = chat_tokenizer("no template, bos and eos")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="nothing ends an answer: .* accepted: a model with one of the three"):
        answer_tokens(tokenizer, "Hi")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    with pytest.raises(ValueError, match="nothing ends an answer"):
        answer_tokens(tokenizer, "Hi")
    tokenizer.eos_token = "</s>"
    assert answer_tokens(tokenizer, "Hi")[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("kind", KINDS)
def test_bos_stands_once_wherever_the_tokenizer_or_the_template_puts_it(kind: str) -> None:
    tokenizer = chat_tokenizer(kind)
    _, bos, _, template, puts_bos, _ = KINDS[kind]
    has_bos = puts_bos or "bos_token" in template
    texts = [chat_prompt(tokenizer, "Why?"), encoded(tokenizer, "Question: x\nAnswer:")]
    assert [ids.count(tokenizer.bos_token_id) for ids in texts][:1] == [2 if bos == "<|im_start|>" else int(has_bos)]
    assert (texts[1][0] == tokenizer.bos_token_id) == puts_bos and tokenizer.eos_token_id not in texts[1]
    again = encoded(tokenizer, f"{bos}x") if puts_bos else []
    assert again.count(tokenizer.bos_token_id) == int(puts_bos), "a text that brings its BOS gets no second one"
    if puts_bos:
        assert encoded(tokenizer, f"{bos}{bos}x") == encoded(tokenizer, f"{bos}x")


@pytest.mark.parametrize("kind", ["gemma", "chatml"])
def test_every_window_of_a_text_begins_alike_and_no_token_is_lost(kind: str) -> None:
    tokenizer, text = chat_tokenizer(kind), "The boat came in at dawn. " * 9
    windows = text_windows(tokenizer, text, 32)
    plain = tokenizer(text, add_special_tokens=False).input_ids
    assert max(len(context) + len(part) for context, part in windows) == 32
    if kind == "gemma":
        assert all(context == [tokenizer.bos_token_id] for context, _ in windows)
        assert [token for _, part in windows for token in part] == plain, "and BOS predicts the first of them"
    else:
        assert [token for context, part in windows for token in (*context, *part)] == plain


def test_a_choice_is_read_behind_its_context() -> None:
    tokenizer = chat_tokenizer("gemma")
    context = encoded(tokenizer, "Question: x\nAnswer:")
    assert [*context, *choice_tokens(tokenizer, "Question: x\nAnswer:", "y")] == encoded(
        tokenizer, "Question: x\nAnswer: y"
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("no template, bos and eos", "llama2")])
def test_a_turn_behind_its_prompt_is_what_the_template_writes(kind: str) -> None:
    """The whole conversation, rendered once, begins with the prompt and the answer that are learned, to the byte."""
    tokenizer = chat_tokenizer(kind)
    prompt = conversation_prompt(tokenizer, TURNS, ())
    whole = tokenizer.apply_chat_template([*TURNS, {"role": "assistant", "content": "Four"}], tokenize=False)
    assert tokenizer.decode([*encoded(tokenizer, whole)]).startswith(
        tokenizer.decode([*prompt, *answer_tokens(tokenizer, "Four")])
    )
    assert reply_tokens(tokenizer, TURNS, {"role": "assistant", "content": "Four"}, ()) == answer_tokens(
        tokenizer, "Four"
    )


def test_earlier_turns_that_the_template_rewrites_are_learned_as_they_are_asked() -> None:
    """Qwen 3 drops what earlier turns thought: each turn stands behind the prompt that evaluation gives, so no mask is wrong."""
    tokenizer = chat_tokenizer("hermes")
    thought = [TURNS[0], {"role": "assistant", "content": "<think>hm</think>Two"}, TURNS[2]]
    first = tokenizer.decode(conversation_prompt(tokenizer, thought[:1], ()))
    second = tokenizer.decode(conversation_prompt(tokenizer, thought, ()))
    assert "hm" not in second and second.startswith(f"{first}Two<|im_end|>")


def test_a_call_of_a_tool_is_written_by_the_template_and_by_its_mask_alike() -> None:
    reply = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    tokenizer = chat_tokenizer("hermes")
    expected = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|im_end|>'
    assert tokenizer.decode(reply_tokens(tokenizer, TURNS, reply, TOOLS)) == expected
    masked = tokenizer.chat_template.replace("{% for c in", "{% generation %}{% for c in", 1)
    tokenizer.chat_template = masked.replace(
        "</tool_call>{% endfor %}", "</tool_call>{% endfor %}{% endgeneration %}", 1
    )
    assert tokenizer.decode(reply_tokens(tokenizer, TURNS, reply, TOOLS)) == expected, "the mask left the end out"


def test_what_the_template_cannot_say_is_refused_by_name() -> None:
    reply = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    with pytest.raises(ValueError, match="the chat template does not write tools: 'add'"):
        conversation_prompt(chat_tokenizer("chatml"), TURNS, TOOLS)
    with pytest.raises(ValueError, match="does not take turns of system, user: System role not supported"):
        conversation_prompt(chat_tokenizer("gemma"), [{"role": "system", "content": "Be brief"}, TURNS[0]], ())
    with pytest.raises(ValueError, match="no chat template, but the conversation has several turns"):
        conversation_prompt(chat_tokenizer("no template, bos and eos"), TURNS, ())
    silent = chat_tokenizer("hermes")
    silent.chat_template = silent.chat_template.replace(
        "{{ m['content'] }}", "{% if m['role'] != 'tool' %}{{ m['content'] }}{% endif %}"
    )
    with pytest.raises(ValueError, match="does not write a turn of tool: 'the result'"):
        conversation_prompt(silent, [*TURNS, {"role": "tool", "content": "the result"}], ())
    thinking = chat_tokenizer("hermes")
    thinking.chat_template = thinking.chat_template.replace(
        "<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n"
    )
    with pytest.raises(ValueError, match="writes the turns before an answer otherwise once the answer is there"):
        reply_tokens(thinking, TURNS, reply, TOOLS)
