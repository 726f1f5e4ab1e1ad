"""The keyword arguments of pgdlab's own classes, read from their source: most mistakes are found before anything is imported.

What cannot be told from the source (a class of a library, a decorated function, an annotation that names a class) is left
open here; `targets.schema` sees it later, and what both can tell they tell alike.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from pgdlab.config.program import PACKAGE
from pgdlab.config.targets import Signature, as_yaml

LIGHT = ("builtins", "typing", "collections.abc", "pathlib")  # whose names may stand in an annotation
EMPTY = (
    "builtins.object",
    "abc.ABC",
    "typing.Generic",
    "typing.Protocol",
    "torch.nn.Module",
)  # bases that take no keyword
HARMLESS = ("typing.final", "typing.runtime_checkable")  # decorators that leave the arguments as they are
UNKNOWN, MISSING, HIDDEN = (
    object(),
    object(),
    object(),
)  # instead of a default: it has one, it has none, it is no argument
Function = ast.FunctionDef
Definition = ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign


class UnknownError(Exception):
    """The source alone does not say."""


class Parameter(NamedTuple):
    """A keyword. hint: its annotation, or UNKNOWN. default: as a plain YAML value, or UNKNOWN, MISSING or HIDDEN."""

    hint: Any
    default: Any


class Found(NamedTuple):
    """A definition, and the module that it is in."""

    module: str
    node: Definition


@functools.cache
def signature(path: str) -> Signature:
    """The keyword arguments of a class or function, as far as its source tells them. Raises ImportError where there is none."""
    name = path.rpartition(".")[2]
    try:
        parameters = {key: p for key, p in arguments(definition(path)).items() if p.default is not HIDDEN}
    except UnknownError:
        return Signature(name=name, hints={}, keys=(), defaults={}, needed=(), open=True)
    told = {key: p.hint for key, p in parameters.items() if p.hint is not UNKNOWN}
    return Signature(
        name=name,
        hints=told,
        keys=tuple(key for key in parameters if key != "**"),
        defaults={key: p.default for key, p in parameters.items() if p.default not in (MISSING, UNKNOWN)},
        needed=tuple(key for key, p in parameters.items() if p.default is MISSING and key in told),
        open="**" in parameters,
    )


def definition(path: str) -> Found:
    """Where a dotted name of this package is defined. Raises UnknownError for others, ImportError where there is nothing."""
    module, _, name = path.rpartition(".")
    if module.partition(".")[0] != PACKAGE.name:
        raise UnknownError
    found = bindings(module).get(name)
    if found is None:
        if re.search(rf"\b{re.escape(name)}\b|__getattr__", source(module)):
            raise UnknownError
        raise ImportError(f"{module} has no class or function {name}")
    return definition(found) if isinstance(found, str) else Found(module, found)


@functools.cache
def source(module: str) -> str:
    """The text of a module of this package. Raises ImportError, as Python does, where there is none."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file.read_text()
    above = module.rpartition(".")[0]
    if above:
        source(above)
    why = f"; {above!r} is not a package" if above and not PACKAGE.parent.joinpath(*above.split(".")).is_dir() else ""
    raise ModuleNotFoundError(f"No module named {module!r}{why}")


@functools.cache
def bindings(module: str) -> dict[str, Definition | str]:
    """What a module's names stand for: a definition, or the dotted path that they were imported from."""
    found: dict[str, Definition | str] = {}
    for node in ast.parse(source(module)).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = node
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            found |= {alias.asname or alias.name: f"{start}{alias.name}" for alias in node.names}
    return found


def arguments(found: Found) -> dict[str, Parameter]:
    """The keywords of a class or function; "**" among them where it takes any."""
    if isinstance(found.node, ast.ClassDef):
        return of_class(found) or {}
    if isinstance(found.node, Function) and not found.node.decorator_list:
        return of_function(found.module, found.node)
    raise UnknownError


