"""Which stage of a lineage changed answers: a prompt's text, or the verdicts on a task's questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from attar.pipelines.bisect.answers import Answer, Opened, TokenOdds, beside, refuse_not_asked
from attar.pipelines.bisect.chain import Lineage, Link
from attar.pipelines.bisect.search import Change, find_changes
from attar.registry.artifacts.handles import DatasetArtifact
from attar.registry.artifacts.lineage import Ancestor
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.measured_data import question_rows
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.runtime.progress import bar

# Changes whose tokens are scored under both models; the others are told by their texts.
NUM_SCORED = 3


@dataclass(frozen=True)
class Changed:
    """A question whose answer a stage changed, both answers, and their tokens' probabilities before and behind the stage."""

    question: str
    stage: Link
    before: Answer
    after: Answer
    before_tokens: list[TokenOdds]
    after_tokens: list[TokenOdds]

    @property
    def is_lost(self) -> bool:
        """Whether a right answer became a wrong one."""
        return self.before.is_right is True and self.after.is_right is False


@dataclass(frozen=True)
class Bisection:
    """A chain of models from the original on, and what changed along it. `num_asked`: models that had to answer."""

    chain: list[Link]
    num_questions: int
    num_asked: int
    changes: list[Changed]

    def by_stage(self) -> list[dict[str, Any]]:
        """Return a row a stage that changed an answer. How many it lost and won, or changed where there is no check."""
        rows = []
        for link in self.chain:
            some = [change for change in self.changes if change.stage == link]
            if some:
                lost, won = (sum(change.before.is_right is side for change in some) for side in (True, False))
                rows.append({"stage": str(link), "lost": lost, "won": won, "changed": len(some)})
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "chain": [str(link) for link in self.chain],
            "num_questions": self.num_questions,
            "num_asked": self.num_asked,
            "stages": self.by_stage(),
            "changes": [{**asdict(change), "stage": str(change.stage)} for change in self.changes],
        }


def bisect_chain(lineage: Lineage, last: Link, rows: Sequence[Row], max_new_tokens: int) -> Bisection:
    """Find, for each question that the original and the last model answer otherwise, a stage that changed the answer.

    Models are loaded one at a time, and a model that is gone is built again only when it is asked. Raises ValueError where it cannot be.
    """
    chain = lineage.chain(last)
    if len(chain) < 2:
        raise ValueError(f"{last} was made from no other model: there is nothing to bisect")
    for link in (chain[0], chain[-1]):  # before the first of them is loaded
        if lineage.store.holds(link.stage, link.key):
            refuse_not_asked(lineage.store.load(link.stage, link.key))
    opened_models: set[int] = set()
    counter = bar("asking models", 0, "models")

    def ask(index: int, questions: Sequence[int]) -> Mapping[int, Answer]:
        opened_models.add(index)
        opened = Opened.of(lineage.artifact(chain[index]))
        answers = opened.answers([rows[question] for question in questions], max_new_tokens)
        counter.advance()
        return dict(zip(questions, answers, strict=True))

    changes = find_changes(len(chain), len(rows), ask)
    return Bisection(chain, len(rows), len(opened_models), _with_tokens(lineage, chain, rows, changes))


def task_rows(lineages: Sequence[Ancestor], name: str, store: Store, max_rows: int = 0) -> list[Row] | None:
    """Return the questions of a data set of that name in some lineages; None where there is none."""
    for ancestor in datasets_of(lineages):
        if ancestor.facts.get("name") == name and store.holds(ancestor.stage, ancestor.key):
            artifact = store.load(ancestor.stage, ancestor.key)
            return question_rows(DatasetArtifact.at(artifact.path, artifact.facts), max_rows) or None
    return None


def datasets_of(lineages: Sequence[Ancestor]) -> list[Ancestor]:
    """Return the data sets with a name in some lineages, the nearest first."""
    pending, datasets = list(lineages), {}
    while pending:
        ancestor = pending.pop(0)
        if ancestor.kind == "dataset" and ancestor.facts.get("name"):
            datasets.setdefault(ancestor.key, ancestor)
        pending += ancestor.inputs
    return list(datasets.values())


def _with_tokens(
    lineage: Lineage, chain: Sequence[Link], rows: Sequence[Row], changes: Sequence[Change[Answer]]
) -> list[Changed]:
    """Return the changes with the probabilities of the first few's tokens, each model loaded once."""
    odds: dict[tuple[int, int, str], list[tuple[str, float]]] = {}
    scored = changes[:NUM_SCORED]
    for index in sorted({index for change in scored for index in (change.index - 1, change.index)}):
        opened = Opened.of(lineage.artifact(chain[index]))
        for change in scored:
            if index in (change.index - 1, change.index):
                for answer in (change.before, change.after):
                    odds[change.question, index, answer.text] = opened.odds(rows[change.question], answer.text)
    results = []
    for change in changes:
        tokens = [
            beside(*(odds.get((change.question, index, answer.text), []) for index in (change.index - 1, change.index)))
            for answer in (change.before, change.after)
        ]
        question = rows[change.question].question
        results.append(Changed(question, chain[change.index], change.before, change.after, tokens[0], tokens[1]))
    return results
