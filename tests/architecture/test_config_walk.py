"""A config is resolved once: what a training is told goes through few files, and does not come back to those it left."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import attar.stages
from attar.stages.contract import StageConfig

ROOT = Path(__file__).parents[2]
PACKAGES = ("pipelines", "stages", "registry", "compressors")
STAGE = "stages.finetune.stage"
# What issue 21 asks for; the whole stage meets 4 files and comes back 5 times, building the run stays in one.
MAX_FILES, MAX_RETURNS = 12, 5
MAX_FIELDS = 12
# Module and name of a class.
Held = tuple[str, str]


@dataclass
class Module:
    """A file: its functions and classes by name, and where each name it imports from us comes from."""

    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    # unions of classes under a name: Teacher = Annotated[AutoTeacher | InputTeacher, ...]
    aliases: dict[str, ast.expr] = field(default_factory=dict)


@cache
def read_modules(root: Path) -> dict[str, Module]:
    """Return every module of the source by its dotted name below the root."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            module = Module()
            for node in ast.walk(tree := ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module:
                    origin = node.module.removeprefix("attar.")
                    module.imports |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
            module.functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
            module.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
            module.aliases = {unparsed(name): value for name, value in _assignments(ast.Module(tree.body[:], []))}
            modules[".".join(path.relative_to(root).with_suffix("").parts)] = module
    return modules


class Walk:
    """Follows settings from a function through every function of ours that takes them whole.

    Settings are a config, a config nested in it, or the plan made of it. Followed: a parameter annotated with one of these classes, or with
    a union of them under a name; a local name bound to one, or made by one of the classes (`TrainingPlan.of(...)`); an attribute of `self`
    that a constructor keeps one in; an attribute that holds one (`config.teacher`), as deep as they go; and `self` in their own methods and
    properties. A plain value read off them (`config.schedule.seed`) is what it should be, and not followed.

    Counted: `files`, those that the settings are handed into, the start included; `num_returns`, how often the walk comes back to a file that
    it had left, whether by a call or because a call is over.
    """

    def __init__(self, modules: dict[str, Module], settings: set[str]) -> None:
        self.modules, self.settings = modules, settings
        self.trail: list[str] = []
        self.num_returns = 0
        self._below: set[tuple[str, str]] = set()

    @property
    def files(self) -> set[str]:
        """The files that were met."""
        return set(self.trail)

    def through(self, module: str, name: str) -> Walk:
        """Walk through a function of a module."""
        self._enter(module)
        self._visit(module, name)
        return self

    def _enter(self, module: str) -> None:
        if self.trail and self.trail[-1] == module:
            return
        self.num_returns += module in self.trail
        self.trail.append(module)

    def _visit(self, module: str, name: str) -> None:
        node, owner = self._find(module, name)
        if node is None or (module, name) in self._below:  # it calls itself
            return
        self._below.add((module, name))
        tracked = self._tracked(module, node, owner)
        for inner in _in_order(node):
            for target in (targets := self._steps(module, inner, tracked, owner)):
                self._enter(target[0])
                self._visit(*target)
            if targets:
                self._enter(module)
        self._below.discard((module, name))

    def _find(self, module: str, name: str) -> tuple[ast.FunctionDef | None, ast.ClassDef | None]:
        known, (head, _, tail) = self.modules[module], name.partition(".")
        if not tail:
            return known.functions.get(head), None
        owner = known.classes.get(head)
        body = owner.body if owner else []
        return next((n for n in body if isinstance(n, ast.FunctionDef) and n.name == tail), None), owner

    def _tracked(self, module: str, node: ast.FunctionDef, owner: ast.ClassDef | None) -> dict[str, list[Held]]:
        """Return the names in a function that hold settings, each with the module and name of its classes."""
        tracked = self._parameters(module, node)
        if owner is not None and owner.name in self.settings:
            tracked["self"] = [(module, owner.name)]
        if owner is not None:
            tracked |= self._held(module, owner)
        for target, value in _assignments(node):
            if held := self._classes(value, tracked) or self._made(module, value):
                tracked[unparsed(target)] = held
        return tracked

    def _parameters(self, module: str, node: ast.FunctionDef) -> dict[str, list[Held]]:
        held = {arg.arg: self._annotated(module, arg.annotation) for arg in [*node.args.args, *node.args.kwonlyargs]}
        return {name: classes for name, classes in held.items() if classes}

    def _held(self, module: str, owner: ast.ClassDef) -> dict[str, list[Held]]:
        """Return the attributes of `self` in which a constructor keeps settings."""
        init = next((n for n in owner.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        given = self._parameters(module, init) if init else {}
        pairs = _assignments(init) if init else []
        return {unparsed(to): classes for to, value in pairs if (classes := self._classes(value, given))}

    def _annotated(self, module: str, annotation: ast.expr | None) -> list[Held]:
        """Return the settings classes that an annotation names, unions under a name included."""
        classes: list[Held] = []
        for node in ast.walk(annotation) if annotation is not None else ():
            if not isinstance(node, ast.Name):
                continue
            origin, name = self.modules[module].imports.get(node.id, (module, node.id))
            if name in self.settings:
                classes.append((origin, name))
            elif origin in self.modules and name in self.modules[origin].aliases:
                classes += self._annotated(origin, self.modules[origin].aliases[name])
        return classes

    def _classes(self, value: ast.expr, tracked: dict[str, list[Held]]) -> list[Held]:
        """Return the settings classes that an expression may be of: a tracked name, or an attribute that holds settings."""
        if (text := unparsed(value)) in tracked:
            return tracked[text]
        if not isinstance(value, ast.Attribute):
            return []
        classes: list[Held] = []
        for module, name in self._classes(value.value, tracked):
            owner = self.modules[module].classes.get(name) if module in self.modules else None
            for entry in owner.body if owner else ():
                if isinstance(entry, ast.AnnAssign) and unparsed(entry.target) == value.attr:
                    classes += self._annotated(module, entry.annotation)
        return classes

    def _made(self, module: str, value: ast.expr) -> list[Held]:
        head = unparsed(value.func).partition(".")[0] if isinstance(value, ast.Call) else ""
        return [self.modules[module].imports.get(head, (module, head))] if head in self.settings else []

    def _steps(
        self, module: str, node: ast.AST, tracked: dict[str, list[Held]], owner: ast.ClassDef | None
    ) -> list[tuple[str, str]]:
        """Return where settings go from one node of the syntax: functions that they are handed to, their own methods and properties."""
        if isinstance(node, ast.Attribute):
            targets = [(held[0], f"{held[1]}.{node.attr}") for held in self._classes(node.value, tracked)]
            return [target for target in targets if target[0] in self.modules and self._find(*target)[0] is not None]
        if not isinstance(node, ast.Call):
            return []
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if not any(self._classes(value, tracked) for value in given):
            return []
        return self._callee(module, unparsed(node.func), owner)

    def _callee(self, module: str, text: str, owner: ast.ClassDef | None) -> list[tuple[str, str]]:
        head, _, tail = text.partition(".")
        if head == "self" and owner is not None and tail.isidentifier():
            return [(module, f"{owner.name}.{tail}")]
        origin, name = self.modules[module].imports.get(head, (module, head))
        known = self.modules.get(origin)
        if known is not None and name in known.functions and not tail:
            return [(origin, name)]
        if known is not None and name in known.classes:
            return [(origin, f"{name}.{tail or '__init__'}")]
        return []


@cache
def unparsed(node: ast.AST) -> str:
    """The text of a node; a walk comes by the same ones again and again."""
    return ast.unparse(node)


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below one in the order in which the source has them: arguments before their call."""
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)
        yield child


def _assignments(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assign) and len(inner.targets) == 1:
            target, value = inner.targets[0], inner.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                yield from zip(target.elts, value.elts, strict=True)
            else:
                yield target, value


def settings_classes() -> set[str]:
    """Return the names of the configs that a training's config is made of, and of its plan."""
    from attar.stages.finetune.config import FinetuneConfig
    from attar.stages.runtime.older_fields import models_in

    names, pending = {"TrainingPlan"}, [FinetuneConfig]
    while pending:
        model = pending.pop()
        names.add(model.__name__)
        pending += [inner for entry in model.model_fields.values() for inner in models_in(entry.annotation)]
    return names


@pytest.fixture(scope="module", autouse=True)
def forget() -> Iterator[None]:
    """The nodes of syntax need not stay."""
    yield
    for cached in (read_modules, unparsed):
        cached.cache_clear()


def test_what_a_training_is_told_goes_through_few_files() -> None:
    walk = Walk(read_modules(ROOT), settings_classes()).through(STAGE, "build_run")
    assert {STAGE} <= walk.files
    assert len(walk.files) <= MAX_FILES, sorted(walk.files)
    assert walk.num_returns <= MAX_RETURNS, " -> ".join(walk.trail)


def test_a_config_is_resolved_once() -> None:
    """The whole stage, resolving included: the plan asks the config for the fitted number, its objectives and what learns."""
    walk = Walk(read_modules(ROOT), settings_classes()).through(STAGE, "finetune")
    assert {"stages.finetune.plan", "stages.finetune.config"} <= walk.files
    assert len(walk.files) <= MAX_FILES and walk.num_returns <= MAX_RETURNS, " -> ".join(walk.trail)


def test_a_plan_holds_no_config() -> None:
    """What runs takes values of its own types: none of a plan's fields, however deep, is what a user wrote."""
    from attar.stages.finetune.plan import TrainingPlan

    pending: list[Any] = [TrainingPlan]
    seen: set[Any] = set()
    while pending:
        if (hint := pending.pop()) in seen:
            continue
        seen.add(hint)
        assert not (isinstance(hint, type) and issubclass(hint, StageConfig)), hint
        pending += [part for part in get_args(hint) if not isinstance(part, str)]
        if dataclasses.is_dataclass(hint):
            pending += list(get_type_hints(hint).values())
    assert len(seen) > 20


def test_the_walk_counts_files_and_returns(tmp_path: Path) -> None:
    texts = {
        "a": "from attar.stages.b import Plan, read\nfrom attar.stages.c import use\ndef start(plan: Plan):\n    use(plan)\n    read(plan)\n    use(plan.seed)\n",
        "b": "from attar.stages.c import use\nclass Plan:\n    seed: int\ndef read(plan: Plan):\n    same = plan\n    use(same)\n",
        "c": "from attar.stages.b import Plan\ndef use(plan: Plan):\n    print(plan.seed)\n",
    }
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    for name, text in texts.items():
        (tmp_path / "stages" / f"{name}.py").write_text(text)
    walk = Walk(read_modules(tmp_path), {"Plan"}).through("stages.a", "start")
    assert walk.trail == [f"stages.{name}" for name in "acabcba"]
    assert len(walk.files) == 3 and walk.num_returns == 4


def test_configs_have_few_fields() -> None:
    for module in pkgutil.walk_packages(attar.stages.__path__, "attar.stages."):
        importlib.import_module(module.name)
    pending, sizes = [StageConfig], {}
    while pending:
        model = pending.pop()
        sizes[model.__name__] = len(model.model_fields)
        pending += model.__subclasses__()
    assert len(sizes) > 40
    assert {name: size for name, size in sizes.items() if size > MAX_FIELDS} == {}
