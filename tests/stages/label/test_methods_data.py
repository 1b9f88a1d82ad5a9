"""The stages that methods of the literature add: who writes, what is kept, and what nobody may see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.compressors.catalogue import build
from attar.compressors.data.prompts import chat_prompt
from attar.registry.artifacts.handles import AdapterArtifact, ModelArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.dataset.answer_checks import ANSWER_CHECKS
from attar.stages.artifacts.dataset.rows import Row
from attar.stages.artifacts.model.folder import load_tokenizer
from attar.stages.finetune.config import FinetuneInputs
from attar.stages.finetune.stage import finetune
from attar.stages.finetune.teaching import with_hints
from attar.stages.finetune.training_rows import TrainingRows
from attar.stages.label.answer import AnswerInputs, answer
from attar.stages.label.answer_config import AnswerConfig
from attar.stages.label.choose_answers import ChooseAnswersConfig, ChooseAnswersInputs, choose_answers
from attar.stages.label.choose_teacher import ChooseTeacherConfig, ChooseTeacherInputs, choose_teacher
from attar.stages.label.compose_tasks import passing_responses
from attar.stages.label.learn_skills import LearnSkillsConfig, LearnSkillsInputs, learn_skills
from attar.stages.label.revise import ReviseConfig, ReviseInputs, revise
from attar.stages.merge.stage import MergeConfig, MergeInputs, merge
from attar.stages.runtime.progress import Progress, listen
from attar.stages.runtime.watched_process import Limits
from tests.stages.label.own_answers import QUICK, dataset, rows_of, run, sums


@pytest.fixture(scope="module")
def speaker(shared_store: Store, model: ModelArtifact, tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    """The tiny model after it learned to answer yes and no."""
    rows = [row.with_changes(id=f"{row.id}{word}", answer=word) for row in sums(16) for word in ("yes", "no")]
    data = dataset(tmp_path_factory.mktemp("rows") / "rows", rows)
    shared = QUICK.with_changes(adapt={"kind": "full"}, schedule={"learning_rate": 3e-3, "num_epochs": 12})
    adapter = finetune.run(shared, FinetuneInputs(model=model, data=(data,)), made(tmp_path_factory, "a"))
    base = MergeInputs(base=model, students=(adapter,))
    merged = merge.run(MergeConfig(), base, made(tmp_path_factory, "m"))
    return ModelArtifact(merged.path, merged.facts, key="speaker", fingerprint="speaker")


def made(factory: pytest.TempPathFactory, name: str) -> Path:
    folder = factory.mktemp(name)
    (folder / "content").mkdir()
    return folder


def test_answers_are_judged_each_a_row_and_the_same_after_a_crash(speaker: ModelArtifact, tmp_path: Path) -> None:
    data = dataset(tmp_path / "rows", sums())
    config = AnswerConfig(num_samples=4, max_new_tokens=6, rows_per_shard=3, keep="all", precision="float32")
    inputs = AnswerInputs(model=speaker, data=data)
    events: list[Progress] = []
    with listen(lambda event: events.append(event) if isinstance(event, Progress) else None):
        first = rows_of(run(answer, config, inputs, tmp_path, "first"))
    assert ("writing a shard", 12.0, 12.0) in {(event.label, event.done, event.total) for event in events}
    assert {row.answer for row in first} >= {"yes", "no"}
    for row in first:
        siblings = [text for text in first if text.question == row.question]
        num_right = sum(build(ANSWER_CHECKS, "contains")(sibling.answer, "yes", []) is None for sibling in siblings)
        assert row.reference == "yes" and row.pass_rate is not None
        assert row.pass_rate <= num_right / 4, "one that did not end is not right"
    assert {row.pass_rate for row in first} > {0.25}
    # all but the last shard were written before: the rest is written to the same rows
    work = tmp_path / "first"
    shards = sorted(work.glob("answering/rows-*.jsonl"))
    assert len(shards) == 3
    shards[-1].unlink()
    others = [path.stat().st_mtime_ns for path in shards[:-1]]
    (work / "content" / "rows.jsonl").unlink()
    assert rows_of(answer.run(config, inputs, work)) == first
    assert [path.stat().st_mtime_ns for path in shards[:-1]] == others, "what was there is not written again"
    passing = rows_of(run(answer, config.with_changes(keep="passing"), inputs, tmp_path, "passing"))
    assert all(build(ANSWER_CHECKS, "contains")(row.answer, "yes", []) is None for row in passing)
    assert {row.id for row in passing} < {row.id for row in first}


def test_skills_stay_out_of_the_students_prompt(speaker: ModelArtifact, tmp_path: Path) -> None:
    data = dataset(tmp_path / "rows", sums())
    attempts = run(
        answer,
        AnswerConfig(num_samples=4, max_new_tokens=6, keep="all", precision="float32"),
        AnswerInputs(model=speaker, data=data),
        tmp_path,
        "attempts",
    )
    config = LearnSkillsConfig(max_new_tokens=12, precision="float32")
    skilled = rows_of(
        run(learn_skills, config, LearnSkillsInputs(model=speaker, data=data, attempts=attempts), tmp_path)
    )
    assert [row.with_changes(skill="") for row in skilled] == sums(), "beside the question, not in it"
    assert all(row.skill for row in skilled)
    tokenizer = load_tokenizer(speaker.path)
    teacher = {"kind": "self", "rule": {"kind": "live"}, "context": {"kind": "skill"}}
    config = QUICK.with_changes(teacher=teacher, objectives={"kl": {"divergence": "forward_kl"}})
    inputs = FinetuneInputs(model=speaker, data=(dataset(tmp_path / "skilled", skilled),))
    rows = TrainingRows.read(
        inputs.data, tokenizer, learn=config.rows.learn, max_tokens=config.rows.max_tokens, reads_record=False
    )
    hinted = with_hints(rows, tokenizer, config.teacher.context, has_both_sides=False)
    for example, row in zip(hinted.train, hinted.questions, strict=True):
        assert row is not None and example.prompt_ids == chat_prompt(tokenizer, row.question)
        assert example.hinted_ids is not None and row.skill in tokenizer.decode(list(example.hinted_ids))


def test_every_revision_that_is_kept_is_right(speaker: ModelArtifact, tmp_path: Path) -> None:
    config = ReviseConfig(max_new_tokens=6, num_samples=6, precision="float32", revise_right=True, top_p=1.0)
    rows = rows_of(run(revise, config, ReviseInputs(model=speaker, data=dataset(tmp_path / "rows", sums())), tmp_path))
    tokenizer = load_tokenizer(speaker.path)
    by_id = {row.id: row for row in rows}
    assert len(rows) >= 2
    for row in rows:
        assert build(ANSWER_CHECKS, row.verifier)(row.answer, row.reference, row.choices) is None
        if row.id.endswith(".whole"):
            part = by_id[row.id.replace(".whole", ".revision")]
            assert [*row.prompt_ids, *row.answer_ids] == [*part.prompt_ids, *part.answer_ids], "one text, cut twice"
            revision_text = tokenizer.decode(part.prompt_ids[len(row.prompt_ids) :])
            first = revision_text.split("\n\n")[0]
            is_right = build(ANSWER_CHECKS, row.verifier)(first, row.reference, []) is None
            assert (config.right_phrase in revision_text) == (is_right and config.wrong_phrase not in revision_text)
    only_wrong = ReviseConfig(max_new_tokens=6, num_samples=6, precision="float32", top_p=1.0)
    revised = rows_of(
        run(revise, only_wrong, ReviseInputs(model=speaker, data=dataset(tmp_path / "rows", sums())), tmp_path, "w")
    )
    assert all(config.right_phrase not in tokenizer.decode(row.prompt_ids) for row in revised)


def test_the_planted_answer_is_chosen(speaker: ModelArtifact, model: ModelArtifact, tmp_path: Path) -> None:
    """The teacher says yes and no; a text that only the untrained student could like has no sentence of the teacher's."""
    rows = [row.with_changes(answer="yes" if i % 2 else "q#x!Z") for i, row in enumerate(sums(8))]
    data = dataset(tmp_path / "rows", rows)
    config = ChooseAnswersConfig(by="teacher_sentences", keep_fraction=0.5, precision="float32")
    inputs = ChooseAnswersInputs(data=data, teacher=speaker, student=model)
    train_rows = [row for row in rows_of(run(choose_answers, config, inputs, tmp_path)) if row.split == "train"]
    num_train = sum(row.split == "train" for row in rows)
    assert len(train_rows) == round(0.5 * num_train) and {row.answer for row in train_rows} == {"yes"}
    assert {row.score for row in train_rows} == {1.0}
    same = ChooseAnswersInputs(data=data, teacher=speaker, student=speaker)
    scored = rows_of(run(choose_answers, config, same, tmp_path, "same"))
    assert {row.score for row in scored if row.split == "train"} == {0.0}, "two that agree share every sentence"


