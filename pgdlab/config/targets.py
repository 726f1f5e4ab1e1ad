"""What a `_target_` takes: the keyword arguments of an importable class or function, by its signature."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SCALARS = (str, int, float, bool, type(None))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """The keyword arguments of a target, as far as they are known.

    defaults: as plain YAML values, without those that YAML has no words for; needed: the keys without a default; open:
    whether it takes any further keyword.
    """

    name: str
    hints: Mapping[str, Any]
    keys: tuple[str, ...]
    defaults: Mapping[str, Any]
    needed: tuple[str, ...]
    open: bool

    def hint(self, key: str, value: Any) -> Any:
        """What a key's value must be; Any where that cannot be told: what a node makes is known when it is imported."""
        return Any if has_node(value) else self.hints.get(key, Any)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(Signature):
    """All of the keyword arguments of an imported target."""

    target: Callable[..., Any]

    def hint(self, key: str, value: Any) -> Any:
        return self.hints.get(key, Any)


Read = Callable[[str], Signature]  # schema(), or what a source tells without importing anything: signatures.signature()


@functools.cache
def schema(path: str) -> Schema:
    """The schema of an importable class or function. Raises ImportError where there is none."""
    module, _, name = path.rpartition(".")
    target = getattr(importlib.import_module(module or "builtins"), name, None)
    if not callable(target):
        raise ImportError(f"{module} has no class or function {name}")
    try:
        parameters = parameters_of(target)
    except ValueError:  # written in C (datetime.timedelta): nothing is known about its arguments
        return Schema(name=name, target=target, hints={}, keys=(), defaults={}, needed=(), open=True)
    keywords = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    defaults = {p.name: p.default for p in keywords if p.default is not p.empty} | made(target)
    # a dataclass resolves each field in the module that declared it; an __init__ in its own module
    from_init = isinstance(target, type) and not dataclasses.is_dataclass(target)
    annotated: Any = target.__init__ if from_init else target
    return Schema(
        name=name,
        target=target,
        hints=typing.get_type_hints(annotated),
        keys=tuple(p.name for p in keywords),
        defaults={key: as_yaml(value) for key, value in defaults.items() if in_yaml(value)},
        needed=tuple(p.name for p in keywords if p.name not in defaults),
        open=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def parameters_of(target: Any) -> list[inspect.Parameter]:
    """What a class or function takes. An inherited `__init__(*args, **kwargs)`, such as that of nn.Module, passes on what it
    is given: what counts is the next one. Raises ValueError where nothing is known."""
    found = [*inspect.signature(target).parameters.values()]
    if not isinstance(target, type) or "__init__" in vars(target) or not only_passes_on(found):
        return found
    made = [vars(base)["__init__"] for base in target.__mro__[1:] if "__init__" in vars(base) and base is not object]
    every = [[*inspect.signature(init).parameters.values()][1:] for init in made]
    return next((own for own in every if not only_passes_on(own)), [])


def only_passes_on(parameters: Sequence[inspect.Parameter]) -> bool:
    """Whether all that it takes is *args, **kwargs."""
    return [p.kind for p in parameters] == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]


def made(target: Any) -> dict[str, Any]:
    """The defaults of a dataclass that its signature does not show: those that a factory makes."""
    fields = dataclasses.fields(target) if dataclasses.is_dataclass(target) else ()
    return {f.name: f.default_factory() for f in fields if f.init and f.default_factory is not dataclasses.MISSING}


def in_yaml(value: Any) -> bool:
    """Whether as_yaml() can say a value; the target has others itself (a timedelta of Lightning's)."""
    return dataclasses.is_dataclass(value) or isinstance(value, (*SCALARS, Path, list, tuple, dict))


def as_yaml(value: Any) -> Any:
    """Lists, mappings and scalars only: a dataclass as its node, a tuple as a list, a path as a string."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: as_yaml(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"_target_": f"{type(value).__module__}.{type(value).__qualname__}", **fields}
    if isinstance(value, dict):
        return {k: as_yaml(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_yaml(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def is_node(value: Any) -> bool:
    """Whether value is a mapping with a `_target_`."""
    return isinstance(value, dict) and "_target_" in value


def has_node(value: Any) -> bool:
    """Whether value is a node or has one inside."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return is_node(value) or any(has_node(child) for child in inside)
