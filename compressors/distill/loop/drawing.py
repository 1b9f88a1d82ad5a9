"""Draw a step's rollouts with that step's weights and judge them. Each gets the prompt that the teacher reads.

The seed of each sequence comes from its row, the step and its number, so that a resumed run draws the same ones.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from attar.compressors.distill.examples.learned import LearnedExample
from attar.compressors.distill.examples.packing import Example
from attar.compressors.distill.examples.rollouts import RolloutPolicy
from attar.compressors.distill.examples.sample_facts import SampleFacts, group_advantages
from attar.compressors.distill.examples.steps import Clock
from attar.compressors.distill.teachers.student import Student
from attar.compressors.distill.teachers.teacher_sources import TeacherSource
from attar.compressors.models.adapted import mixed_precision, plain_model
from attar.compressors.models.decode import decode
from attar.compressors.models.runner import TorchRunner
from attar.compressors.models.sampling import Generation, Sampling


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of an answer: its reward, and whether it is right."""

    reward: float
    is_correct: bool


# Judges an answer (token ids, whether it ended by itself) to an example's prompt.
Judge = Callable[[Example, Sequence[int], bool], Verdict]
# Says what the teacher reads before this answer: (example, answer, verdict, a right sibling's answer) -> token ids, None: no hint.
Hint = Callable[[Example, Sequence[int], Verdict, Sequence[int] | None], list[int] | None]


class RolloutSource(Protocol):
    """Writes what each step learns anew, with that step's weights."""

    def examples(self, student: Any, given: Sequence[Any], clock: Clock) -> Sequence[LearnedExample]:
        """Return the examples of a step; without any, the data's own."""
        ...

    def facts(self) -> dict[str, float]:
        """Return what the last step's examples were like, for its record."""
        ...


# Groups of the hinted side are counted from here.
OTHER_SIDE = 1 << 30


