"""Classifiers come in whole, of every family; what is none is refused. A state dict is read without running anything of it."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from attar.compressors.images.layout import LAYOUTS, image_blocks
from attar.compressors.images.statistics import without_open_gates
from attar.registry.artifacts.handles import ImageClassifierArtifact
from attar.registry.artifacts.store import Store
from attar.stages.artifacts.images.class_order import refuse_other_order
from attar.stages.artifacts.images.folder import folder_facts, load_classifier
from attar.stages.artifacts.images.pixels import PixelReader
from attar.stages.evaluate.config import EvaluateConfig, EvaluateInputs
from attar.stages.evaluate.stage import evaluate
from attar.stages.finetune.config import FinetuneConfig
from attar.stages.finetune.stage import finetune
from attar.stages.ingest.images.state_dict import CONFIG, lite_classifier, read_state_dict
from attar.stages.ingest.model import IngestModelConfig
from tests.stages.artifacts.images.conftest import classifier_of, image_arrays, ingested


@pytest.mark.parametrize("family", LAYOUTS)
def test_every_family_comes_in_and_says_what_can_go(store: Store, family: str) -> None:
    made = classifier_of(store, f"random:{family}?num_blocks=4&hidden_size=8&image_size=16&num_classes=5")
    facts = made.facts
    assert (facts.num_classes, facts.num_channels, facts.image_size) == (5, 3, (16, 16)) and facts.num_blocks == 4
    assert set(facts.removable_blocks) <= set(range(4)) and facts.removable_blocks
    again = AutoModelForImageClassification.from_pretrained(made.path)
    assert sum(p.numel() for p in again.parameters()) == facts.num_parameters
    assert facts.num_products > facts.num_parameters // 2


def test_pixels_are_those_of_transformers_own_processor(classifier: ImageClassifierArtifact) -> None:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 1)).astype(np.uint8)
    expected = AutoImageProcessor.from_pretrained(classifier.path, backend="pil")(
        images=[image], input_data_format="channels_last", return_tensors="pt"
    )["pixel_values"][0]
    assert torch.equal(PixelReader(classifier.path, 1)(image), expected)


def test_new_classes_begin_alike(store: Store, classifier: ImageClassifierArtifact) -> None:
    new = classifier_of(store, f"folder:{classifier.path}", classes=["cat", "dog", "fox"])
    model = load_classifier(new.path).model
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "fox"} and new.facts.num_classes == 3
    assert not load_classifier(new.path)(torch.randn(2, 1, 16, 16)).any()
    others = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier")}
    before = load_classifier(classifier.path).model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in others.items())


def test_what_is_no_classifier_is_refused(store: Store, classifier: ImageClassifierArtifact, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(classifier.path, folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="has no preprocessor_config.json, which says how images are read"):
        classifier_of(store, f"folder:{folder}")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["ResNetModel"]}))
    with pytest.raises(ValueError, match="is a ResNetModel; as an image classifier are accepted: resnet"):
        classifier_of(store, f"folder:{folder}")
    config |= {"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 17, "patch_size": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="image_size is 17, which patch_size 4 does not divide"):
        classifier_of(store, f"folder:{folder}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_std": [0.0]}, "comes out of preprocessor_config.json as numbers that are no image"),
        ({"image_mean": [0.5, 0.5, 0.5]}, "an image of 1 channels cannot be read by preprocessor_config.json"),
        ({"size": {"height": 10**6, "width": 10**6}}, "height is 1000000; accepted: 1 to 4,096 pixels"),
        ({"size": {"height": "x", "width": 8}}, "an image of 1 channels cannot be read by preprocessor_config.json"),
        ({"crop_size": 0}, "crop_size is 0; accepted: 1 to 4,096 pixels"),
    ],
)
def test_a_reading_that_makes_no_image_is_refused(
    tmp_path: Path, classifier: ImageClassifierArtifact, changes: dict, message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(classifier.path, folder)
    reading = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**reading, **changes}))
    with pytest.raises(ValueError, match=message) as refused:
        folder_facts(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"1": "a", "2": "b"}}, "id2label of config.json has a class of number '2'"),
        ({"model_type": ["resnet"]}, "as an image classifier are accepted: resnet"),
        ({"depths": [10**6, 2]}, "config.json says depths 1e\\+06; accepted: 1,000 blocks at most"),
    ],
)
def test_a_config_of_no_classifier_is_refused_in_a_line(
    tmp_path: Path, classifier: ImageClassifierArtifact, changes: dict, message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(classifier.path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ValueError, match=message):
        folder_facts(folder)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("gguf:x.gguf", {}, "gguf:|does not exist"),
        ("random:llama", {}, "random image classifier 'llama' is unknown"),
        ("random:resnet?depth=3", {}, "option 'depth' is unknown; accepted: num_blocks"),
        ("random:resnet", {"classes": ["one"]}, "accepted: two or more, each once"),
        ("wheel:a==1/x.pth", {}, "state_dict_of is '', but source is a .pth; accepted: both or neither"),
        ("random:resnet", {"state_dict_of": "efficientnet_lite0"}, "but source is no .pth"),
    ],
)
def test_a_source_of_something_else_is_refused(store: Store, source: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classifier_of(store, source, **options)


def test_a_pth_file_is_for_image_classifiers_alone() -> None:
    with pytest.raises(ValueError, match="source is a .pth file, but model.kind is 'causal'"):
        IngestModelConfig(source="wheel:a==1/x.pth")


class _Runs:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (print, ("this must not run",))


def test_a_state_dict_that_would_run_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"weight": _Runs()}))
    with pytest.raises(ValueError, match="bad.pth is no plain state dict"):
        read_state_dict(tmp_path / "bad.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth holds a list; accepted: a dictionary of tensors"):
        read_state_dict(tmp_path / "list.pth")


def lite_names(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a classifier's tensors under the names of the published state dicts."""
    parts = {
        "efficientnet.embeddings.convolution.": "_conv_stem.",
        "efficientnet.embeddings.batchnorm.": "_bn0.",
        "efficientnet.encoder.top_conv.": "_conv_head.",
        "efficientnet.encoder.top_bn.": "_bn1.",
        "classifier.": "_fc.",
        "efficientnet.encoder.blocks.": "_blocks.",
        "expansion.expand_conv.": "_expand_conv.",
        "expansion.expand_bn.": "_bn0.",
        "depthwise_conv.depthwise_conv.": "_depthwise_conv.",
        "depthwise_conv.depthwise_norm.": "_bn1.",
        "projection.project_conv.": "_project_conv.",
        "projection.project_bn.": "_bn2.",
    }
    renamed = {}
    for name, value in model.state_dict().items():
        if "squeeze_excite" not in name:
            own = name
            for new, old in parts.items():
                own = own.replace(new, old)
            renamed[own] = value
    return renamed


