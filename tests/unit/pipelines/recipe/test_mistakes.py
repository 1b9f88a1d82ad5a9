"""Every mistake of a recipe at once: a line each, of bounded length, in bounded time."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import pytest

from attar.pipelines.recipe.file import MAX_DEPTH
from attar.pipelines.recipe.mistakes import MAX_LINE_LENGTH, MAX_LINES, RecipeError
from attar.pipelines.recipe.plan import make_plan
from attar.pipelines.recipe.whole import MAX_NODES, build_recipe, load_recipe
from attar.registry.artifacts.store import Store

NODE = "nodes:\n  a: {stage: ingest_model, config: {source: 'random:llama'}}\n"
RANDOM = {"stage": "ingest_model", "config": {"source": "random:llama"}}


def refusal(folder: Path, text: str | bytes, *overrides: str) -> tuple[str, ...]:
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as refused:
        make_plan(load_recipe(str(path), overrides), Store(folder / "home"))
    return refused.value.lines


def test_every_mistake_is_told_in_a_line_of_its_own(tmp_path: Path) -> None:
    lines = refusal(
        tmp_path,
        """
nmae: x
execution: {prnue: gpu}
nodes:
  "1":
    stage: ingest_model
    config: {source: "s3:bucket", sha: 3, license: 7}
  p:
    stage: prune
    config: {num_blocks: -1, patch: {kind: linear, ridge: x}, paatch: linear}
    inputs: {modle: "1", scan: nothing}
  q: {stage: prun}
  r: 3