@dataclass
class Rollouts:
    """Draws the sequences of each step by a policy, judges them and says what the teacher reads before each.

    `teacher`: the teacher source that writes where the policy wants one. `stop_ids` end an answer.
    """

    policy: RolloutPolicy
    judge: Judge
    hint: Hint
    stop_ids: Sequence[int]
    seed: int
    teacher: TeacherSource | None = None
    batch_size: int = 32
    _last: list[Example] = field(default_factory=list)
    _num_repaired: int = 0

    def examples(self, student: Student, given: Sequence[Example], clock: Clock) -> list[Example]:
        """Return the sequences of a step: for each prompt its group, side by side. Without any, the data's own."""
        self._num_repaired = 0
        is_written = [self._is_written(example, clock) for example in given]
        prompts = [example for example, is_chosen in zip(given, is_written, strict=True) if is_chosen]
        groups = iter(self._groups(student, prompts, clock))
        examples: list[Example] = []
        for example, is_chosen in zip(given, is_written, strict=True):
            examples += next(groups) if is_chosen else [example]
        self._last = examples or list(given)
        return self._last

    def facts(self) -> dict[str, float]:
        """Return what the last step's sequences were like: mean reward, share that is right, mean length in tokens. Of repairs how many."""
        count = max(1, len(self._last))
        repairs = {"num_repaired": float(self._num_repaired)} if self.policy.num_repair_tokens else {}
        return repairs | {
            "rollout_reward": sum(example.facts.reward for example in self._last) / count,
            "rollout_correct": sum(example.facts.is_correct for example in self._last) / count,
            "rollout_tokens": sum(len(example.answer_ids) for example in self._last) / count,
        }

    def _is_written(self, example: Example, clock: Clock) -> bool:
        uniform = torch.rand((), generator=torch.Generator().manual_seed(self._seed(example, clock, -1)))
        return float(uniform) < self.policy.student_fraction

    def _groups(self, student: Student, given: Sequence[Example], clock: Clock) -> list[list[Example]]:
        examples = [example for example in given for _ in range(self.policy.num_samples)]
        seeds = [self._seed(example, clock, number) for example in given for number in range(self.policy.num_samples)]
        written = self._write(student, examples, seeds)
        groups = []
        for index, example in enumerate(given):
            start = index * self.policy.num_samples
            answers = written[start : start + self.policy.num_samples]
            groups.append(self._group(example, index, [answer for answer in answers if answer.token_ids]))
        return groups

    def _write(self, student: Student, examples: Sequence[Example], seeds: Sequence[int]) -> list[Generation]:
        policy = self.policy
        if policy.writers[0] == "student":
            written = self._decode(student, [example.prompt_ids for example in examples], policy.max_new_tokens, seeds)
            return self._repaired(student, examples, written, seeds) if policy.num_repair_tokens else written
        prompts = [example.prompt_ids if example.hinted_ids is None else example.hinted_ids for example in examples]
        assert self.teacher is not None, "checked where the training is built"
        with self.teacher.model_of(student) as teacher:
            return self._decode(teacher, prompts, policy.max_new_tokens, seeds)

    def _repaired(
        self, student: Student, examples: Sequence[Example], written: list[Generation], seeds: Sequence[int]
    ) -> list[Generation]:
        """Let the teacher finish what did not end; all other answers are empty, and left out."""
        assert self.teacher is not None, "checked where the training is built"
        opened = [
            _opened(answer, self.policy.length_ratio * len(example.answer_ids))
            for answer, example in zip(written, examples, strict=True)
        ]
        cut = {index: cut_index(len(ids), seeds[index]) for index, ids in enumerate(opened) if len(ids) > 2}
        prefixes = {index: opened[index][:length] for index, length in cut.items()}
        prompts = [[*examples[index].prompt_ids, *prefix] for index, prefix in prefixes.items()]
        with self.teacher.model_of(student) as teacher:
            rests = self._decode(teacher, prompts, self.policy.num_repair_tokens, [seeds[index] for index in cut])
        repaired = [Generation([], False) for _ in written]
        for index, rest in zip(prefixes, rests, strict=True):
            if rest.is_finished:
                repaired[index] = Generation([*prefixes[index], *rest.token_ids], True)
        self._num_repaired += sum(answer.is_finished for answer in repaired)
        return repaired

    def _decode(
        self, writer: Student, prompts: Sequence[Sequence[int]], max_new_tokens: int, seeds: Sequence[int]
    ) -> list[Generation]:
        was_training = writer.training
        model = plain_model(writer.model)
        sampling = Sampling(temperature=self.policy.temperature, top_p=self.policy.top_p)
        try:
            with mixed_precision(model):
                return decode(
                    TorchRunner(model),
                    prompts,
                    max_new_tokens=max_new_tokens,
                    stop_ids=self.stop_ids,
                    batch_size=self.batch_size,
                    sampling=sampling,
                    seeds=seeds,
                    is_scored=True,
                )
        finally:
            writer.train(was_training)

    def _group(self, example: Example, group: int, answers: Sequence[Generation]) -> list[Example]:
        if not answers:
            return []
        verdicts = [self.judge(example, answer.token_ids, answer.is_finished) for answer in answers]
        advantages = group_advantages([verdict.reward for verdict in verdicts])
        pass_rate = sum(verdict.is_correct for verdict in verdicts) / len(verdicts)
        examples = []
        for index, (answer, verdict) in enumerate(zip(answers, verdicts, strict=True)):
            right = (answers[i].token_ids for i, verdict in enumerate(verdicts) if verdict.is_correct and i != index)
            hint = self.hint(example, answer.token_ids, verdict, next(right, None))
            facts = SampleFacts(
                group=group,
                reward=verdict.reward,
                advantage=advantages[index],
                is_correct=verdict.is_correct,
                has_hint=hint is not None,
                pass_rate=pass_rate,
                old_logprobs=torch.tensor(answer.token_logprobs) if answer.token_logprobs else None,
            )
            examples.append(
                Example(example.prompt_ids, answer.token_ids, hinted_ids=hint, facts=facts, name=example.name)
            )
        return [*examples, *self._other_side(examples)]

    def _other_side(self, examples: Sequence[Example]) -> list[Example]:
        """Return the same answers behind the hint, with the plain prompt as what the other side reads."""
        if not self.policy.both_sides:
            return []
        return [other_side(example) for example in examples if example.hinted_ids is not None]

    def _seed(self, example: Example, clock: Clock, number: int) -> int:
        return zlib.crc32(f"{self.seed}/{example.name}/{clock.step}/{number}".encode())


def other_side(example: Example) -> Example:
    """Return the same answer behind the hint, with the plain prompt as what the other side reads."""
    assert example.hinted_ids is not None, "there is another side"
    group = example.facts.group if example.facts.group < 0 else example.facts.group + OTHER_SIDE
    facts = replace(example.facts, group=group, is_hinted=True)
    return replace(example, prompt_ids=example.hinted_ids, hinted_ids=example.prompt_ids, facts=facts)


def _opened(answer: Generation, most_tokens: float) -> list[int]:
    """Return the tokens of an answer that did not end within its limit (0: none of its own), else nothing."""
    if most_tokens and len(answer.token_ids) > most_tokens:
        return answer.token_ids[: max(1, int(most_tokens))]
    return [] if answer.is_finished else answer.token_ids


def cut_index(num_tokens: int, seed: int) -> int:
    """Return how many tokens of an unfinished answer stay: more than half of them, fewer than all."""
    low = math.floor(num_tokens / 2) + 1
    return int(torch.randint(low, max(low + 1, num_tokens), (), generator=torch.Generator().manual_seed(seed)))