def test_answers_far_apart_are_kept_and_equal_ones_never_twice(tmp_path: Path) -> None:
    texts = ["one two three", "one two three", "one two four", "something else entirely"]
    rows = [Row(id=str(i), question="q", answer=text) for i, text in enumerate(texts)]
    config = ChooseAnswersConfig(by="edit_distance", num_kept=3)
    chosen_rows = rows_of(
        run(choose_answers, config, ChooseAnswersInputs(data=dataset(tmp_path / "rows", rows)), tmp_path)
    )
    assert sorted(row.answer for row in chosen_rows) == sorted(set(texts))


def test_the_teacher_of_the_better_student_is_chosen(tmp_path: Path) -> None:
    """A planted inversion: the teacher with the higher score of its own has the worse student."""
    strong = dataset(tmp_path / "strong", sums(8), teacher_quality=0.9)
    weak = dataset(tmp_path / "weak", [row.with_changes(answer="oh yes") for row in sums(8)], teacher_quality=0.4)
    trials = [AdapterArtifact(tmp_path, {"heldout_quality": quality}, "k", "f") for quality in (0.25, 0.75)]
    chosen = run(
        choose_teacher, ChooseTeacherConfig(), ChooseTeacherInputs(data=(strong, weak), trials=tuple(trials)), tmp_path
    )
    assert {row.answer for row in rows_of(chosen)} == {"oh yes"}
    unjudged = ChooseTeacherInputs(data=(strong,), trials=(AdapterArtifact(tmp_path, {}, "k", "f"),))
    with pytest.raises(ValueError, match="trial 1 has no held-out quality"):
        run(choose_teacher, ChooseTeacherConfig(), unjudged, tmp_path, "refused")


