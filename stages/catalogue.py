"""Every stage by name. To add one: a file with the stage, a line here."""

from __future__ import annotations

from typing import Any

from attar.stages.compare.behaviour.stage import check_behaviour
from attar.stages.compare.sample.stage import sample
from attar.stages.compare.stage import compare
from attar.stages.contract import Stage
from attar.stages.evaluate.stage import evaluate
from attar.stages.export.stage import export
from attar.stages.finetune.fit_share import fit_share
from attar.stages.finetune.stage import finetune
from attar.stages.guidance.data.stage import guide_data
from attar.stages.guidance.stage import guide
from attar.stages.ingest.data import ingest_data
from attar.stages.ingest.images.stage import ingest_images
from attar.stages.ingest.model import ingest_model
from attar.stages.label.align import align
from attar.stages.label.answer import answer
from attar.stages.label.choose_answers import choose_answers
from attar.stages.label.choose_teacher import choose_teacher
from attar.stages.label.compose_tasks import compose_tasks
from attar.stages.label.condense import condense
from attar.stages.label.curate import curate
from attar.stages.label.grade import grade
from attar.stages.label.judge import judge
from attar.stages.label.learn_skills import learn_skills
from attar.stages.label.pair_labels import label_pairs
from attar.stages.label.record import record
from attar.stages.label.revise import revise
from attar.stages.label.select_images import select_images
from attar.stages.label.span_labels import label_spans
from attar.stages.merge.adapters import merge_adapters
from attar.stages.merge.rejoin import rejoin
from attar.stages.merge.stage import merge
from attar.stages.narrow.stage import narrow
from attar.stages.prune.experts.stage import prune_experts
from attar.stages.prune.stage import prune
from attar.stages.prune.vocabulary.stage import trim_vocabulary
from attar.stages.quantize.bits_and_bytes import quantize_torch
from attar.stages.quantize.stage import quantize
from attar.stages.register.stage import register
from attar.stages.scan.search_blocks import search_blocks
from attar.stages.scan.stage import scan
from attar.stages.self_data.stage import self_data

STAGES: dict[str, Stage[Any, Any, Any]] = {
    stage.name: stage
    for stage in (
        ingest_model,
        ingest_data,
        ingest_images,
        scan,
        search_blocks,
        prune,
        narrow,
        prune_experts,
        trim_vocabulary,
        self_data,
        curate,
        record,
        answer,
        revise,
        learn_skills,
        choose_answers,
        choose_teacher,
        select_images,
        grade,
        label_pairs,
        label_spans,
        judge,
        align,
        compose_tasks,
        finetune,
        condense,
        fit_share,
        merge_adapters,
        guide_data,
        guide,
        merge,
        rejoin,
        export,
        quantize,
        quantize_torch,
        evaluate,
        compare,
        check_behaviour,
        sample,
        register,
    )
}
