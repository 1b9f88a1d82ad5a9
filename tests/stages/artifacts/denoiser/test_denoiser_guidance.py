"""A denoiser's guidance learned in one pass, by adapters or by its whole net: drawn from, resumed, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.registry.artifacts.handles import AdapterArtifact, DenoiserArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.compare.sample.config import SampleConfig, SampleInputs
from attar.stages.compare.sample.stage import sample
from attar.stages.export.config import ExportConfig, ExportInputs
from attar.stages.export.stage import export
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.finetune.stage import finetune
from attar.stages.finetune.subjects.denoiser import build_denoiser_run
from attar.stages.merge.config import MergeConfig
from attar.stages.merge.stage import merge
from tests.stages.artifacts.denoiser.conftest import TRAINING, denoiser_of, trained
from tests.stages.artifacts.denoiser.test_denoiser_refusals import DATA, MODEL

PATHS = {"num_rollouts": 40, "num_steps": 4}
FEW: dict[str, Any] = {"num_steps": 2, "num_images": 30, "classifier": {"num_steps": 10, "num_draws": 3}}


def config_of(steps: int = 40, adapt: dict[str, Any] | None = None, **params: Any) -> FinetuneConfig:
    schedule = {**TRAINING["schedule"], "max_steps": steps, "learning_rate": 1e-2}
    return FinetuneConfig(
        **{**TRAINING, "schedule": schedule, "adapt": adapt or {"kind": "guidance", "rank": 8}},
        objectives={"guided_distance": {"divergence": {"guided_distance": {**PATHS, **params}}}},
    )


@pytest.fixture
def teacher(store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact) -> DenoiserArtifact:
    return trained(store, denoiser, images, objectives={"d": {"divergence": {"denoising": {"drop_fraction": 0.2}}}})


def guided_by(
    store: Store, teacher: DenoiserArtifact, images: ImageDatasetArtifact, config: FinetuneConfig
) -> AdapterArtifact:
    return finetune.execute(config, FinetuneInputs(model=teacher, data=(images,), teacher=teacher), store).artifact


def test_adapters_learn_what_two_passes_say_and_draw_in_one(
    store: Store, teacher: DenoiserArtifact, images: ImageDatasetArtifact
) -> None:
    adapter = guided_by(store, teacher, images, config_of(steps=60))
    assert adapter.facts.method == "guidance" and adapter.facts["min_scale"] == 1.0
    assert float(adapter.facts["guidance_error_ratio"]) < 0.9
    about = json.loads((adapter.path / "guidance.json").read_text())
    assert list(about["bases"]) == [teacher.fingerprint]
    config = SampleConfig(**{**FEW, "guidance_scale": 3.0})
    plain = sample.execute(config, SampleInputs(model=teacher, data=images), store).artifact
    guided = sample.execute(config, SampleInputs(model=teacher, data=images, guidance=adapter), store).artifact
    assert (plain.facts["num_forwards"], guided.facts["num_forwards"]) == (4.0, 2.0)
    other = denoiser_of(store, "random:unet?sample_size=8&num_classes=3&width=8&seed=1")
    with pytest.raises(ValueError, match="guidance: the adapters were trained on model .*; accepted: that model"):
        sample.execute(config, SampleInputs(model=other, data=images, guidance=adapter), store)


@pytest.mark.slow  # the graph of a sampler takes long to trace
def test_the_graph_of_a_guided_sampler_has_the_scale_as_an_input(
    store: Store, teacher: DenoiserArtifact, images: ImageDatasetArtifact
) -> None:
    adapter = guided_by(store, teacher, images, config_of(steps=10))
    inputs = ExportInputs(model=teacher, data=images, guidance=adapter)
    graph = export.execute(ExportConfig(format={"num_steps": 2}), inputs, store).artifact
    assert (graph.facts.min_scale, graph.facts.max_scale) == (1.0, 6.0)
    config = SampleConfig(**{**FEW, "guidance_scale": 3.0})
    of_graph = sample.execute(config, SampleInputs(model=graph, data=images), store).artifact
    of_torch = sample.execute(config, SampleInputs(model=teacher, data=images, guidance=adapter), store).artifact
    assert of_graph.facts["num_forwards"] == 2.0
    assert of_graph.facts["frechet_distance"] == pytest.approx(float(of_torch.facts["frechet_distance"]), rel=0.02)


def test_a_whole_net_learns_guidance_at_one_scale_and_stays_a_denoiser(
    store: Store, teacher: DenoiserArtifact, images: ImageDatasetArtifact
) -> None:
    params = {**PATHS, "min_scale": 2.0, "max_scale": 2.0, "is_rolled": False}
    objectives = {"guided": {"divergence": {"guided_distance": params}}}
    schedule = {**TRAINING["schedule"], "max_steps": 8, "learning_rate": 2e-4}
    student = trained(store, teacher, images, teacher, objectives=objectives, schedule=schedule)
    assert isinstance(student, DenoiserArtifact) and student.fingerprint != teacher.fingerprint


def test_a_training_that_was_cut_off_goes_on_to_the_same_adapters(
    store: Store, teacher: DenoiserArtifact, images: ImageDatasetArtifact, tmp_path: Path
) -> None:
    config = config_of(steps=4).with_changes(checkpoints={"every": 2})
    inputs = FinetuneInputs(model=teacher, data=(images,), teacher=teacher)
    plan = TrainingPlan.of(config, inputs)

    def run_of(folder: str) -> Any:
        (tmp_path / folder).mkdir(exist_ok=True)
        torch.manual_seed(plan.seed)
        run = build_denoiser_run(plan, inputs, tmp_path / folder)
        run.resume()
        return run

    whole = run_of("whole")
    whole.train()
    first = run_of("parts")
    for record in first.trainer.run():
        first._after(record)
        if record.step == 3:
            break
    second = run_of("parts")
    assert second.trainer.step == 2
    second.train()
    ends = [run.trainer.state()["weights"] for run in (whole, second)]
    assert ends[0] and all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize(
    ("adapt", "params", "line"),
    [
        ({"kind": "full"}, {}, "draws scales from 1 to 6, but adapt.kind is 'full', whose net is told none; accepted: max_scale equal"),
        ({"kind": "lora"}, {}, "adapt.kind is 'lora', but the model is a denoiser, which learns whole; accepted: full, guidance"),
    ],
)  # fmt: skip
def test_scales_that_nothing_is_told_are_refused(adapt: dict[str, Any], params: dict[str, Any], line: str) -> None:
    facts = {"model": (MODEL,), "data": (DATA,), "teacher": (MODEL,)}
    with pytest.raises(ValueError, match=line):
        finetune.forecast(config_of(adapt=adapt, **params), facts)


def test_what_no_guidance_goes_with_is_refused_before_any_work() -> None:
    facts = {"model": (MODEL,), "data": (DATA,), "teacher": (MODEL,)}
    both = FinetuneConfig(**{**TRAINING, "adapt": {"kind": "guidance"}}, objectives={"denoising": 1.0})
    with pytest.raises(ValueError, match="objectives are denoising, but adapt.kind is 'guidance'.*guided_distance"):
        finetune.forecast(both, facts)
    without = {**facts, "model": ({**MODEL, "num_labels": 3},), "teacher": ({**MODEL, "num_labels": 3},)}
    with pytest.raises(ValueError, match="max_scale is 6.0, but the model has no class beside the data's"):
        finetune.forecast(config_of(), without)
    causal = FinetuneConfig(adapt={"kind": "guidance"})
    with pytest.raises(
        ValueError, match="'guidance', which is for denoisers, and the model is a causal language model"
    ):
        finetune.forecast(causal, {"model": ({"vocab_size": 9},), "data": ({},)})
    learned = {"method": "guidance", "min_scale": 1.0, "max_scale": 6.0}
    with pytest.raises(ValueError, match="students: guidance adapters .* fold into no weights; accepted: give them"):
        merge.forecast(MergeConfig(method="fold"), {"base": (MODEL,), "students": (learned,)})
    given = {"model": (MODEL,), "data": (DATA,), "guidance": (learned,)}
    with pytest.raises(ValueError, match="guidance_scale is 8, but the adapters learned 1 to 6; accepted: one between"):
        sample.forecast(SampleConfig(guidance_scale=8.0), given)
    with pytest.raises(ValueError, match="guidance: it holds what 'full' trained; accepted: a finetune with"):
        sample.forecast(SampleConfig(guidance_scale=2.0), {**given, "guidance": ({"method": "full"},)})
    guided = {"model": ({**MODEL, "num_steps": 25, "min_scale": 1.0, "max_scale": 6.0},), "data": (DATA,)}
    assert sample.forecast(SampleConfig(guidance_scale=3.0), guided).facts["num_forwards"] == 25
    with pytest.raises(ValueError, match="guidance_scale is 7, but the adapters learned 1 to 6"):
        sample.forecast(SampleConfig(guidance_scale=7.0), guided)
    with pytest.raises(ValueError, match="input text is for causal language models.*accepted: guidance"):
        export.forecast(ExportConfig(), {"model": (MODEL,), "data": (DATA,), "text": ({},)})
    made = export.forecast(ExportConfig(), {"model": (MODEL,), "data": (DATA,), "guidance": (learned,)}).facts
    assert (made["min_scale"], made["max_scale"]) == (1.0, 6.0)
    graph = {**MODEL, "num_steps": 25}
    with pytest.raises(ValueError, match="guidance: adapters hang beside a denoiser's net, and the model is a graph"):
        sample.forecast(SampleConfig(), {**given, "model": (graph,)})
