"""Which function it is: a digest of what it does, to know it again by more than its name. Nothing is imported or called.

It is of the source without comments, docstrings and layout; of the bytecode where there is no source, as of `python -c`. What
the function calls is not in it, nor what an object holds.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import importlib.machinery
import inspect
import sysconfig
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

LENGTH = 12  # hexadecimal digits
OWN = Path(__file__).resolve().parents[1]
SCALARS = (str, int, float, bool, type(None))
DEFINED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
BOOKKEEPING = (
    "__module__",
    "__doc__",
    "__qualname__",
    "__dict__",
    "__weakref__",
    "__firstlineno__",
    "__static_attributes__",
)


def digest(function: Any) -> str | None:
    """Of a function, with the values that it was made with where it was made inside of another; of a method or an object that
    is called, its class and what that inherits from. None of a library's: a new version of one is no other function."""
    if isinstance(function, functools.partial):
        values = [*function.args, *(x for pair in sorted(function.keywords.items()) for x in pair)]
        return hashed([str(digest(function.func)), *map(plain, values)])
    if isinstance(function, FunctionType):
        return None if library(function.__code__.co_filename) else hashed([text(function), *made_with(function)])
    if isinstance(function, MethodType):
        owner = function.__self__
        return hashed(classes(owner if isinstance(owner, type) else type(owner)), function.__name__)
    return hashed(classes(type(function)))


def named(path: str) -> str | None:
    """Of the `def` that `file.py:name` or `module:name` leads to, as of the function itself; None where there is none."""
    place, _, name = path.rpartition(":")
    file = Path(place).expanduser() if place.endswith(".py") else module_file(place)
    if file is None or library(str(file)):
        return None
    try:
        body: Sequence[ast.stmt] = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):  # whoever executes it says so
        return None
    found: ast.stmt | None = None
    for part in name.split("."):
        found = next((node for node in reversed(body) if isinstance(node, DEFINED) and node.name == part), None)
        body = found.body if isinstance(found, ast.ClassDef) else []
    return None if found is None or isinstance(found, ast.ClassDef) else hashed([bare(found)])


def module_file(name: str) -> Path | None:
    """The file of a module. The packages that it is in are not imported."""
    places: Any = None
    for part in name.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, places)
        if spec is None:
            return None
        places = spec.submodule_search_locations or []
    origin = spec.origin if spec is not None else None
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def hashed(parts: Sequence[str], *more: str) -> str | None:
    """The digest of texts; None of none."""
    whole = "\0".join([*parts, *more])
    return hashlib.sha256(whole.encode()).hexdigest()[:LENGTH] if parts else None


def library(file: str) -> bool:
    """Whether a file is this package's, Python's own, or was installed."""
    path = Path(file)
    installed = {"site-packages", "dist-packages"} & {*path.parts}
    return bool(installed) or path.is_relative_to(OWN) or path.is_relative_to(sysconfig.get_path("stdlib"))


def text(function: FunctionType) -> str:
    """What a function is, by its source; by its bytecode where that is not at hand, or does not tell which function it is."""
    code = function.__code__
    try:
        lines, _ = inspect.findsource(code)
        nodes = [*ast.walk(ast.parse("".join(lines)))]
    except (OSError, TypeError, SyntaxError, ValueError):
        return compiled(code)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    named_so = [x for x in nodes if isinstance(x, kinds) and getattr(x, "name", "<lambda>") == code.co_name]
    here = [x for x in named_so if first_line(x) == code.co_firstlineno]
    return bare(here[0]) if len(here) == 1 else compiled(code)


def first_line(node: Any) -> int:
    """Where a definition begins, with its decorators."""
    return min([node.lineno, *(x.lineno for x in getattr(node, "decorator_list", []))])


def bare(node: ast.AST) -> str:
    """The source of a node without comments, docstrings and layout: ast.dump() differs between versions of Python."""
    for inner in ast.walk(node):
        if isinstance(inner, DEFINED) and ast.get_docstring(inner, clean=False) is not None:
            inner.body = inner.body[1:] or [ast.Pass()]
    return ast.unparse(node)


def compiled(code: CodeType) -> str:
    """Bytecode with its constants and names, without its place."""
    constants = [compiled(x) if isinstance(x, CodeType) else plain(x) for x in code.co_consts]
    return repr((code.co_code, constants, code.co_names, code.co_varnames))


def made_with(function: FunctionType) -> list[str]:
    """The values that a lambda or an inner function was made with: two that one source makes are two functions. Those that it
    sets itself, as a counter, are left out."""
    if "<" not in function.__qualname__:  # made once, by its file
        return []
    code = function.__code__
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_DEREF"}
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    kept = [held(cell) for name, cell in cells if name not in own]
    named_only = sorted((function.__kwdefaults__ or {}).items())
    return [*kept, *map(plain, function.__defaults__ or ()), *(plain(pair) for pair in named_only)]


def held(cell: Any) -> str:
    """The value of a cell, which may be empty yet."""
    try:
        return plain(cell.cell_contents)
    except ValueError:
        return ""


def plain(value: Any) -> str:
    """Scalars and tuples by their values, functions by their source, all else by its kind."""
    if isinstance(value, SCALARS):
        return repr(value)
    if isinstance(value, (tuple, frozenset)):
        inside = [plain(x) for x in value]
        return repr(inside if isinstance(value, tuple) else sorted(inside))
    return text(value) if isinstance(value, FunctionType) else type(value).__qualname__


def classes(kind: type) -> list[str]:
    """What a class and those that it inherits from are, but for a library's."""
    return [x for one in kind.__mro__ for x in contents(one)]


def contents(kind: type) -> Iterable[str]:
    """The source of a class; where that is not at hand, as in a notebook, what is in it. Nothing of a library's."""
    inside = {name: x for name, x in sorted(vars(kind).items()) if name not in BOOKKEEPING}
    try:
        if library(inspect.getfile(kind)):
            return []
        return [bare(ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0])]
    except (OSError, TypeError, SyntaxError):
        functions = [x for x in inside.values() if isinstance(x, FunctionType)]
        if not functions or library(functions[0].__code__.co_filename):
            return []
        return [f"{name} {plain(x)}" for name, x in inside.items()]