def of_class(found: Found) -> dict[str, Parameter] | None:
    """The keywords of a class; None where neither it nor a base has an initialiser."""
    module, node = found.module, typing.cast("ast.ClassDef", found.node)
    own = {item.name: item for item in node.body if isinstance(item, Function)}
    decorators = [dotted(module, d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list]
    if "__new__" in own or node.keywords or {*decorators} - {"dataclasses.dataclass", *HARMLESS}:
        raise UnknownError
    if "__init__" in own:
        return of_function(module, own["__init__"], skip=1)
    bases = [of_class(base) for base in parents(found)]
    if "dataclasses.dataclass" not in decorators:
        made = next((base for base in bases if base is not None), None)
        if made is not None and [*made] == ["**"]:  # it may only pass on what it is given
            raise UnknownError
        return made
    return {key: p for base in reversed(bases) for key, p in (base or {}).items()} | fields(found)


def parents(found: Found) -> Iterator[Found]:
    """The bases of a class that may take keywords."""
    for base in typing.cast("ast.ClassDef", found.node).bases:
        path = dotted(found.module, base.value if isinstance(base, ast.Subscript) else base)
        if path not in EMPTY:
            parent = definition(path)
            if not isinstance(parent.node, ast.ClassDef):
                raise UnknownError
            yield parent


def fields(found: Found) -> dict[str, Parameter]:
    """The fields that a dataclass declares; HIDDEN where they are no arguments."""
    declared: dict[str, Parameter] = {}
    for item in typing.cast("ast.ClassDef", found.node).body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        kind = item.annotation.value if isinstance(item.annotation, ast.Subscript) else item.annotation
        if isinstance(kind, ast.Name) and kind.id == "ClassVar":
            continue
        declared[item.target.id] = Parameter(hint_in(found.module, item.annotation), field(found.module, item.value))
    return declared


def field(module: str, value: ast.expr | None) -> Any:
    """The default of a dataclass's field."""
    if not (isinstance(value, ast.Call) and dotted(module, value.func) == "dataclasses.field"):
        return default(module, value)
    given = {word.arg: word.value for word in value.keywords}
    if isinstance(given.get("init"), ast.Constant):
        return HIDDEN
    factory = given.get("default_factory")
    if isinstance(factory, ast.Lambda):
        return default(module, factory.body)
    return default(module, ast.Call(factory, [], []) if factory is not None else given.get("default"))


def of_function(module: str, node: Function, skip: int = 0) -> dict[str, Parameter]:
    """The keywords of a function; skip: so many of the first are given by Python (self)."""
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    values = [None] * (len(positional) - len(given.defaults)) + [*given.defaults]
    pairs = [*zip(positional, values, strict=True)][len(given.posonlyargs) or skip :]
    found = {
        a.arg: Parameter(hint_in(module, a.annotation), default(module, value))
        for a, value in [*pairs, *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    }
    return found | ({"**": Parameter(UNKNOWN, UNKNOWN)} if given.kwarg else {})


def default(module: str, value: ast.expr | None) -> Any:
    """A default as a plain YAML value."""
    if value is None:
        return MISSING
    try:
        return as_yaml(plain(module, value))
    except (UnknownError, ImportError, ValueError):
        return UNKNOWN


def plain(module: str, value: ast.expr) -> Any:
    """The value of an expression: of literals, and of a dataclass's call its node. Raises UnknownError, ValueError."""
    if isinstance(value, (ast.List, ast.Tuple)):
        return [plain(module, item) for item in value.elts]
    if isinstance(value, ast.Dict) and None not in value.keys:
        return {
            ast.literal_eval(typing.cast("ast.expr", k)): plain(module, v)
            for k, v in zip(value.keys, value.values, strict=True)
        }
    if isinstance(value, ast.Name) and isinstance(bound := bindings(module).get(value.id), ast.Assign):
        return plain(module, bound.value)
    if not isinstance(value, ast.Call):
        return ast.literal_eval(value)
    path = dotted(module, value.func)
    if path in ("builtins.dict", "builtins.list", "builtins.tuple") and not value.args and not value.keywords:
        return {} if path == "builtins.dict" else []
    found = definition(path)
    made = isinstance(found.node, ast.ClassDef) and any(
        "dataclass" in ast.unparse(d) for d in found.node.decorator_list
    )
    if not made or value.args or any(word.arg is None for word in value.keywords):
        raise UnknownError
    given = {str(word.arg): plain(module, word.value) for word in value.keywords}
    return {"_target_": f"{found.module}.{typing.cast('ast.ClassDef', found.node).name}", **given}


def dotted(module: str, value: ast.expr) -> str:
    """The path of a name: where it was imported from, or defined, or Python's own. Raises UnknownError for other expressions."""
    if isinstance(value, ast.Attribute):
        return f"{dotted(module, value.value)}.{value.attr}"
    if not isinstance(value, ast.Name):
        raise UnknownError
    bound = bindings(module).get(value.id)
    return bound if isinstance(bound, str) else f"{module if bound is not None else 'builtins'}.{value.id}"


def hint_in(module: str, annotation: ast.expr | None) -> Any:
    """What an annotation stands for, as typing.get_type_hints() says it; UNKNOWN where that takes an import."""
    try:
        found = Any if annotation is None else evaluated(module, annotation)
    except (UnknownError, ImportError, TypeError):
        return UNKNOWN
    return type(None) if found is None else found


def evaluated(module: str, value: ast.expr) -> Any:
    """An annotation of Python's own types, and of other names for such. Raises UnknownError."""
    if isinstance(value, ast.Constant):
        return (
            evaluated(module, ast.parse(value.value, mode="eval").body) if isinstance(value.value, str) else value.value
        )
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr):
        return evaluated(module, value.left) | evaluated(module, value.right)
    if isinstance(value, ast.Subscript):
        of = evaluated(module, value.value)
        return of[ast.literal_eval(value.slice) if of is typing.Literal else items(module, value.slice)]
    path = dotted(module, value)
    home, _, name = path.rpartition(".")
    if home in LIGHT:
        return getattr(importlib.import_module(home), name)
    found = definition(path)
    if isinstance(found.node, ast.Assign):
        return evaluated(found.module, found.node.value)
    raise UnknownError


def items(module: str, value: ast.expr) -> Any:
    """What stands in the brackets of an annotation."""
    elements = value.elts if isinstance(value, ast.Tuple) else [value]
    found = tuple(evaluated(module, element) for element in elements)
    return found if isinstance(value, ast.Tuple) else found[0]
