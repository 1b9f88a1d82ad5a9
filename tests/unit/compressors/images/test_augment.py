"""Views of images: each by its own draw, the same again from the same seed."""

from __future__ import annotations

import pytest
import torch

from attar.compressors.distill.examples.images import LabelledImage, image_batches
from attar.compressors.distill.loop.images import ImagesWithClasses
from attar.compressors.images.augment import AUGMENTATIONS, Crop, Erase, Flip, Shift, Turn


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(32, 2, 12, 10, generator=drawn(7))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_seed_gives_the_same_view_and_others_another(name: str, pixels: torch.Tensor) -> None:
    change = AUGMENTATIONS[name]()
    pixels = pixels[:, :, :10] if name == "turn" else pixels  # of square images
    assert torch.equal(change(pixels, drawn()), change(pixels, drawn()))
    assert not torch.equal(change(pixels, drawn()), change(pixels, drawn(1)))
    assert change(pixels, drawn()).shape == pixels.shape and torch.isfinite(change(pixels, drawn())).all()
    constant = torch.full((4, 1, 8, 8), 3.0)
    if name != "erase":
        assert torch.allclose(change(constant, drawn()), constant)


def test_a_turn_is_each_of_four_quarters_and_of_square_images(pixels: torch.Tensor) -> None:
    square = pixels[:, :, :10]
    turned = Turn()(square, drawn())
    quarters = [
        [torch.equal(new, torch.rot90(old, count, (-2, -1))) for count in range(4)].index(True)
        for new, old in zip(turned, square, strict=True)
    ]
    assert set(quarters) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="turn is for square images; these are 12 x 10"):
        Turn()(pixels, drawn())


def test_a_flip_mirrors_about_half_of_the_images(pixels: torch.Tensor) -> None:
    turned = Flip()(pixels, drawn())
    is_turned = [torch.equal(new, old.flip(-1)) for new, old in zip(turned, pixels, strict=True)]
    is_same = [torch.equal(new, old) for new, old in zip(turned, pixels, strict=True)]
    assert all(a != b for a, b in zip(is_turned, is_same, strict=True)) and 8 < sum(is_turned) < 24
    assert torch.equal(Flip(probability=1.0)(pixels, drawn()), pixels.flip(-1))


def test_a_shift_moves_whole_rows_and_columns() -> None:
    image = torch.arange(100.0).reshape(1, 1, 10, 10)
    moved = Shift(fraction=0.2)(image, drawn(3))[0, 0]
    rows, columns = (moved // 10)[:, 0], (moved % 10)[0]
    assert torch.equal(moved, rows[:, None] * 10 + columns[None])
    for line in (rows, columns):
        steps = line.diff()
        assert ((steps == 0) | (steps == 1)).all() and abs(float(line[5]) - 5) <= 2


def test_a_crop_of_everything_is_nearly_the_image(pixels: torch.Tensor) -> None:
    whole = Crop(min_area=1.0)(pixels, drawn())
    assert (whole - pixels).abs().mean() < (Crop(min_area=0.2)(pixels, drawn()) - pixels).abs().mean()


def test_an_erased_square_has_its_size() -> None:
    erased = Erase(fraction=0.5)(torch.ones(5, 3, 8, 8), drawn())
    assert ((erased == 0).sum(dim=(2, 3)) == 16).all()


@pytest.mark.parametrize("name", ["flip", "shift", "crop", "erase"])
def test_a_share_above_all_is_refused(name: str) -> None:
    field = {"flip": "probability", "crop": "min_area"}.get(name, "fraction")
    with pytest.raises(ValueError, match=f"{field} is 1.5; accepted: above 0, at most 1"):
        AUGMENTATIONS[name](**{field: 1.5})


def test_batches_are_drawn_by_step_and_image_however_they_are_split(pixels: torch.Tensor) -> None:
    examples = [LabelledImage(lambda image=image: image, index) for index, image in enumerate(pixels)]
    modality = ImagesWithClasses((Flip(), Shift()), seed=3)

    def seen(step: int, size: int) -> torch.Tensor:
        return torch.cat([b.pixels for b in modality.at(step).batches(examples, range(32), size, has_teacher=False)])

    assert torch.equal(seen(5, 8), seen(5, 32)) and not torch.equal(seen(5, 8), seen(6, 8))
    plain = next(modality.batches(examples, range(32), 32, has_teacher=False))
    assert torch.equal(plain.pixels, pixels) and plain.labels.tolist() == list(range(32))
    assert [batch.num_positions for batch in image_batches(examples, range(7), 3)] == [3, 3, 1]
