"""Recipes: every mistake is one line that names node, field, value and what would be accepted."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from attar.pipelines.recipe.file import RecipeError, shipped_recipes
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import build_recipe, load_recipe
from attar.registry.artifacts.store import Store

TINY = yaml.safe_load(shipped_recipes()["tiny"].read_text())


def changed(*path_and_value: object) -> dict:
    document = copy.deepcopy(TINY)
    *path, last, value = path_and_value
    node = document["nodes"]
    for part in path:
        node = node[part]
    node[last] = value
    return document


# What a recipe's runtimes come in: without them its plan is refused, with the line that installs them.
NEEDED_PACKAGES = {"runtimes": ("openvino", "ctranslate2")}


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_and_plans(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.description
    if missing := [package for package in NEEDED_PACKAGES.get(name, ()) if find_spec(package) is None]:
        with pytest.raises(RecipeError, match=f"needs the package {missing[0]}: pip install"):
            make_plan(recipe, Store(tmp_path))
        return
    assert len(make_plan(recipe, Store(tmp_path))) == len(recipe.nodes)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed("pruned", "stage", "prun"), "node 'pruned', stage = 'prun': unknown stage. Did you mean 'prune'?"),
        (
            changed("pruned", "stage", "denoise"),
            "stage = 'denoise': unknown stage. It is finetune with adapt {kind: guidance}",
        ),
        (
            changed("pruned", "config", {"num_block": 1}),
            "node 'pruned', config.num_block: unknown field. Did you mean 'num_blocks'?",
        ),
        (
            changed("pruned", "config", {"num_blocks": "many"}),
            "config.num_blocks is 'many'; accepted: a whole number",
        ),
        (
            changed("pruned", "config", "metric", "angular"),
            "config.metric = 'angular': unknown metric 'angular'. Did you mean 'angular_distance'?",
        ),
        (changed("pruned", "config", "blocks", [1]), "num_blocks and blocks contradict: both given"),
        (changed("pruned", "config", {}), "num_blocks and blocks contradict: neither given"),
        (changed("healed", "config", "method", "slrep"), "unknown method 'slrep'. Did you mean 'slerp'?"),
        (changed("healed", "config", "params", {"tt": 1}), "method 'slerp' has no parameter 'tt'. Did you mean 't'?"),
        (changed("student_a", "config", "objectives", {"reverse_kl": 1}), "unknown objective 'reverse_kl'."),
        (
            changed("release", "config", "gate", {"max_size": 1}),
            "unknown threshold 'max_size'. Did you mean 'max_size_ratio'?",
        ),
        (changed("original", "config", {}), "node 'original', config.source: missing. Accepted: One of: folder:PATH"),
        (
            changed("original", "config", {"source": "folder:/no/such"}),
            "/no/such does not exist; accepted: folder:PATH",
        ),
        (changed("original", "config", {"source": "s3:bucket"}), "has no known scheme; accepted: folder:PATH"),
        (changed("original", "config", {"source": "hub:owner/name"}), "is not of the form hub:OWNER/NAME@REVISION"),
        (changed("questions", "config", {"source": "jsonl:/no/such.jsonl"}), "/no/such.jsonl does not exist"),
        (
            changed("pruned", "inputs", "model", "questions"),
            "inputs.model = 'questions': questions makes dataset; accepted: model or encoder or classifier or tagger or image_classifier (here: original,",
        ),
        (
            changed("pruned", "inputs", "model", "orginal"),
            "inputs.model = 'orginal': no such node. Did you mean 'original'?",
        ),
        (changed("pruned", "inputs", "modle", "original"), "inputs.modle: unknown input. Did you mean 'model'?"),
        (
            changed("pruned", "inputs", {"scan": "block_scan"}),
            "inputs.model: missing; accepted: a node that makes model",
        ),
        (changed("pruned", "inputs", "model", ["original", "original"]), "takes one node, not 2"),
        (changed("block_scan", "inputs", "model", "healed"), "nodes form a cycle: "),
        (changed("pruned", "confg", {}), "node 'pruned', confg: unknown field. Did you mean 'config'?"),
        ({"nodes": {}}, "`nodes` must map node names to stages"),
        ({**TINY, "node": {}}, "recipe, node: unknown field. Did you mean 'nodes'?"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(document: dict, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_recipe(document)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pruned.config.num_blocks=4", "node 'pruned', config.num_blocks is 4, but the model has 4; accepted: 1 to 3"),
        ("rewritten.config.num_recorded=1000", "num_recorded is 1000, but the vocabulary has 259 tokens"),
        (
            "rewritten.config.num_recorded=0",
            "node 'student_b', config.objectives.forward_kl: no data set has a recorded teacher",
        ),
        ("healed.config={method: fold}", "--set 'healed.config={method: fold}': the form is node.config.field=value"),
        ("questions.config.max_rows=0", "max_rows is 0: say how many tasks to generate"),
        ("original.config.expect={num_blocks: x}", "num_blocks is 'x'; accepted: a whole number"),
        ("original.config.expect={dtype: int3}", "dtype is 'int3'; accepted: float32, bfloat16, float16"),
        ("healed.inputs.students=[student_a]", "students: method 'slerp' takes 2, not 1"),
        ("healed.inputs.students=[student_a, original]", "num_blocks mismatch: base 3, student 4"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        make_plan(load_recipe("tiny", [override]), Store(tmp_path))
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir()), "nothing was made"


def test_vocabulary_mismatch_is_refused(tmp_path: Path) -> None:
    document = copy.deepcopy(TINY)
    document["nodes"]["other"] = {
        "stage": "ingest_model",
        "config": {"source": "random:gpt2", "expect": {"vocab_size": 300}},
    }
    document["nodes"]["rewritten"]["inputs"]["model"] = "other"
    with pytest.raises(RecipeError, match="vocabulary mismatch: model 259, recorded teacher 300 tokens"):
        make_plan(build_recipe(document), Store(tmp_path))


def test_overrides_reach_nested_fields_and_name_unknown_nodes() -> None:
    recipe = load_recipe("tiny", ["release.config.gate.max_size_ratio=0.5", "pruned.config.metric=block_influence"])
    assert recipe.nodes["release"].config.gate["max_size_ratio"] == 0.5  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="the recipe has no node 'prunde'. Did you mean 'pruned'"):
        load_recipe("tiny", ["prunde.config.metric=x"])


def test_an_empty_list_is_no_input(tmp_path: Path) -> None:
    """An input that a recipe may leave out can be taken away by --set; one that it must have is missed by name."""
    recipe = load_recipe("methods/ade", ["labelled.inputs.examples=[]", "labelled.config.kinds=[Fault]"])
    assert "examples" not in recipe.nodes["labelled"].inputs
    make_plan(recipe, Store(tmp_path))
    with pytest.raises(RecipeError, match=r"node 'pruned', inputs\.model: missing"):
        load_recipe("tiny", ["pruned.inputs.model=[]"])


def test_until_and_from_pick_their_part_of_the_graph() -> None:
    recipe = load_recipe("tiny")
    assert set(recipe.until("pruned").nodes) == {"original", "questions", "block_scan", "pruned"}
    assert recipe.downstream("onnx") == {"onnx", "small", "onnx_scores", "release"}
    with pytest.raises(RecipeError, match="--until 'onxn': the recipe has no such node. Did you mean 'onnx'"):
        recipe.until("onxn")


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file or shipped recipe. Did you mean 'tiny'"):
        load_recipe("tinny")
    for text, message in (
        ("nodes: [", "not valid YAML"),
        ("- a", "a mapping with"),
        ("nodes: {a: {stage: x}, a: {}}", "given twice"),
    ):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        with pytest.raises(RecipeError, match=message):
            load_recipe(str(path))


def test_two_recipes_that_say_the_same_have_one_fingerprint() -> None:
    assert load_recipe("tiny").fingerprint == build_recipe({**TINY, "description": "other words"}).fingerprint
    assert load_recipe("tiny").fingerprint != load_recipe("tiny", ["pruned.config.num_blocks=2"]).fingerprint


def test_what_a_node_makes_is_what_its_config_says() -> None:
    """A GGUF file is no graph: what takes graphs refuses the edge, and a wrong config is not told twice."""
    document = changed("onnx", "config", {"format": {"kind": "gguf"}})
    assert load_recipe("tiny").nodes["onnx"].kinds[0].kind == "onnx"
    with pytest.raises(RecipeError) as refusal:
        build_recipe(document)
    lines = str(refusal.value).splitlines()
    assert (
        "node 'small', inputs.model = 'onnx': onnx makes gguf; accepted: onnx or encoder_onnx or classifier_onnx or tagger_onnx or image_onnx (here: small)"
        in lines
    )
    with pytest.raises(RecipeError) as refusal:
        build_recipe(changed("onnx", "config", {"format": {"kind": "gguf", "weights": "q3"}}))
    assert len(str(refusal.value).splitlines()) == 1 and "config.format.weights" in str(refusal.value)
