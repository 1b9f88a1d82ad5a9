"""Conversations of both forms: the turns that are learned, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attar.stages.artifacts.dataset.cells import BlankCellError
from attar.stages.artifacts.dataset.dialogues import turns_of

USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
TOOL_TURNS = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def test_each_turn_of_the_assistant_is_learned_behind_all_before_it() -> None:
    system = {"role": "system", "content": "Be brief."}
    turns, tools, unread = turns_of(
        {"messages": [system, USER, REPLY, {"role": "user", "content": "More"}, REPLY]}, "messages"
    )
    assert [turn.answer for turn in turns] == ["Hello", "Hello"] and [turn.is_last for turn in turns] == [False, True]
    assert [len(turn.messages) for turn in turns] == [2, 4] and turns[1].messages[:2] == turns[0].messages
    assert turns[1].question == "system: Be brief.\n\nuser: Hi\n\nassistant: Hello\n\nuser: More"
    assert tools == [] and unread == set()


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"conversations": {"from": ["human", "gpt"], "value": ["Hi", "Hello"]}},
        {"conversations": json.dumps([USER, REPLY])},
        # a table of rows of both forms
        {
            "conversations": [
                USER | {"from": None, "value": None},
                {"role": None, "content": None, "from": "gpt", "value": "Hello"},
            ]
        },
        {
            "conversations": [
                {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                REPLY,
            ]
        },
        {
            "conversations": [
                USER | {"name": None, "tool_calls": None},
                REPLY | {"weight": 1},
                {"role": "user", "content": "bye"},
            ]
        },
    ],
)
def test_both_forms_say_the_same(record: dict[str, Any]) -> None:
    turns, _, _ = turns_of(record, "conversations")
    assert [(turn.messages, turn.answer, turn.reply) for turn in turns] == [([USER], "Hello", {})]
    assert turns[0].question == "Hi", "a lone question is asked as it is"


def test_tool_calls_come_with_their_arguments_as_a_mapping() -> None:
    turns, tools, _ = turns_of({"messages": TOOL_TURNS, "tools": json.dumps(TOOLS)}, "messages")
    assert tools == TOOLS and len(turns) == 2
    assert turns[0].reply["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1, "b": 2}}
    assert turns[0].answer == '{"name": "add", "arguments": {"a": 1, "b": 2}}' and not turns[1].reply
    share_gpt = [
        {"from": "human", "value": "Hi"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1, "b": 2}}'},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "It is 3."},
    ]
    others, _, _ = turns_of({"conversations": share_gpt}, "conversations")
    assert [turn.answer for turn in others] == [turn.answer for turn in turns]


def test_a_turn_of_weight_zero_is_context_alone() -> None:
    turns, _, _ = turns_of({"messages": [USER, REPLY | {"weight": 0}, USER, REPLY]}, "messages")
    assert [len(turn.messages) for turn in turns] == [3]


def test_a_system_column_comes_first_and_other_keys_are_told() -> None:
    turns, _, unread = turns_of({"messages": [USER | {"timestamp": 3}, REPLY], "system": "Be brief."}, "messages")
    assert turns[0].messages[0] == {"role": "system", "content": "Be brief."} and unread == {"timestamp"}


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([USER], "no turn of the assistant"),
        ([REPLY, USER, REPLY], "begins with the assistant"),
        ([USER, REPLY, REPLY], r"messages\[2\] is a second turn of the assistant"),
        ([USER, {"role": "system", "content": "x"}, REPLY], r"messages\[1\] is a system turn"),
        ([USER, {"role": "tool", "content": "3"}, REPLY], r"messages\[1\] answers a tool call that nobody made"),
        ([*TOOL_TURNS[:2], TOOL_TURNS[2] | {"tool_call_id": "c9"}, REPLY], r"answers the call 'c9', which nobody made"),
        ([{"role": "bot", "content": "x"}, REPLY], r"messages\[0\] has the role 'bot'; accepted: system"),
        ([{"role": ["user"], "content": "x"}, REPLY], r"messages\[0\] has the role"),
        ([{"role": "user", "content": 5}, REPLY], r"messages\[0\] is a number; accepted: text"),
        ([{"role": "user", "content": "a \ud83d"}, REPLY], r"messages\[0\] holds half a character"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, REPLY], r"messages\[0\] has parts that are no text"),
        ([USER, REPLY | {"reasoning_content": "hm"}], r"messages\[1\] has reasoning_content, which is not read"),
        ([USER, REPLY | {"weight": 2}], r"messages\[1\].weight is 2; accepted: 0"),
        ([USER | {"tool_calls": [CALL]}, REPLY], "calls tools as user"),
        (
            [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}],
            "are no mapping",
        ),
        (
            [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": None}}}]}],
            "hold null",
        ),
        ([USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}], "no function with a name"),
        (["Hi", "Hello"], "messages is no list of turns"),
        ("Hi", "messages is no JSON"),
        ('{"role": "user"}', "messages is no list of turns"),
        ('[{"role": "user", "content": "a", "content": "b"}]', "messages is no JSON"),
        ([USER | {"value": "Ho"}, REPLY], r"messages\[0\] has content and value, and they differ"),
        ([USER | {"from": "gpt"}, REPLY], r"messages\[0\] has role and from, and they differ"),
        ([USER, REPLY | {"train": False}], r"messages\[1\] has train, which is not read"),
        ([USER, REPLY | {"loss_weight": 0}], r"messages\[1\] has loss_weight, which is not read"),
        ([USER | {"tool_calls": "x", "function_call": {"name": "f"}}, REPLY], "tool_calls is no list"),
        ({"role": ["user"], "content": ["a", "b"]}, "lists of different lengths"),
    ],
)
def test_what_no_template_could_take_is_refused(turns: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        turns_of({"messages": turns}, "messages")


@pytest.mark.parametrize(
    "turns", [None, [], [{"role": "user", "content": " "}, REPLY], [USER, {"role": "assistant", "content": None}]]
)
def test_an_empty_turn_is_a_blank_cell(turns: Any) -> None:
    with pytest.raises(BlankCellError):
        turns_of({"messages": turns}, "messages")


def test_tools_under_their_first_name_are_tools() -> None:
    [turn], tools, _ = turns_of({"messages": [USER, REPLY], "functions": [TOOLS[0]["function"]]}, "messages")
    assert tools == TOOLS and turn.answer == "Hello"
    with pytest.raises(ValueError, match="the row has tools and functions, and they differ"):
        turns_of({"messages": [USER, REPLY], "functions": [{"name": "g"}], "tools": TOOLS}, "messages")


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("{", "tools is no JSON"),
        (json.dumps([{"name": "f", "parameters": json.loads('{"a":' * 80 + "1" + "}" * 80)}]), "nested deeper than 64"),
        ({"name": "f"}, "tools is no list"),
        ([{"type": "function"}], "tools holds one without a name"),
    ],
)
def test_tools_are_schemas_with_a_name(tools: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        turns_of({"messages": [USER, REPLY], "tools": tools}, "messages")