@pytest.mark.slow
def test_a_lite_state_dict_keeps_every_number_and_its_gates_are_open() -> None:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    torch.manual_seed(0)
    source = EfficientNetForImageClassification(EfficientNetConfig(**CONFIG, num_labels=7)).eval()
    names = lite_names(source)
    assert len(names) == 296
    made = lite_classifier(names)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        whole = made(pixel_values=pixels).logits
        assert without_open_gates(made) == 16
        assert torch.equal(made(pixel_values=pixels).logits, whole)
        without_open_gates(source)
        for block in image_blocks(source):
            block.module.squeeze_excite = torch.nn.Identity()
        assert torch.allclose(source(pixel_values=pixels).logits, whole, atol=1e-6)
    with pytest.raises(ValueError, match="is no EfficientNet-lite0: it lacks tensors _conv_head.weight|lacks"):
        lite_classifier({name: value for name, value in names.items() if name != "_conv_head.weight"})


def test_classes_in_another_order_are_not_taken_by_their_numbers(
    store: Store, tmp_path: Path, classifier: ImageClassifierArtifact
) -> None:
    named = classifier_of(store, f"folder:{classifier.path}", classes=["cat", "dog", "sea_bird", "fox"])
    refuse_other_order(named.path, ["Cat", "dog", "sea bird", "fox"], "data")
    refuse_other_order(named.path, ["0", "1", "2", "3"], "data")
    refuse_other_order(named.path, ["katze", "hund"], "data")
    with pytest.raises(
        ValueError, match="task pets: class 0 is 'dog', which is class 1 of the model; accepted: the classes in"
    ):
        refuse_other_order(named.path, ["dog", "cat"], "task pets")
    pixels, labels = image_arrays(16)
    np.savez(tmp_path / "pets.npz", images=pixels, labels=labels)
    turned = ingested(store, f"npz:{tmp_path / 'pets.npz'}", classes=["dog", "cat", "sea bird", "fox"])
    with pytest.raises(ValueError, match="task pets: class 0 is 'dog'"):
        evaluate.execute(EvaluateConfig(), EvaluateInputs(model=named, tasks=(turned,)), store)
    given = {"model": (named.facts,), "data": (turned.facts,), "teacher": ({**named.facts, "num_classes": 9},)}
    taught = {"adapt": {"kind": "full"}, "objectives": {"forward_kl": 1.0}, "schedule": {"tokens_per_step": 16}}
    with pytest.raises(ValueError, match="input teacher tells 9 classes, but model tells 4"):
        finetune.forecast(FinetuneConfig(**taught), given)