""",
    )
    beginnings = [
        "recipe, nmae: unknown field. Did you mean 'name'?",
        "recipe, execution.prnue: unknown stage. Did you mean 'prune'?",
        "node '1', config.source = 's3:bucket'",
        "node '1', config.license is 7",
        "node '1', config.sha: unknown field. Did you mean 'sha256'?",
        "node 'p', inputs.modle: unknown input. Did you mean 'model'?",
        "node 'p', inputs.scan = 'nothing': no such node.",
        "node 'p', config.num_blocks is -1",
        "node 'p', config.patch.ridge is 'x'; accepted: a number",
        "node 'p', config.paatch: unknown field. Did you mean 'patch'?",
        "node 'q', stage = 'prun': unknown stage. Did you mean 'prune'?",
        "node 'r' is 3; a mapping with stage, config",
        "node 'p', inputs.model: missing",
    ]
    assert len(lines) == len(beginnings)
    for line, beginning in zip(lines, beginnings, strict=True):
        assert line.startswith(beginning), (line, beginning)


def test_every_stage_that_the_plan_refuses_is_told(tmp_path: Path) -> None:
    nodes = {
        "a": RANDOM,
        "b": {"stage": "prune", "config": {"blocks": [9]}, "inputs": {"model": "a"}},
        "c": {"stage": "prune", "config": {"num_blocks": 1}, "inputs": {"model": "a"}},
        "d": {"stage": "prune", "config": {"blocks": [0]}, "inputs": {"model": "b"}},
    }
    with pytest.raises(RecipeError) as refused:
        make_plan(build_recipe({"nodes": nodes}), Store(tmp_path))
    assert [line[:8] for line in refused.value.lines] == ["node 'b'", "node 'c'"], "d is given what is refused"


@pytest.mark.parametrize("name", ["1", "yes", "010", "null", "2001-01-01", "1.50", "on"])
def test_a_node_may_be_named_as_it_is_written(name: str, tmp_path: Path) -> None:
    second = f"  x: {{stage: prune, config: {{blocks: [0]}}, inputs: {{model: {name}}}}}\n"
    (tmp_path / "recipe.yaml").write_text(NODE.replace("  a:", f"  {name}:") + ("" if name == "null" else second))
    assert name in load_recipe(str(tmp_path / "recipe.yaml")).nodes
    if name != "null":
        replaced = load_recipe(str(tmp_path / "recipe.yaml"), [f"x.inputs.model={name}"])
        assert replaced.nodes["x"].inputs == {"model": (name,)}


ODD = {
    "stage a list": ("nodes: {a: {stage: [prune]}}", "stage = ['prune']: unknown stage"),
    "config a number": ("nodes: {a: {stage: prune, config: 0}}", "config = 0: accepted: a mapping"),
    "inputs a list": ("nodes: {a: {stage: prune, inputs: [b]}}", "inputs = ['b']: accepted: a mapping of model"),
    "an input a mapping": ("nodes: {a: {stage: prune, inputs: {model: {b: c}}}}", "inputs.model = {'b': 'c'}: accepted: the name"),
    "deep list": ("nodes: " + "[" * 1000 + "]" * 1000, f"nested more than {MAX_DEPTH} deep"),
    "deep anchors": ("\n".join(f"x{n}: &a{n} [{f'*a{n - 1}' if n else 'x'}]" for n in range(100)), f"nested more than {MAX_DEPTH} deep"),
    "an anchor in itself": ("nodes: &a [*a]", "alias 'a' names nothing before it"),
    "merge of billions": ("a0: &a0 {x: y}\n" + "\n".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 20)}]}}" for n in range(1, 9)), "more than 100000 values"),
    "not finite": (NODE.replace("}}", ", expect: {num_blocks: .nan}}}"), "config.expect.num_blocks = nan: accepted: a finite number"),
    "a million digits": (NODE.replace("}}", f", expect: {{num_blocks: {'9' * 900_000}}}}}}}"), "a number of 900000 digits"),
    "past 64 bits": (NODE.replace("}}", f", expect: {{num_blocks: {'9' * 30}}}}}}}"), "config.expect.num_blocks: accepted: whole numbers up to"),
    "half an emoji": (NODE.replace("random:llama", 'x').replace("'x'", '"\\ud83d"'), "not valid YAML"),
    "no UTF-8": (b"\xff\xfe\xfa", "not UTF-8 text"),
    "a card of numbers": ("method: {title: 1, paper: a, reconstructed: b, tests: 2.5}\n" + NODE, "recipe, method: title = 1; accepted: text"),
    "a path too long": (NODE.replace("random:llama", "folder:/" + "a" * 9000), "File name too long"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_yaml_is_refused_in_a_line(name: str, tmp_path: Path) -> None:
    text, message = ODD[name]
    lines = refusal(tmp_path, text)
    assert any(message in line for line in lines), lines
    assert all(len(line) <= MAX_LINE_LENGTH and "\n" not in line and line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("text", "override"),
    [
        ("nodes: [a]\n", "a.config.x=1"),
        ("nodes: {a: b}\n", "a.config.x=1"),
        (NODE, "a.config.source=" + "[" * 1500),
        (NODE, "a.config.source=!!python/name:os.system"),
        (NODE, "x" * 500_000 + ".config.y=1"),
        (NODE, "a.config.source=" + "s" * 500_000),
    ],
)
def test_odd_overrides_are_refused_in_a_line(text: str, override: str, tmp_path: Path) -> None:
    [line] = refusal(tmp_path, text, override)
    assert len(line) <= MAX_LINE_LENGTH


def test_huge_recipes_are_refused_in_bounded_time_and_lines(tmp_path: Path) -> None:
    """The slowest took 5 s for 80 kB, and square of that for more: here each has up to the 1 MB that a recipe may have."""
    huge = {
        "keys": "z:\n" + "".join(f"  {k:06d}:\n" for k in range(40_000)) + NODE,
        "typos": "nodes:\n" + "".join(f"  n{k}: {{stage: prun, confg: {{}}}}\n" for k in range(MAX_NODES)),
        "nodes": "nodes:\n" + "".join(f"  n{k}: {{stage: prune}}\n" for k in range(MAX_NODES + 1)),
        "fields": "nodes:\n  a:\n    stage: prune\n    config:\n"
        + "".join(f"      num_block{k}: 1\n" for k in range(20_000)),
        "blocks": "nodes: {a: {stage: prune, config: {blocks: [" + "x, " * 80_000 + "]}}}",
        "name": "nodes: {" + "a" * 900_000 + ": {stage: " + "b" * 90_000 + "}}",
    }
    for name, text in huge.items():
        started = time.process_time()
        lines = refusal(tmp_path, text)
        assert time.process_time() - started < 5.0, name
        assert len(lines) <= MAX_LINES + 1 and max(map(len, lines)) <= MAX_LINE_LENGTH, name


def test_a_key_merged_in_gives_way_to_one_that_is_written(tmp_path: Path) -> None:
    text = """
nodes:
  a: {stage: ingest_model, config: &base {source: "random:llama", license: mit}}
  b: {stage: ingest_model, config: {<<: *base, license: apache-2.0}}
"""
    (tmp_path / "recipe.yaml").write_text(text)
    nodes = load_recipe(str(tmp_path / "recipe.yaml")).nodes
    assert [nodes[name].config.license for name in "ab"] == ["mit", "apache-2.0"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "document",
    [{1: {}}, {"nodes": {1: RANDOM, "1": {}}}, {"nodes": {"a": {1: 2}}}, {"nodes": {"a": {"stage": {1, 2}}}}, [], None, {"nodes": b"x"}],
)  # fmt: skip
def test_documents_that_no_yaml_gives_are_refused_too(document: Any) -> None:
    with pytest.raises(RecipeError):
        build_recipe(document)


def test_an_error_of_many_lines_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(RecipeError("one", "two\nhalves")))
    assert error.lines == ("one", "two halves") and str(error) == "one\ntwo halves"
