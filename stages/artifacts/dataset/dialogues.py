"""Conversations of a data set, in OpenAI's or ShareGPT's form, as one row for each turn of the assistant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attar.stages.artifacts.dataset.cells import BlankCellError, is_blank, json_of, plain, text_cell

# What a turn's speaker is called, in both forms -> as chat templates know it.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
}
# Keys of a turn that change what is said or learned, and that are not read.
REFUSED_KEYS = (
    *("reasoning_content", "reasoning", "thinking", "audio", "images", "refusal", "parts"),
    # which turns are learned, as several trainers write it
    *("loss", "loss_weight", "loss_mask", "mask", "train", "train_detail", "trainable", "training"),
)
# Columns with the tools that a conversation may call; the second is what OpenAI called them first.
TOOL_COLUMNS = ("tools", "functions")
READ_KEYS = ("role", "from", "content", "value", "name", "tool_calls", "tool_call_id", "function_call", "weight")


@dataclass(frozen=True)
class Turn:
    """One turn of the assistant that is learned: what comes before, what it says, and whether another one follows."""

    messages: list[dict[str, Any]]
    answer: str
    # the whole message where it calls tools, which only the chat template can write
    reply: dict[str, Any] = field(default_factory=dict)
    is_last: bool = True

    @property
    def question(self) -> str:
        """All that comes before as readable text; of a lone user turn what the user says."""
        return transcript(self.messages)


def turns_of(
    record: Mapping[str, Any], name: str, *, system: str = "system"
) -> tuple[list[Turn], list[dict[str, Any]], set[str]]:
    """Return the assistant's turns in a record's conversation, its tools, and the keys of its turns that are not read.

    Raises BlankCellError for a turn without text, ValueError for an order or a form that no template takes.
    """
    messages, weights, unread = [], [], set[str]()
    for index, turn in enumerate(_list_of(record[name], name)):
        messages.append(_message(turn, f"{name}[{index}]"))
        weights.append(_weight(turn, f"{name}[{index}]"))
        unread |= {key for key, value in turn.items() if key not in READ_KEYS and not is_blank(value)}
    if name != system and not is_blank(record.get(system)):
        if messages and messages[0]["role"] == "system":
            raise ValueError(f"{name} begins with a system turn and the column {system!r} holds another; accepted: one")
        messages.insert(0, {"role": "system", "content": text_cell(record[system], system)})
        weights.insert(0, True)
    _check_order(messages, name)
    last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
    turns = [
        _turn(messages[:index], message, is_last=index == last)
        for index, message in enumerate(messages)
        if message["role"] == "assistant" and weights[index]
    ]
    return turns, _tools(_either(record, TOOL_COLUMNS, "the row")), unread


def transcript(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return messages as readable text, each under its role; a lone user turn is its content."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {turn_text(message)}" for message in messages)


def turn_text(message: Mapping[str, Any]) -> str:
    """Return what a message says as text: its content, and the tools that it calls as JSON."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", [])]
    return "\n".join(part for part in (message["content"], *calls) if part)


def _turn(before: list[dict[str, Any]], message: dict[str, Any], *, is_last: bool) -> Turn:
    return Turn(before, turn_text(message), message if "tool_calls" in message else {}, is_last)


def _list_of(cell: Any, name: str) -> list[Mapping[str, Any]]:
    """Return the turns in a cell: a list of mappings, that as JSON text, or, as `datasets` gives some, a mapping of lists."""
    cell = _json(cell, name) if isinstance(cell, str) and not is_blank(cell) else cell
    if is_blank(cell) or cell == []:
        raise BlankCellError(f"{name} is empty; accepted: a list of turns")
    if isinstance(cell, Mapping) and all(isinstance(column, list) for column in cell.values()):
        if len({len(column) for column in cell.values()}) != 1:
            raise ValueError(f"{name} is a mapping of lists of different lengths; accepted: a list of turns")
        cell = [dict(zip(cell, values, strict=True)) for values in zip(*cell.values(), strict=True)]
    if not isinstance(cell, list) or not all(isinstance(turn, Mapping) for turn in cell):
        raise ValueError(f"{name} is no list of turns; accepted: [{{role, content}}, ...] or [{{from, value}}, ...]")
    return cell


def _message(turn: Mapping[str, Any], name: str) -> dict[str, Any]:
    if refused := [key for key in REFUSED_KEYS if not is_blank(turn.get(key)) and turn[key] != []]:
        raise ValueError(f"{name} has {refused[0]}, which is not read; accepted: {', '.join(READ_KEYS)}")
    speaker = _either(turn, ("role", "from"), name)
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise ValueError(f"{name} has the role {str(speaker)[:40]!r}; accepted: {', '.join(ROLES)}")
    text = _either(turn, ("content", "value"), name)
    if speaker == "function_call":
        return {"role": role, "content": "", "tool_calls": [_call(text, name)]}
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ValueError(f"{name}.tool_calls is no list; accepted: a list of {{function: {{name, arguments}}}}")
    if not is_blank(turn.get("function_call")):
        calls = [*calls, turn["function_call"]]
    if calls and role != "assistant":
        raise ValueError(f"{name} calls tools as {role}; accepted: the assistant alone")
    content = "" if calls and (is_blank(text) or text == []) else _content(text, name)
    message: dict[str, Any] = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = [_call(call, name) for call in calls]
    names = {
        key: text_cell(turn[key], f"{name}.{key}") for key in ("name", "tool_call_id") if not is_blank(turn.get(key))
    }
    return message | names


