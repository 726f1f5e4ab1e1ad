"""What a configuration out of a run folder may name: a folder that someone sent is read, and none of it is executed.

A saved `_target_` must lead to a component of this package, an optimizer of torch or a strategy of Lightning, or into a module
that the user of this process named: in an override, in a config file of their own, or as `trust=[module]`. Whether it does is
asked before anything outside the package is imported, and before anything is called. A saved address is contacted where the user
named it too, or has it in the environment. docs/security.md says what is promised.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import sys
import typing
from abc import ABCMeta
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pgdlab.config.defaults import word
from pgdlab.config.groups import parse_one
from pgdlab.config.schema import ConfigError
from pgdlab.config.tasks import reads

__all__ = [
    "ALLOW", "UntrustedError", "allow", "beware", "check", "named", "require", "require_addresses", "taken", "unheard", "words",
]  # fmt: skip

ALLOW = "trust"  # the key of the command line; it is not saved
EXACTLY = ("datetime.timedelta", "lightning.pytorch.Trainer")
LIBRARIES = {  # where a class lies -> what it must be
    "torch.optim": ("torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler"),
    "lightning.pytorch.strategies": ("lightning.pytorch.strategies.Strategy",),
}
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
CALLED = ".function"  # a key whose value is code of the user's, whatever it looks like: file.py:name, module:name
ADDRESSES = {".url": "OPENAI_BASE_URL", ".uri": "MLFLOW_TRACKING_URI"}  # the end of a key: where one's own stands too
SCHEME = "://"
OVERRIDE = re.compile(r"[\w.@/+~]+=")  # as in the problems of a saved certificate
TARGET = re.compile(r"_target_['\"]?\s*[:=]\s*['\"]?(?P<path>[\w.]*)(?=[\s'\",}\]]|$)")  # in an override that is saved
_named: set[str] = set()  # modules, absolute paths of files, and addresses
_elsewhere: set[Path] = set()  # run folders: nothing in them is a module


class UntrustedError(ConfigError):
    """A saved configuration names code that is neither this package's nor named by the user."""


def allow(*names: str) -> None:
    """Trusts modules (`mine`, and all in it), files (`mine.py`, or `mine.py:name`) and addresses, for the rest of this process.
    From the first module of the user's on, modules are looked for in the working directory too, last, unless that is a run
    folder."""
    places = {_place(name) for name in names}
    _named.update(places)
    here = Path.cwd()
    inside = not _elsewhere.isdisjoint((here, *here.parents))
    modules = [place for place in places if not (_known(place) or place.endswith(".py") or SCHEME in place)]
    if modules and not inside and str(here) not in sys.path:
        sys.path.append(str(here))


def beware(folder: str | Path) -> None:
    """Nothing in a run folder becomes importable for being in the working directory."""
    _elsewhere.add(Path(folder).resolve())


def require(name: str, key: str) -> None:
    """Raises UntrustedError where the user of this process has not named a module or a file (`mine.py:name`)."""
    place = _place(name)
    if place not in _named and not any(place.startswith(f"{module}.") for module in _named):
        trust = _origin(name)
        raise UntrustedError(
            f"{key} names {name}, which is not of pgdlab: what a run folder says is not executed unless you say so. If you "
            f"know that code, add {ALLOW}={trust}"
        )


def words(overrides: Iterable[tuple[str, Any]]) -> list[str]:
    """The override that trusts, when a run is resumed, what these named when it began; none where they named nothing."""
    own = sorted(name for name in named(overrides) if not _known(name))
    return [f"{ALLOW}={word(own[0] if len(own) == 1 else own)}"] if own else []


