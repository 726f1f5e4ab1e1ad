"""A YAML node: `_target_` and the keyword arguments of that class, checked against the class's own signature.

Defaults and types live in the classes; here both meet the YAML.
"""

from __future__ import annotations

import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast

from pgdlab.config import renamed
from pgdlab.config.targets import Read, Schema, Signature, is_node, schema

Node = dict[str, Any]
T = TypeVar("T")
RESERVED = ("_target_", "_partial_")


class ConfigError(ValueError):
    """A mistake in a configuration: names the key, what was given, what is allowed and the nearest name."""


def nearest(name: str, known: Iterable[str]) -> str:
    """' Did you mean x?' where something similar is known, and the sorted known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return (f" Did you mean {close[0]}?" if close else "") + f" Known: {', '.join(names) or 'none'}."


def schema_of(node: Node, key: str) -> Schema:
    """The schema that node must obey."""
    return cast("Schema", signature_of(node, key, schema))


def signature_of(node: Node, key: str, read: Read) -> Signature:
    """What node's target takes. Raises ConfigError where there is no such target."""
    try:
        return read(str(node["_target_"]))
    except ImportError as error:
        path, now = node["_target_"], renamed.target(str(node["_target_"]))
        why = f"is now {now}" if now != path else f"cannot be imported: {error}"
        raise ConfigError(f"{key}._target_ is {path!r}, which {why}") from error


def complete(value: Any, key: str = "", read: Read = schema) -> Any:
    """Fills in every default of every node in value, and refuses keys that its class does not take."""
    if isinstance(value, list):
        return [complete(v, f"{key}[{i}]", read) for i, v in enumerate(value)]
    if not isinstance(value, dict):
        return value
    spec = signature_of(value, key, read) if is_node(value) else None
    defaults = spec.defaults if spec else {}
    if spec and not spec.open:
        for name in value.keys() - {*spec.keys, *RESERVED}:
            if now := renamed.advice(value["_target_"], key, name):
                raise ConfigError(now)
            hint = nearest(f"{key}.{name}", (f"{key}.{k}" for k in spec.keys))
            raise ConfigError(f"{key}.{name} is {value[name]!r}, but {spec.name} has no {name!r}.{hint}")
    named = {k: value[k] for k in RESERVED if k in value}
    filled = {**named, **defaults, **{k: under(defaults.get(k), v) for k, v in value.items()}}
    return {k: complete(v, f"{key}.{k}" if key else str(k), read) for k, v in filled.items()}


def under(default: Any, value: Any) -> Any:
    """Value, where it only states what differs from a default that is itself a node or another mapping."""
    differs = isinstance(value, dict) and isinstance(default, dict) and not is_node(value)
    return {**default, **{k: under(default.get(k), v) for k, v in value.items()}} if differs else value


def check(value: Any, key: str = "", read: Read = schema) -> None:
    """Raises ConfigError where a node lacks a required argument or an argument is not of its annotated type."""
    for name, child, full in children(value, key):
        check(child, full, read)
        if isinstance(child, float) and not math.isfinite(child):
            raise ConfigError(f"{full} is {child}; it must be a finite number")
        named = is_node(value) and name not in RESERVED
        hint = signature_of(value, key, read).hint(name, child) if named else Any
        if not fits(child, hint):
            near = difflib.get_close_matches(str(child), map(str, literals(hint)), n=1, cutoff=0.5)
            did = f". Did you mean {near[0]}?" if near else ""
            taker = signature_of(value, key, read).name
            raise ConfigError(f"{full} is {child!r}; {taker} takes {describe(hint)}{did}")
    if is_node(value) and value.get("_partial_") is not True:
        spec = signature_of(value, key, read)
        for name in (k for k in spec.needed if k not in value):
            takes = describe(spec.hints.get(name, Any))
            raise ConfigError(f"{key}.{name} is missing; {spec.name} needs it ({takes})")


def children(value: Any, key: str) -> Iterator[tuple[str, Any, str]]:
    """(name, child, full key) of every item of a mapping or list."""
    if isinstance(value, dict):
        yield from ((str(k), v, f"{key}.{k}" if key else str(k)) for k, v in value.items())
    elif isinstance(value, list):
        yield from ((str(i), v, f"{key}[{i}]") for i, v in enumerate(value))


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value may be passed where hint is annotated. An int is a float; a bool is no number."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin is Literal:
        return any(value == a and type(value) is type(a) for a in args)
    if origin in (Union, types.UnionType):
        return any(fits(value, a) for a in args)
    if isinstance(value, list):
        return fits_list(value, origin or hint, args)
    if is_node(value):
        return node_fits(value, origin or hint)
    if isinstance(value, dict):
        items = args[1] if len(args) == 2 else Any
        return is_a(dict, origin or hint) and all(fits(v, items) for v in value.values())
    accepted = {float: (int, float), Path: (str,), type(None): (type(None),)}.get(hint, (hint,))
    return type(value) in accepted


