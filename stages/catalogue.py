"""Every stage by name. To add one: a file with the stage, a line here."""

from __future__ import annotations

from typing import Any

from stages.align import align
from stages.answer import answer
from stages.choose_answers import choose_answers
from stages.choose_teacher import choose_teacher
from stages.compare import compare
from stages.compose_tasks import compose_tasks
from stages.contract import Stage
from stages.curate import curate
from stages.denoise import denoise
from stages.evaluate import evaluate
from stages.export import export
from stages.finetune import finetune
from stages.fit_share import fit_share
from stages.grade import grade
from stages.guide import guide
from stages.guide_data import guide_data
from stages.ingest_data import ingest_data
from stages.ingest_model import ingest_model
from stages.judge import judge
from stages.learn_skills import learn_skills
from stages.merge import merge
from stages.merge_adapters import merge_adapters
from stages.narrow import narrow
from stages.prune import prune
from stages.quantize import quantize
from stages.quantize_torch import quantize_torch
from stages.record import record
from stages.register import register
from stages.revise import revise
from stages.scan import scan
from stages.self_data import self_data

STAGES: dict[str, Stage[Any, Any, Any]] = {
    one.name: one
    for one in (
        ingest_model,
        ingest_data,
        scan,
        prune,
        narrow,
        self_data,
        curate,
        record,
        answer,
        revise,
        learn_skills,
        choose_answers,
        choose_teacher,
        grade,
        judge,
        align,
        compose_tasks,
        finetune,
        fit_share,
        merge_adapters,
        guide_data,
        guide,
        merge,
        export,
        quantize,
        quantize_torch,
        evaluate,
        compare,
        denoise,
        register,
    )
}
