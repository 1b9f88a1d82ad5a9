"""How `attar.stages.prune` is both a module and a call. Python binds a submodule onto its package, over whatever bears its name.

So the module itself becomes callable, as the language allows
(https://docs.python.org/3/reference/datamodel.html#customizing-module-attribute-access), and the attribute is the same whether or not
the module was imported before. A stage without a module of its name is a plain callable.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature


class FacePackage(ModuleType):
    """The package `attar`: its submodule `stages`, when it is bound, becomes a package of callables."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "stages":
            value.__class__ = StagesPackage
        super().__setattr__(name, value)


class StagesPackage(ModuleType):
    """The package of the stages. Each is an attribute that can be called, and imported when it is first asked for."""

    def __setattr__(self, name: str, value: Any) -> None:
        if type(value) is ModuleType:
            value.__class__ = StageRoom
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if find_spec(f"{self.__name__}.{name}") is not None:
            return import_module(f"{self.__name__}.{name}")
        if message := _calls().refusal_of_name(name):
            raise AttributeError(f"{self.__name__}: {message}")
        return StageCall(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_calls().stage_names()})


class StageRoom(ModuleType):
    """A module of the stages; one that bears a stage's name runs that stage when it is called."""

    @property
    def __signature__(self) -> Signature:
        return _calls().call_signature(self.__name__.rpartition(".")[2])

    def __call__(self, **arguments: Any) -> Any:
        """Run the stage on folders, files and artifacts; return its artifact."""
        return _calls().call_stage(self.__name__.rpartition(".")[2], arguments)


class StageCall:
    """One stage as a function of keyword arguments: its inputs, its config's fields, `output`, `store`."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__doc__ = _calls().call_docs(name)

    @property
    def __signature__(self) -> Signature:
        return _calls().call_signature(self.__name__)

    def __repr__(self) -> str:
        return f"<stage {self.__name__}>"

    def __call__(self, **arguments: Any) -> Any:
        """Run the stage on folders, files and artifacts; return its artifact."""
        return _calls().call_stage(self.__name__, arguments)


def _calls() -> ModuleType:
    """Return the module that knows every stage. It imports them all: not before a stage is asked for."""
    import_module(
        "attar.registry.artifacts.environment"
    ).configure_process()  # threads are set before torch is imported
    return import_module("attar.folder_call")