def taken(overrides: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The overrides without `trust`; what it and they name is trusted. Raises ConfigError where it is no list of names."""
    overrides = list(overrides)
    for key, value in overrides:
        names = value if isinstance(value, list) else [value]
        if key == ALLOW and not all(isinstance(name, str) and name for name in names):
            raise ConfigError(
                f"{ALLOW} is {value!r}; it must be a list of modules, files or addresses, as in {ALLOW}=[mine]"
            )
    allow(*named(overrides))
    return [(key, value) for key, value in overrides if key != ALLOW]


def named(values: Iterable[tuple[str, Any]]) -> set[str]:
    """The modules, files and addresses that (key, value) pairs name: the modules of `_target_`s, files of functions, servers,
    those of `trust`."""
    found: set[str] = set()
    for top, content in values:
        if top == ALLOW:
            found.update(content if isinstance(content, list) else [content])
        for key, value in _leaves(top, content):
            if key.endswith("_target_"):
                found.add(str(value).rpartition(".")[0])
            elif isinstance(value, str) and key.endswith((CALLED, *ADDRESSES)):
                found.add(_origin(value))
    return found - {""}


def require_addresses(config: Mapping[str, Any], file: object) -> None:
    """Raises UntrustedError where a saved configuration names a server that neither this command nor the environment does: it
    would be told samples and prompts. file: for the message."""
    for key, address in (pair for name, value in config.items() for pair in _addresses(f"{file}: {name}", value)):
        variable = next(ADDRESSES[end] for end in ADDRESSES if key.endswith(end))
        if _place(address) not in _named and os.environ.get(variable, "").rstrip("/") != address.rstrip("/"):
            raise UntrustedError(
                f"{key} is {address!r}: an address of a run folder is not contacted unless you say so. If it is yours, add "
                f"{ALLOW}={word(address)}, or set {variable} to it"
            )


def unheard(loggers: dict[str, Any], task: str) -> dict[str, Any]:
    """The loggers of a run that there is, for a task that does not go on with it: none but what the command line names. Says
    which would have been told."""
    told = [name for name in loggers if name != "csv"]
    known = reads(task)
    if told and known is not None and "logger" in (known.resumed or ()):
        text = f"logger {' and '.join(told)} of the run is not told: a run folder starts none. Name it: logger={word(told)}"
        print(text, file=sys.stderr)
    return {}


def _addresses(top: str, content: Any) -> Iterator[tuple[str, str]]:
    """(key, address) of every server that a saved value names, those in the overrides of a suite too."""
    for key, value in _leaves(top, content):
        if not isinstance(value, str) or not value:
            continue
        if key.endswith((*ADDRESSES,)):
            yield key, value
        elif OVERRIDE.match(value) and (stated := _stated(value, key)) is not None:
            yield from _addresses(f"{key}: {stated[0]}", stated[1])


def check(config: Mapping[str, Any], file: object) -> None:
    """Raises UntrustedError where a saved configuration names anything else than components, trusted modules and plain
    values. file: for the message. All names are looked at before the first of them is imported."""
    targets = [(key, path) for name, value in config.items() for key, path in _targets(f"{file}: {name}", value)]
    for key, path in targets:
        _require_place(path, key)
    for key, path in targets:
        _require_component(path, key)


def _targets(top: str, content: Any) -> Iterator[tuple[str, str]]:
    """(key, path) of everything that a saved value would import. Raises UntrustedError for what hides it."""
    for key, value in _leaves(top, content):
        if key.endswith("_target_"):
            yield key, str(value)
        elif not isinstance(value, str):
            continue
        elif "${" in value:
            raise UntrustedError(
                f"{key} is {value!r}: a saved configuration holds values, and no ${{...}} to be looked up"
            )
        elif key.endswith(CALLED):
            require(value, key)
        elif OVERRIDE.match(value) and (stated := _stated(value, key)) is not None:
            yield from _targets(f"{key}: {stated[0]}", stated[1])
        elif "_target_" in value:
            paths = [match["path"] for match in TARGET.finditer(value)]
            if len(paths) != value.count("_target_"):
                raise UntrustedError(f"{key} is {value!r}, an override whose _target_ cannot be read")
            yield from ((key, path) for path in paths)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(full key, scalar) of everything inside."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _leaves(f"{key}.{name}", child)
            yield from _leaves(f"{key}.({name})", name) if "_target_" not in str(name) else ()
    elif isinstance(value, (list, tuple)):
        for i, child in enumerate(value):
            yield from _leaves(f"{key}[{i}]", child)
    else:
        yield key, value


def _stated(text: str, key: str) -> tuple[str, Any] | None:
    """(key, value) of an override that is saved; None for what is none. Raises UntrustedError for one that would trust, or pick a
    file."""
    try:
        name, value = parse_one(text)
    except ConfigError:
        return None
    files = [v for _, v in _leaves(name, value) if isinstance(v, str) and v.endswith((".yaml", ".yml"))]
    if name == ALLOW or files:
        raise UntrustedError(
            f"{key} is {text!r}: a saved configuration trusts nothing, and names no file of configuration"
        )
    return name, value


def _origin(name: str) -> str:
    """The file or module of a function, as pgdlab.rewards.function.resolved takes it; of other names, and of addresses, all."""
    return name if SCHEME in name else name.rpartition(":")[0] or name


def _place(name: str) -> str:
    """What is remembered of a name: the file's absolute path, the address, or the module."""
    place = _origin(name).rstrip("/")
    return str(Path(place).expanduser().resolve()) if place.endswith(".py") else place


def _known(path: str) -> bool:
    """Whether a path begins where this package or a library that it names lies."""
    return any(f"{path}.".startswith(f"{root}.") for root in ("pgdlab", *LIBRARIES, "lightning.pytorch", "datetime"))


def _require_place(path: str, key: str) -> None:
    """Raises UntrustedError for a path that leads out of what may be imported. Nothing is imported to tell."""
    if not DOTTED.fullmatch(path):
        raise UntrustedError(f"{key} is {path!r}, which is not the path of a class")
    inside = ("pgdlab", *LIBRARIES)
    if path not in EXACTLY and not any(path.startswith(f"{root}.") for root in inside):
        _require_module(path, key)


def _require_module(path: str, key: str, home: str = "") -> None:
    """Raises UntrustedError for a class or function of a module that the user has not named. home: where it was made."""
    module = home or path.rpartition(".")[0]
    says = f"is {path!r}, of {module}," if home else f"is {path!r},"
    try:
        require(module, key)
    except UntrustedError as error:
        raise UntrustedError(str(error).replace(f"names {module},", says, 1)) from None


def _require_component(path: str, key: str) -> None:
    """Raises UntrustedError where an importable path does not lead to something that is made to stand in a configuration."""
    if path in EXACTLY:
        return
    module, _, name = path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return  # the schema says so, with the nearest name
    home = getattr(target, "__module__", None)
    if target is None:
        return
    if not isinstance(home, str):
        raise UntrustedError(f"{key} is {path!r}, which is neither a class nor a function")
    if not _known(path) and not _known(home):  # what a module of the user's imports from elsewhere is not meant
        _require_module(path, key, home)
    elif not _is_component(target, home):
        raise UntrustedError(f"{key} is {path!r}, which is not a component of a run")


def _is_component(target: Any, home: str) -> bool:
    """Whether a class of this package is a module, a dataclass or of a seam, or one of a library's fits LIBRARIES; whether a
    function of this package makes modules or loggers."""
    from lightning.pytorch.loggers import Logger
    from torch.nn import Module

    if f"{home}.".startswith("pgdlab."):
        if isinstance(target, type):
            return issubclass(target, Module) or dataclasses.is_dataclass(target) or isinstance(target, ABCMeta)
        returned = typing.get_type_hints(target).get("return") if callable(target) else None
        made = (typing.get_args(returned) or (returned,))[0]
        return isinstance(made, type) and issubclass(made, (Module, Logger))
    bases = next((kinds for root, kinds in LIBRARIES.items() if f"{home}.".startswith(f"{root}.")), ())
    return isinstance(target, type) and any(issubclass(target, _class(base)) for base in bases)


def _class(path: str) -> type:
    """A class by its path."""
    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found
