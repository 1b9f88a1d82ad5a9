"""The rows of a data set: what one holds, and reading and writing them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

# Learned; read by what chooses (early stop, best state, a fitted share, a teacher, merge weights); read by what is reported.
Split = Literal["train", "choose", "heldout"]
HELDOUT_PIECE = 16
# Between two steps of a reasoning.
STEP_BREAK = "\n\n"


@dataclass(frozen=True)
class Row:
    """A question with its reference answer, and how an answer to it is checked.

    `choices` (with `answer_index`) make it multiple choice. `text` alone, without a question, is plain text for perplexity.
    `answer_ids` are set once a model wrote or scored the answer: the exact tokens, its stop token included. A free text, which a
    model wrote from its first token on, has `text`, `prompt_ids` and `answer_ids`.
    A turn of a conversation has `messages`, all that comes before it; `question` is then their text, for who reads words.
    """

    id: str
    question: str = ""
    answer: str = ""
    text: str = ""
    choices: list[str] = field(default_factory=list)
    answer_index: int = -1
    verifier: str = "none"
    split: Split = "train"
    # a conversation up to the answer, the tools it may call, and the answer as a message where it calls one
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    reply: dict[str, Any] = field(default_factory=dict)
    is_last_turn: bool = True
    # provenance, filled by self_data
    source: str = "reference"
    reason: str = ""
    reference: str = ""
    rewrite: str = ""
    # share of the model's rewrites that pass the verifier, in [0, 1], and 1 less that; None where none was written
    pass_rate: float | None = None
    difficulty: float | None = None
    # how good the answer is in [0, 1], as a judge or a comparison of two models found; None where nobody looked
    score: float | None = None
    # of a pair of sentences, question and answer: how alike people judged them, on the data set's own scale; None: it is no pair
    similarity: float | None = None
    # ids of the texts of a corpus that answer the question, where the data names them
    positives: list[str] = field(default_factory=list)
    # how the question is thought through before its answer: steps with a blank line between two
    reasoning: str = ""
    # of a text in `question` whose spans are known: label, first character and the one behind the last of each; its words where it came as those
    spans: list[dict[str, Any]] | None = None
    words: list[str] = field(default_factory=list)
    # what the model's own attempts at this question taught, in words
    skill: str = ""
    # exact tokens before and of the answer, where a model wrote or scored it
    prompt_ids: list[int] = field(default_factory=list)
    answer_ids: list[int] = field(default_factory=list)
    # one past the last answer token of each chunk, and its log-probability in nats under a teacher with another tokenizer
    chunk_ends: list[int] = field(default_factory=list)
    chunk_nats: list[float] = field(default_factory=list)
    # name of the logprobs shard that holds this row's teacher, where one was recorded
    recorded_in: str = ""
    # filled by guide_data: the guidance scale the answer was drawn under, and what the unguided branch began with
    guidance_scale: float | None = None
    unguided_ids: list[int] = field(default_factory=list)

    def with_changes(self, **changes: Any) -> Row:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)


def content_key(row: Row) -> bytes:
    """Return a hash of what a row is about. Its question or text, and of a conversation how it begins, so that its turns share it."""
    content = f"{row.question}{row.text}"
    if row.messages:
        first = next(index for index, message in enumerate(row.messages) if message["role"] == "user")
        content = json.dumps(row.messages[: first + 1], sort_keys=True)
    return hashlib.sha256(content.encode()).digest()


def read_rows(path: Path) -> list[Row]:
    """Read a `rows.jsonl`."""
    with path.open() as stream:
        return [Row(**json.loads(line)) for line in stream]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a `rows.jsonl`, fields at their default left out."""
    with path.open("w") as stream:
        for row in rows:
            stream.write(json.dumps(_compact(row), ensure_ascii=False) + "\n")


def split_rows(rows: Iterable[Row], split: Split) -> list[Row]:
    """Return the rows of one split."""
    return [row for row in rows if row.split == split]


def piece_split(split: Split, piece: int) -> Split:
    """Return the split of one piece of a long text. Of a training text, one piece in `HELDOUT_PIECE` is for choices or held out, in turn."""
    turn, offset = divmod(piece, HELDOUT_PIECE)
    if split != "train" or offset != HELDOUT_PIECE - 1:
        return split
    return "heldout" if turn % 2 else "choose"


def _compact(row: Row) -> dict[str, Any]:
    default = Row(id="")
    return {name: value for name, value in asdict(row).items() if value != getattr(default, name)}
