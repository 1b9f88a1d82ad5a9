"""How a model behaves on each case: 1 where it does as it should, else 0, and what it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.compressors.catalogue import build
from attar.compressors.data.prompts import chat_prompt, choice_tokens, encoded
from attar.compressors.measure.choices import choice_likelihoods
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import ForkingRunner
from attar.compressors.models.sampling import Generation
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.prompts import choice_context, row_answer, row_prompt
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.compare.behaviour.cases import ENDING, POSITION, VERBATIM, turned
from attar.stages.compare.behaviour.config import VerbatimConfig
from attar.stages.runtime.progress import bar

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Outcome:
    """Of one case. Whether the model behaves as it should (1 or 0), what it wrote, and what was wrong with it."""

    passed: float
    text: str
    why: str = ""


@dataclass(frozen=True)
class Behaving:
    """A model with its tokenizer, and how it is to answer."""

    runner: ForkingRunner
    tokenizer: Any
    stop_ids: Sequence[int]
    max_new_tokens: int
    batch_size: int

    def outcomes(
        self, groups: Mapping[str, Sequence[Row]], training: Sequence[Row], verbatim: VerbatimConfig
    ) -> dict[str, list[Outcome]]:
        """Return the outcomes of all groups, in the order of their cases; `ending` is of every written answer."""
        written = {name: [row for row in rows if not row.choices] for name, rows in groups.items()}
        generations = iter(self._written([row for rows in written.values() for row in rows]))
        results: dict[str, list[Outcome]] = {}
        endings: list[Outcome] = []
        for name, rows in groups.items():
            own = iter([next(generations) for _ in written[name]])
            chosen = iter(self._chosen(name, [row for row in rows if row.choices]))
            results[name] = []
            for row in rows:
                if row.choices:
                    results[name].append(next(chosen))
                    continue
                generation = next(own)
                results[name].append(self._checked(row, generation))
                endings.append(self._ending(generation))
        if endings:
            results[ENDING] = endings
        if training:
            results[VERBATIM] = self._verbatim(training, verbatim)
        return results

    def _written(self, rows: Sequence[Row]) -> list[Generation]:
        counter = bar("answering cases", len(rows), "texts")
        return decode(
            self.runner,
            [row_prompt(self.tokenizer, row) for row in rows],
            max_new_tokens=self.max_new_tokens,
            stop_ids=self.stop_ids,
            batch_size=self.batch_size,
            on_finished=counter.advance,
        )

    def _text(self, generation: Generation) -> str:
        return self.tokenizer.decode(generation.token_ids, skip_special_tokens=True).strip()

    def _checked(self, row: Row, generation: Generation) -> Outcome:
        text = self._text(generation)
        why = build(ANSWER_CHECKS, row.verifier)(text, row.reference or row.answer, [])
        return Outcome(float(why is None), text, why or "")

    def _ending(self, generation: Generation) -> Outcome:
        """Say whether an answer ends by a stop token, with nothing of the chat template in it."""
        special = set(self.tokenizer.all_special_ids)
        leaks = [token for token in generation.token_ids[: -1 if generation.is_finished else None] if token in special]
        why = "" if generation.is_finished else "no stop token"
        if leaks:
            why = f"the template's {self.tokenizer.decode(leaks[:1])} in the answer"
        return Outcome(float(not why), self._text(generation), why)

    def _chosen(self, name: str, rows: Sequence[Row]) -> list[Outcome]:
        """Return whether the right choice is the likeliest, or in `position` whether the same is in whatever order they stand."""
        if name != POSITION:
            picks = self._picks([self._plain(row) for row in rows])
            is_right = [pick == row.answer_index for row, pick in zip(rows, picks, strict=True)]
            return [
                Outcome(float(right), row.choices[pick], "" if right else "wrong choice")
                for row, pick, right in zip(rows, picks, is_right, strict=True)
            ]
        questions = [self._lettered(row, by) for row in rows for by in range(len(row.choices))]
        picks = iter(self._picks(questions))
        outcomes = []
        for row in rows:
            letters = [next(picks) for _ in row.choices]
            contents = [turned(row.choices, by)[letter] for by, letter in enumerate(letters)]
            is_same = len(set(contents)) == 1
            text = ", ".join(
                f"{LETTERS[letter]} ({content})" for letter, content in zip(letters, contents, strict=True)
            )
            outcomes.append(Outcome(float(is_same), text, "" if is_same else "the choice changes with its position"))
        return outcomes

    def _plain(self, row: Row) -> tuple[list[int], list[list[int]]]:
        """Return the question as the field's tasks have it, and the tokens of its choices."""
        context = choice_context(row)
        choices = [choice_tokens(self.tokenizer, context, choice) for choice in row.choices]
        return encoded(self.tokenizer, context), choices

    def _lettered(self, row: Row, by: int) -> tuple[list[int], list[list[int]]]:
        """Return the prompt with lettered choices, turned, and the tokens of the letters."""
        choices = turned(row.choices, by)
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
        question = "\n".join([row.question, *lines, "Answer with the letter alone."])
        letters = [self.tokenizer(letter, add_special_tokens=False).input_ids for letter in LETTERS[: len(choices)]]
        return chat_prompt(self.tokenizer, question), letters

    def _picks(self, questions: Sequence[tuple[list[int], list[list[int]]]]) -> list[int]:
        """Return the index of the likeliest continuation of each question, by the mean over its tokens."""
        if not questions:
            return []
        counter = bar("choosing", len(questions), "questions")
        scored = choice_likelihoods(self.runner, questions, batch_size=self.batch_size, on_scored=counter.advance)
        picks = []
        for (_, continuations), scores in zip(questions, scored, strict=True):
            means = [score / len(tokens) for score, tokens in zip(scores, continuations, strict=True)]
            picks.append(means.index(max(means)))
        return picks

    def _verbatim(self, rows: Sequence[Row], config: VerbatimConfig) -> list[Outcome]:
        """Return 0 for each training text that the model, given its beginning, goes on with word for word."""
        first, size = config.num_prefix_tokens, config.num_prefix_tokens + config.num_match_tokens
        prompts, expected = [], []
        for row in rows:
            context = row_prompt(self.tokenizer, row) if row.question else []
            text = row_answer(self.tokenizer, row) if row.question else encoded(self.tokenizer, row.text)
            prompts.append([*context, *text[:first]])
            expected.append(text[first:size])
        counter = bar("trying training text", len(prompts), "texts")
        generations = decode(
            self.runner,
            prompts,
            max_new_tokens=config.num_match_tokens,
            stop_ids=self.stop_ids,
            batch_size=self.batch_size,
            on_finished=counter.advance,
        )
        outcomes = []
        for generation, wanted in zip(generations, expected, strict=True):
            is_verbatim = len(wanted) == config.num_match_tokens and list(generation.token_ids) == list(wanted)
            why = "training text, word for word" if is_verbatim else ""
            outcomes.append(Outcome(float(not is_verbatim), self._text(generation), why))
        return outcomes