def fenced(solution: str, tests: str) -> str:
    return f"```python\n{solution}\n```\n```python\n{tests}\n```"


def test_only_a_response_that_passes_real_tests_is_kept() -> None:
    good = fenced("def f(): return 1", "assert f() == 1")
    bad = [
        fenced("def f(): return 2", "assert f() == 1"),
        fenced("while True: pass", "assert f() == 1"),
        "```python\ndef f(): return 1\n```",
        fenced("def f(): return 1", "assert True"),  # nothing at all passes it
        fenced("def f(): return 1", "assert f() == 1\nassert False"),
        fenced("import sys\nsys.exit(0)", "assert f() == 1"),
        fenced("import os\nos._exit(0)", "assert f() == 1"),
    ]
    passing = passing_responses([*bad, good, good], Limits(wall_seconds=3.0, cpu_seconds=2))
    assert [text for text, _ in passing] == [good], "and equal ones count once"


def test_what_cannot_work_is_refused_in_one_line(speaker: ModelArtifact, tmp_path: Path) -> None:
    data = dataset(tmp_path / "rows", sums(verifier="none"))
    with pytest.raises(ValueError, match="have no verifier; set `verifier` in ingest_data"):
        run(revise, ReviseConfig(), ReviseInputs(model=speaker, data=data), tmp_path)
    with pytest.raises(ValueError, match="give the inputs teacher and student"):
        choose_answers.forecast(ChooseAnswersConfig(by="teacher_sentences"), {"data": ({},)})
    with pytest.raises(ValueError, match="temperature is 0, but an anchor bounds what is drawn"):
        answer.forecast(AnswerConfig(temperature=0.0), {"model": ({},), "data": ({},), "anchor": ({},)})
    with pytest.raises(ValueError, match=r"num_samples is 2, but at temperature 0"):
        AnswerConfig(num_samples=2, temperature=0.0)
    assert json.dumps(AnswerConfig().model_dump())