def fits_list(value: list[Any], kind: Any, args: tuple[Any, ...]) -> bool:
    """Whether a YAML list may stand for a list, a tuple or a sequence."""
    if kind is tuple and args and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(fits(v, a) for v, a in zip(value, args, strict=True))
    return (kind is tuple or is_a(list, kind)) and all(fits(v, args[0] if args else Any) for v in value)


def node_fits(node: Node, kind: Any) -> bool:
    """Whether what the node makes can be a `kind`: partials are taken on trust, functions must say what they return."""
    spec = schema(str(node["_target_"]))
    if node.get("_partial_") is True:
        return True
    made = spec.target if isinstance(spec.target, type) else spec.hints.get("return")
    kept = typing.get_origin(made) or made
    return isinstance(kept, type) and is_a(kept, kind)


def is_a(cls: type, kind: Any) -> bool:
    """issubclass, and True for what cannot tell (a Protocol that is not runtime checkable)."""
    try:
        return issubclass(cls, kind)
    except TypeError:
        return True


def literals(hint: Any) -> tuple[Any, ...]:
    """The values that a Literal, or a union of them, allows."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(v for a in typing.get_args(hint) for v in literals(a))


def describe(hint: Any) -> str:
    """A type as a reader would write it; the choices of all its Literals together."""
    union = typing.get_origin(hint) in (Union, types.UnionType)
    parts = typing.get_args(hint) if union else (hint,)
    words = [type_name(a) for a in parts if not literals(a)]
    choices = list(dict.fromkeys(repr(c) for c in literals(hint)))
    return " or ".join([*([f"one of {', '.join(choices)}"] if choices else []), *words])


def type_name(hint: Any) -> str:
    """int, null, tuple[int, ...]."""
    if hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def instantiate(node: Any, key: str = "", /, **given: Any) -> Any:
    """Makes what a completed node describes; given: arguments that only the running program has: a `_partial_`
    node is called once they are there. None stays None. key: where the node is, for errors.

    Hydra's own instantiate is not used: it deep-copies what it is given, turns dataclasses into dicts and hands
    lists to fields that are tuples. Raises ConfigError naming the node where a constructor raises ValueError.
    """
    return build(node, key, given)


def make(kind: type[T], node: Node, key: str, /, **given: Any) -> T:
    """instantiate(), in a place that takes a `kind`. Raises ConfigError for what makes anything else."""
    path = (node or {}).get("_target_")
    if path is not None and node_fits({"_target_": path}, kind):
        thing = build(node, key, given)
        if isinstance(thing, kind):
            return thing
    says = (
        "" if path is None or isinstance(schema(path).target, type) else f"; a function must say so: -> {kind.__name__}"
    )
    raise ConfigError(f"{key}._target_ is {path!r}; {key} must be a {kind.__name__}{says}")


def build(value: Any, key: str, given: Mapping[str, Any]) -> Any:
    """The object of a node, the items of a list or mapping, or the value itself."""
    made = {name: build(child, full, {}) for name, child, full in children(value, key) if name not in RESERVED}
    if isinstance(value, list):
        return list(made.values())
    if not is_node(value):
        return made if isinstance(value, dict) else value
    spec = schema_of(value, key)
    arguments = {name: typed(child, spec.hints.get(name, Any)) for name, child in made.items()} | dict(given)
    if value.get("_partial_") is True and not given:
        return functools.partial(spec.target, **arguments)
    try:
        return spec.target(**arguments)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{key} ({spec.name}): {error}" if key else f"{spec.name}: {error}") from error


def typed(value: Any, hint: Any) -> Any:
    """Value as its annotation wants it: a tuple, a float or a Path where YAML has a list, an int or a string."""
    alternatives = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = {typing.get_origin(a) or a: typing.get_args(a) for a in alternatives}
    if isinstance(value, list):
        as_tuple = list not in kinds and (tuple in kinds or Sequence in kinds)
        args = next((kinds[k] for k in (list, tuple, Sequence) if kinds.get(k)), (Any,))
        each = args if len(args) == len(value) and args[-1] is not Ellipsis else (args[0],) * len(value)
        items = [typed(v, a) for v, a in zip(value, each, strict=True)]
        return tuple(items) if as_tuple else items
    if type(value) is int and float in kinds and int not in kinds:
        return float(value)
    return Path(value) if isinstance(value, str) and Path in kinds and str not in kinds else value
