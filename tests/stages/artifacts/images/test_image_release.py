"""A classifier with its graphs is registered, reported and pulled; a killed training goes on to the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from attar.registry.artifacts.handles import ImageClassifierArtifact, ImageDatasetArtifact, ImageGraphArtifact
from attar.registry.artifacts.store import Store
from attar.registry.release.pull import download_model
from attar.registry.tracking.mlflow_home import open_client
from attar.stages.artifacts.images.folder import load_classifier
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.finetune.subjects.images import build_image_run
from attar.stages.register.config import RegisterConfig, RegisterInputs
from attar.stages.register.stage import register
from tests.databases import copy_database
from tests.stages.artifacts.images.conftest import classifier_of


def test_a_version_holds_what_transformers_and_onnxruntime_read(
    store: Store,
    mlflow_database: Path,
    classifier: ImageClassifierArtifact,
    image_graph: ImageGraphArtifact,
    images: ImageDatasetArtifact,
    tmp_path: Path,
) -> None:
    store.root.mkdir(parents=True, exist_ok=True)
    copy_database(mlflow_database, store.root / "mlflow.db")
    scores = evaluate.execute(EvaluateConfig(), EvaluateInputs(model=classifier, tasks=(images,)), store).artifact
    gate = {"min_accuracy_retention": 0.4, "max_size_ratio": 1.0}
    inputs = RegisterInputs(model=classifier, evaluation=scores, baseline=scores, onnx=(image_graph,))
    released = register.execute(RegisterConfig(name="quarters", gate=gate), inputs, store).artifact
    assert released.facts.is_champion
    folder = download_model("quarters", tmp_path / "pulled")
    model = AutoModelForImageClassification.from_pretrained(folder / "model").eval()
    pixels = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(pixel_values=pixels).logits, load_classifier(classifier.path)(pixels))
    assert AutoImageProcessor.from_pretrained(folder / "model", backend="pil").size == {"height": 16, "width": 16}
    assert (folder / "onnx" / "model.onnx").exists() and "image-classification" in (folder / "README.md").read_text()
    assert classifier_of(store, "models:/quarters@champion").facts.image_size == (16, 16)
    client = open_client(store.root)
    source = client.get_model_version_by_alias("quarters", "champion").source
    assert client.get_logged_model(str(source).removeprefix("models:/")).model_type == "image-classifier"


@pytest.mark.parametrize("name", ["max_perplexity_ratio", "min_spearman_retention"])
def test_a_limit_that_is_not_measured_of_images_is_refused(classifier: ImageClassifierArtifact, name: str) -> None:
    facts = {"model": (classifier.facts,), "evaluation": ({},), "baseline": ({},)}
    with pytest.raises(ValueError, match=f"gate.{name} is not measured of an image classifier; accepted: max_image"):
        register.forecast(RegisterConfig(name="quarters", gate={name: 1.0}), facts)


def test_a_training_that_was_cut_off_goes_on_to_the_same_weights(
    classifier: ImageClassifierArtifact, images: ImageDatasetArtifact, tmp_path: Path
) -> None:
    config = FinetuneConfig(
        adapt={"kind": "full"},
        objectives={"labels": 1.0},
        rows={"augment": ["shift", "erase"]},
        schedule={"max_steps": 6, "tokens_per_step": 16, "learning_rate": 3e-3},
        compute={"tokens_per_micro_batch": 16},
        checkpoints={"every": 2},
        heldout={"every": 6},
    )
    inputs = FinetuneInputs(model=classifier, data=(images,))
    plan = TrainingPlan.of(config, inputs)

    def run_of(folder: str) -> object:
        (tmp_path / folder).mkdir(exist_ok=True)
        return build_image_run(plan, inputs, tmp_path / folder)

    whole = run_of("whole")
    whole.resume()
    whole.train()
    first = run_of("parts")
    first.resume()
    for record in first.trainer.run():
        first._after(record)
        if record.step == 3:
            break
    second = run_of("parts")
    second.resume()
    assert second.trainer.step == 2
    second.train()
    ends = [run.trainer.state()["weights"] for run in (whole, second)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