def _either(turn: Mapping[str, Any], keys: tuple[str, str], name: str) -> Any:
    """Return what a turn says under OpenAI's key or under ShareGPT's: a table of both forms has null in one of them."""
    given = {key: turn[key] for key in keys if key in turn and turn[key] is not None}
    if len(given) == 2 and given[keys[0]] != given[keys[1]]:
        raise ValueError(f"{name} has {keys[0]} and {keys[1]}, and they differ; accepted: one of them")
    return next(iter(given.values()), None)


def _content(text: Any, name: str) -> str:
    """Return the text of a turn: text, or a list of text parts, which are put together as they are."""
    if isinstance(text, list):
        if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in text):
            raise ValueError(f"{name} has parts that are no text; accepted: {{type: text, text: ...}}")
        text = "".join(text_cell(part.get("text"), f"{name} text part") for part in text)
    return text_cell(text, name)


def _weight(turn: Mapping[str, Any], name: str) -> bool:
    """Return whether a turn is learned: OpenAI's `weight`, 0 or 1."""
    weight = turn.get("weight")
    if is_blank(weight):
        return True
    if isinstance(weight, bool) or weight not in (0, 1):
        raise ValueError(f"{name}.weight is {str(weight)[:20]}; accepted: 0 (not learned) or 1")
    return bool(weight)


def _call(call: Any, name: str) -> dict[str, Any]:
    """Return a tool call with its arguments as a mapping, as chat templates want it."""
    call = _json(call, f"{name}: a tool call")
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or is_blank(function["name"]):
        raise ValueError(
            f"{name}: a tool call has no function with a name; accepted: {{function: {{name, arguments}}}}"
        )
    given = function.get("arguments") or {}
    where = f"{name}: the arguments of {function['name'][:40]!r}"
    arguments = _json(given, where)
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{where} are no mapping; accepted: JSON {{name: value}}")
    # a table of structs fills what a call does not say with null: nobody could tell it from a null that was meant
    if not isinstance(given, str) and None in arguments.values():
        raise ValueError(f"{where} hold null, which a table puts where nothing was; accepted: arguments as JSON text")
    made = {"type": "function", "function": {"name": function["name"], "arguments": plain(dict(arguments))}}
    return made if is_blank(call.get("id")) else {"id": text_cell(call["id"], f"{name}: id")} | made


def _tools(cell: Any) -> list[dict[str, Any]]:
    """Return the tools of a row: a list of JSON schemas, or that as JSON text."""
    if is_blank(cell) or cell == []:
        return []
    tools = _json(cell, "tools")
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ValueError(
            "tools is no list of mappings; accepted: a list of {type: function, function: {name, parameters}}"
        )
    if unnamed := [tool for tool in tools if not isinstance(_function(tool).get("name"), str)]:
        raise ValueError(
            f"tools holds one without a name ({', '.join(map(str, unnamed[0]))[:60]}); accepted: {{function: {{name, ...}}}}"
        )
    return [plain({"type": "function", "function": dict(_function(tool))}) for tool in tools]


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function", tool)
    return function if isinstance(function, Mapping) else {}


def _json(cell: Any, name: str) -> Any:
    if not isinstance(cell, str):
        return cell
    try:
        return json_of(cell)
    except ValueError as error:
        raise ValueError(f"{name} is no JSON; accepted: a JSON object, or it as text") from error


def _check_order(messages: Sequence[Mapping[str, Any]], name: str) -> None:
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise ValueError(f"{name}[{roles.index('system', 1)}] is a system turn; accepted: one, at the beginning")
    if "assistant" not in roles:
        raise ValueError(
            f"{name} has no turn of the assistant: there is nothing to learn; accepted: a conversation with an answer"
        )
    if "user" not in roles[: roles.index("assistant")]:
        raise ValueError(f"{name} begins with the assistant; accepted: a turn of the user before its first")
    called: set[str] = set()
    for index, message in enumerate(messages):
        before = roles[index - 1] if index else ""
        if roles[index] == "assistant" == before:
            raise ValueError(
                f"{name}[{index}] is a second turn of the assistant in a row; accepted: a user's or a tool's between them"
            )
        if roles[index] == "tool" and "tool_calls" not in messages[_caller(roles, index)]:
            raise ValueError(
                f"{name}[{index}] answers a tool call that nobody made; accepted: a tool's turn behind the assistant's call"
            )
        called |= {call["id"] for call in message.get("tool_calls", []) if "id" in call}
        if called and message.get("tool_call_id", next(iter(called), "")) not in called:
            raise ValueError(
                f"{name}[{index}] answers the call {message['tool_call_id'][:40]!r}, which nobody made; accepted: an earlier call's id"
            )


def _caller(roles: Sequence[str], index: int) -> int:
    """Return which turn comes before the tools' turns that `index` is among."""
    while index > 0 and roles[index] == "tool":
        index -= 1
    return index
