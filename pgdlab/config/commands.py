"""What the program answers by itself: `ls`, `cp`, `env`, and `--help` on a node."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pgdlab import __version__
from pgdlab.config.configuration import Config
from pgdlab.config.groups import options, slots
from pgdlab.config.program import PACKAGE, SWEEPS, extra, program
from pgdlab.config.schema import ConfigError, describe, nearest, schema_of
from pgdlab.config.targets import is_node


def ls(words: Sequence[str]) -> str:
    """The experiments with a line each, or the options of a group, or the sweep files."""
    group, *more = words or ["experiment"]
    known = {name: slot.group for name, slot in slots().items()}
    if more or group not in {*known, "sweep"}:
        raise ConfigError(
            f"ls takes the name of one group, not {' '.join(words)!r}.{nearest(group, [*known, 'sweep'])}"
        )
    found = options(known[group]) if group in known else files(SWEEPS)
    return table(f"{group}=", {name: comment(file) for name, file in found.items()})


def cp(words: Sequence[str]) -> str:
    """Copies an experiment into a file of the user's, and says how to run that."""
    if len(words) != 2 or not words[1].endswith(".yaml"):
        raise ConfigError(f"cp takes an experiment and a new file: {program()} cp digits/ppo mine.yaml")
    known, file = options("experiment"), Path(words[1])
    if words[0] not in known:
        raise ConfigError(f"{words[0]!r} is not an experiment.{nearest(words[0], known)}")
    if file.exists():
        raise ConfigError(f"{file} is there already: name another file")
    if not file.parent.is_dir():
        raise ConfigError(f"there is no folder {file.parent}")
    shutil.copyfile(known[words[0]], file)
    return f"{file} is {words[0]}; change it, and run it with: {program()} experiment={file}"


def env(words: Sequence[str]) -> str:
    """What a report of a fault should say: versions, devices, threads, and what is missing."""
    if words:
        raise ConfigError(f"env takes no words, not {' '.join(words)!r}")
    set_here = {k: v for k, v in os.environ.items() if k.startswith(("PGDLAB_", "OMP_", "CUDA_VIS", "HF_HUB_OFF"))}
    system = {
        "pgdlab": f"{__version__} in {PACKAGE.parent}",
        "python": sys.version.split()[0],
        "on": platform.platform(),
    }
    shown = [table("Program", system), table("Devices", devices()), table("Environment", set_here)]
    return "\n\n".join([*shown, *(table(title, rows) for title, rows in packages().items())])


def devices() -> dict[str, str]:
    """Cores, threads and accelerators."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cpu": f"{cores} cores of {os.cpu_count()}"}
    try:
        import torch

        found["threads"] = f"{torch.get_num_threads()} of torch"
        for number in range(torch.cuda.device_count()):
            found[f"cuda:{number}"] = f"{torch.cuda.get_device_name(number)}, CUDA {torch.version.cuda}"
        found["mps"] = "available" if torch.backends.mps.is_available() else "no"
    except Exception as error:  # whatever is wrong with it, the rest is to be told
        found["torch"] = f"cannot be used: {type(error).__name__}: {error}"
    return found


def packages() -> dict[str, dict[str, str]]:
    """The versions of what pgdlab needs, and of what its extras bring: title -> package -> version."""
    try:
        needed = importlib.metadata.requires("pgdlab") or []
    except importlib.metadata.PackageNotFoundError:
        return {"Packages": {"pgdlab": "is not installed: its requirements are not known"}}
    found: dict[str, dict[str, str]] = {}
    for requirement in needed:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        of = re.search(r"""extra == ["'](\w+)""", requirement)
        title = f"Extra {of.group(1)} ({extra(of.group(1))})" if of else "Packages"
        found.setdefault(title, {})[name] = installed(name)
    return found


def installed(name: str) -> str:
    """The version of a distribution, or that it is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


COMMANDS: dict[str, Callable[[Sequence[str]], str]] = {"ls": ls, "cp": cp, "env": env}


def node_help(cfg: Config, slot: str) -> str:
    """A slot's nodes: the beginning of the docstring of each class, and its keys with their values and types."""
    content = cfg.nodes.get(slot) or {}
    nodes = {slot: content} if is_node(content) else {f"{slot}.{k}": v for k, v in content.items() if is_node(v)}
    return "\n\n".join(about(node, key) for key, node in nodes.items())


def about(node: dict[str, Any], key: str) -> str:
    """One node, with those inside it."""
    spec = schema_of(node, key)
    said = (spec.target.__doc__ or "").strip().partition("\n\n")[0]
    text = textwrap.fill(" ".join(said.split()), 110, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(filter(None, [f"{key}: {node['_target_']}", text, *keys(node, key)]))


def keys(node: dict[str, Any], key: str) -> Iterator[str]:
    """A line for every key of a node and of the nodes in it."""
    spec = schema_of(node, key)
    for name, value in node.items():
        if name in ("_target_", "_partial_"):
            continue
        shown = value["_target_"].rpartition(".")[2] if is_node(value) else value
        yield f"    {f'{key}.{name}={shown}':50} {describe(spec.hints[name]) if name in spec.hints else ''}".rstrip()
        if is_node(value):
            yield from keys(value, f"{key}.{name}")


def files(folder: Path) -> dict[str, Path]:
    """The YAML files under a folder, by their names in it."""
    return {f.relative_to(folder).with_suffix("").as_posix(): f for f in sorted(folder.rglob("*.yaml"))}


def table(title: str, rows: dict[str, str]) -> str:
    """Two columns, the second wrapped."""
    width = max((len(name) for name in rows), default=0) + 2
    pad = " " * (width + 2)
    lines = [
        textwrap.fill(
            text or "(none)", 110, initial_indent=f"  {name:{width}}", subsequent_indent=pad, break_on_hyphens=False
        )
        for name, text in rows.items()
    ]
    return "\n".join([f"{title}:", *lines])


def comment(file: Path) -> str:
    """The first comment of a YAML file that is not a directive."""
    lines = (line.lstrip("# ").strip() for line in file.read_text().splitlines() if line.startswith("#"))
    return next((line for line in lines if not line.startswith("@")), "")
