"""Students that share the classes out between them: what each learns, who draws which image, which routes are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attar.registry.artifacts.handles import DenoiserArtifact, ImageDatasetArtifact
from attar.registry.artifacts.store import Store
from attar.stages.compare.sample.config import SampleConfig, SampleInputs
from attar.stages.compare.sample.routes import RoutedDrawing
from attar.stages.compare.sample.stage import sample
from attar.stages.finetune.config import FinetuneConfig, FinetuneInputs
from attar.stages.finetune.plan import TrainingPlan
from attar.stages.finetune.stage import finetune
from attar.stages.finetune.subjects.denoiser import build_denoiser_run
from tests.stages.artifacts.denoiser.conftest import DATA, MODEL, TRAINING, denoiser_of


class Shade:
    """A student that draws one shade, and counts the images that it drew and its forwards."""

    num_classes, shape = 4, (1, 2, 2)

    def __init__(self, shade: float, num_steps: int) -> None:
        self.shade, self.num_steps, self.num_forwards = shade, num_steps, 0
        self.classes: list[int] = []

    def __call__(self, noise: Tensor, labels: Tensor) -> Tensor:
        self.num_forwards += self.num_steps
        self.classes += labels.tolist()
        return torch.full_like(noise, self.shade)


def test_each_image_is_drawn_by_the_student_of_its_class() -> None:
    students = [Shade(0.0, 1), Shade(1.0, 1), Shade(2.0, 3)]
    drawing = RoutedDrawing(students, [[1, 3], [0], [2]])
    labels = torch.tensor([0, 1, 3, 1])
    images = drawing(torch.randn(4, 1, 2, 2), labels)
    assert images[:, 0, 0, 0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert [student.classes for student in students] == [[1, 3, 1], [0], []]
    assert drawing.num_forwards == 1, "an image goes through its own student alone"
    drawing(torch.randn(1, 1, 2, 2), torch.tensor([2]))
    assert drawing.num_forwards == 4


def test_a_student_learns_its_own_classes_alone(
    store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact, tmp_path: Any
) -> None:
    def learned(classes: list[int]) -> tuple[set[int], int]:
        config = FinetuneConfig(**TRAINING, objectives={"denoising": 1.0}, rows={"classes": classes})
        inputs = FinetuneInputs(model=denoiser, data=(images,))
        rows: Any = build_denoiser_run(TrainingPlan.of(config, inputs), inputs, tmp_path).rows
        every = [*rows.train, *rows.heldout]
        return {example.label for example in every} | {example.shown for example in rows.heldout}, len(every)

    (first, num_first), (second, num_second), (both, num_both) = map(learned, ([0], [1, 2], []))
    assert (first, second, both) == ({0}, {1, 2}, {0, 1, 2})
    assert num_first + num_second == num_both, "every image is learned by one student"


def test_students_are_drawn_from_as_one(store: Store, denoiser: DenoiserArtifact, images: ImageDatasetArtifact) -> None:
    other = denoiser_of(store, "random:unet?sample_size=8&num_classes=3&width=8&seed=1")
    config = SampleConfig(num_steps=1, num_images=30, routes=[[0, 2], [1]], classifier={"num_steps": 5, "num_draws": 2})
    drawn = sample.execute(config, SampleInputs(model=denoiser, data=images, others=(other,)), store).artifact
    assert drawn.facts["num_forwards"] == 1
    files = [next((model.path / "unet").glob("*.safetensors")) for model in (denoiser, other)]
    assert drawn.facts["disk_bytes"] == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize(
    ("routes", "others", "line"),
    [
        ([], (MODEL,), "routes has 0 lists of classes; accepted: 2 lists, of the model and each of `others`"),
        ([[0, 1, 2]], (), "routes has 1 lists of classes; accepted: none without the input `others`"),
        ([[0, 1], [1, 2]], (MODEL,), "routes: class 1 has 2 students; accepted: one for each of 0 to 2"),
        ([[0], [1]], (MODEL,), "routes: class 2 has 0 students"),
        ([[0], [1, 2]], ({**MODEL, "sample_size": 4},), "others: sample_size is 4, the model's 8; accepted: the same"),
    ],
)
def test_routes_that_leave_an_image_to_none_or_two_are_refused(
    routes: list[list[int]], others: tuple[dict[str, Any], ...], line: str
) -> None:
    with pytest.raises(ValueError) as refused:
        sample.forecast(SampleConfig(routes=routes), {"model": (MODEL,), "data": (DATA,), "others": others})
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_classes_that_are_none_are_refused() -> None:
    def forecast(model: dict[str, Any], classes: list[int], **config: Any) -> None:
        given = FinetuneConfig(**{**TRAINING, "rows": {"classes": classes}, **config})
        finetune.forecast(given, {"model": (model,), "data": (DATA if "sample_size" in model else {},)})

    with pytest.raises(ValueError, match="rows.classes has 3, but the data has 3 classes; accepted: 0 to 2"):
        forecast(MODEL, [0, 3], objectives={"denoising": 1.0})
    with pytest.raises(
        ValueError, match=r"rows.classes is \[0\], but the model is a causal language model; accepted for it: none"
    ):
        forecast({"vocab_size": 9}, [0])
    with pytest.raises(ValueError, match=r"classes are \[1, 1\]; accepted: different ones"):
        FinetuneConfig(rows={"classes": [1, 1]})
