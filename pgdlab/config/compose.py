"""Composes a run's configuration: Hydra's groups and experiments, checked and filled in from the classes' signatures.

`a.b=c` may name any keyword of any node; `group=option` replaces the whole node, also what an experiment had set in it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pgdlab.config import renamed, trust
from pgdlab.config.configuration import Config
from pgdlab.config.functions import again, anchored, disarmed, require_same
from pgdlab.config.groups import CONFIGS, Slot, options, paragraph, parse, root, slots, with_hydra
from pgdlab.config.heldout import followed
from pgdlab.config.schema import ConfigError, check, children, complete, instantiate, make, nearest, signature_of
from pgdlab.config.signatures import signature
from pgdlab.config.targets import is_node, schema

__all__ = [
    "CONFIGS",
    "Config",
    "ConfigError",
    "compose",
    "draft",
    "finish",
    "instantiate",
    "load_run",
    "make",
    "options",
]

RESUMABLE = ("task", "plan", "budget", "runtime", "logger")  # what may differ when a run's training goes on
# task -> why it has no use for some nodes, and what stands in their place
UNSCORED = ("export", "sample")  # of a run that there is: its rewards, perhaps code of the user's, are left alone
FROM_DATA = ("learns from data: it asks no reward", {"reward": None, "heldout": None, "penalty": None})
UNUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrain": FROM_DATA,
    "clip": FROM_DATA,
    "autoencoder": FROM_DATA,
    "preferences": ("learns from pairs alone: it asks no reward", {"reward": None, "heldout": None, "penalty": None}),
    "sample": ("scores nothing", {"reward": None, "heldout": None}),
    "best_of_n": (
        "trains nothing",
        {"trainer": None, "policy.tuning": {"_target_": "pgdlab.diffusion.tuning.Frozen"}, "plan.group": 1},
    ),
}
UNUSED["value"] = ("trains no policy", UNUSED["best_of_n"][1])
UNUSED["steer"] = UNUSED["best_of_n"]  # of the base; a run's policy needs its tuning


def compose(overrides: Sequence[str] = (), config_dir: Path = CONFIGS) -> Config:
    """The whole configuration of a run. Raises ConfigError for any mistake in the overrides or the files."""
    return finish(draft(overrides, config_dir))


def draft(overrides: Sequence[str] = (), config_dir: Path = CONFIGS) -> Config:
    """The configuration as the files and overrides state it: no class is imported, no default filled in."""
    known = slots(config_dir)
    picks, values = parse(overrides, known, config_dir)
    values = trust.taken(values)
    picks = followed(picks, values, config_dir)
    cfg = with_hydra(known, picks, config_dir)
    bare = with_hydra(known, {**picks, "experiment": ["null"]}, config_dir)
    for slot in picks.keys() - {"experiment"}:
        cfg[slot] = bare[slot]
    stated = of_a_kind(assigned(cfg, values, plain(bare), known), known, config_dir)
    trust.allow(*trust.named(stated.items()))  # the files and the command line are the user's own
    return used(Config.of(stated), [*picks, *dict(values)], known)


def load_run(
    folder: str | Path,
    overrides: Sequence[str] = (),
    config_dir: Path = CONFIGS,
    instead: Mapping[str, Any] | None = None,
    called: str = "resume",
) -> Config:
    """The configuration saved in a run's folder, with overrides. Resumed training may only differ in RESUMABLE.

    instead: nodes in the place of saved ones, for a program that hands over the objects; the functions that the folder
    names are then words alone (see disarmed). called: what the user knows the folder by, for the message.

    Raises ConfigError where there is no such run, or an override would make it another one.
    """
    known = slots(config_dir)
    picks, values = parse(overrides, known, config_dir)
    trust.beware(folder)
    values = trust.taken(values)
    if dict(values).get("task") in UNSCORED:
        instead = {**(instead or {}), "reward": None, "heldout": None}
    saved = saved_config(str(folder), known, config_dir, instead, called)
    task = dict(values).get("task", saved["task"])
    for key in [*picks, *(key for key, value in values if not again(saved, key, value))]:
        if task in ("train", "pretrain") and key.split(".")[0] not in RESUMABLE:
            raise ConfigError(f"{key} cannot change when a run resumes; only {', '.join(RESUMABLE)} and their keys can")
    picks = followed(picks, values, config_dir)
    fresh = plain(with_hydra(known, {**picks, "experiment": ["null"]}, config_dir)) if picks else {}
    trust.allow(*trust.named(fresh.items()))
    cfg = OmegaConf.create(saved | {slot: fresh[slot] for slot in picks})
    stated = of_a_kind(assigned(cfg, [*values, ("resume", str(folder))], saved, known), known, config_dir)
    if task not in ("train", "pretrain") and not any(key.split(".")[0] == "logger" for key in [*picks, *dict(values)]):
        stated["logger"] = trust.unheard(stated.get("logger", {}), task)
    cfg_now = finish(used(Config.of(stated), [*picks, *dict(values)], known))
    if task in ("train", "pretrain"):
        require_same(dict(cfg_now.nodes), saved)
    return cfg_now


def of_a_kind(cfg: dict[str, Any], known: Mapping[str, Slot], config_dir: Path) -> dict[str, Any]:
    """With the class of every optional node that has keys and no option: the one that all options of its group are of.

    Raises ConfigError where they are of several.
    """
    for name, slot in known.items():
        node = cfg.get(name)
        if not slot.optional or slot.many or not isinstance(node, dict) or is_node(node):
            continue
        files = options(slot.group, config_dir)
        kinds = {yaml.safe_load(file.read_text()).get("_target_") for file in files.values()}
        if len(kinds) != 1:
            key = f"{name}.{next(iter(node), '')}".rstrip(".")
            raise ConfigError(f"{key} is set, but no {name} is chosen: {name}=OPTION picks one of {', '.join(files)}")
        cfg[name] = {"_target_": kinds.pop(), **node}
    return cfg


def used(cfg: Config, given: Sequence[str], known: Mapping[str, Slot]) -> Config:
    """Without the nodes that the task has no use for. Raises ConfigError where the command line gives one of them."""
    why, unused = UNUSED.get(cfg.task, ("", {}))
    if cfg.task == "steer" and cfg.resume:
        return cfg
    nodes = dict(cfg.nodes)
    for key, node in unused.items():
        if key.partition(".")[0] not in nodes:
            continue
        for name in given:
            if f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}."):
                raise ConfigError(f"{name} is set, but task={cfg.task} {why}: leave it out")
        slot, _, inside = key.partition(".")
        nodes[slot] = {**nodes[slot], inside: node} if inside else {} if known[slot].many else node
    return cfg.with_nodes(**nodes)


def saved_config(
    folder: str,
    known: Mapping[str, Slot],
    config_dir: Path,
    instead: Mapping[str, Any] | None = None,
    called: str = "resume",
) -> dict[str, Any]:
    """config.yaml of a run's folder, in today's names. Raises ConfigError where there is none, it is not that of a run, or it
    names code that is not to be trusted."""
    file = Path(folder) / "config.yaml"
    if not folder or not file.is_file():
        there = {
            path.parent.as_posix()
            for near in (Path(folder).parent, Path("runs"))
            for path in near.glob("*/config.yaml")
        }
        lacks = "has no config.yaml" if Path(folder).is_dir() else "does not exist"
        what = "is empty" if not folder else f"is {folder!r}, which {'is a file' if Path(folder).is_file() else lacks}"
        raise ConfigError(f"{called} {what}; it must be the folder of a run.{nearest(folder, there)}")
    try:
        saved = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {paragraph(error)}") from error
    own = {key: value for key, value in root(config_dir).items() if key != "defaults"}
    needed = {key for key in own if own[key] is not None} | {name for name, slot in known.items() if not slot.optional}
    missing = needed - saved.keys() if isinstance(saved, dict) else needed
    if missing:
        raise ConfigError(f"{file} is not the configuration of a run: it has no key {min(missing)}")
    nulls = dict.fromkeys([*own, *known])  # keys that have come to be since it was saved
    today = renamed.run(saved) if instead is None else disarmed(renamed.run(saved)) | dict(instead)
    trust.check(today, file)
    return {key: value for key, value in (nulls | today).items() if key != "experiment"}


def assigned(
    cfg: DictConfig, values: Iterable[tuple[str, Any]], known: Mapping[str, Any], known_slots: Mapping[str, Slot]
) -> dict[str, Any]:
    """With full keys set in order; a mapping with its own _target_ replaces what was there, any other is merged."""
    check_root(plain(cfg), known, known_slots)
    for key, value in values:
        if key.split(".")[0] not in known:
            raise ConfigError(f"{key} is not a key (given {value!r}).{suggest(key, known)}")
        if value == {}:
            raise ConfigError(f"{key}={{}} changes nothing: a mapping is merged with what is there. Leave it out")
        try:
            OmegaConf.update(cfg, key, value, merge=not is_node(value), force_add=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"cannot set {key} to {value!r}: {paragraph(error)}") from error
        check_root(plain(cfg), known, known_slots)
    return plain(cfg)


def suggest(key: str, known: Mapping[str, Any]) -> str:
    """The nearest names to an unknown key: keys of that name inside the nodes, or else similar ones at the top."""
    inside = [f"{name}.{key}" for name, node in known.items() if key in keys_of(node)]
    return f" Did you mean {' or '.join(inside)}?" if inside else nearest(key, known)


def keys_of(node: Any) -> set[str]:
    """The keys that a node has or may have, as far as is known without an import."""
    own = {*node} if isinstance(node, dict) else set()
    if not is_node(node):
        return own
    imported = str(node["_target_"]).rpartition(".")[0] in sys.modules
    return own | {*signature_of(node, "", schema if imported else signature).keys}


def check_root(cfg: Mapping[str, Any], known: Mapping[str, Any], known_slots: Mapping[str, Slot]) -> None:
    """Raises ConfigError where a top-level key is unknown, or is not what config.yaml has there: a node, int, str."""
    for key, value in cfg.items():
        if key not in known:
            raise ConfigError(f"{key} is not a key (an experiment sets it).{nearest(key, known)}")
        if value is None and key in known_slots and known_slots[key].optional:
            continue
        kind = dict if key in known_slots else str if known[key] is None else type(known[key])
        if type(value) is not kind and not (value is None and known[key] is None):
            takes = f"a node; {key}.KEY=VALUE sets a key of it" if kind is dict else kind.__name__
            quoted = f"; quote it: \"{key}='{value}'\"" if kind is str and isinstance(value, (int, float)) else ""
            raise ConfigError(f"{key} is {value!r}; it must be {takes}{quoted}")
        if key in known_slots and known_slots[key].many:
            check_nodes(key, value)


def check_nodes(key: str, nodes: Any) -> None:
    """Raises ConfigError where a mapping of nodes holds something else: a key of one that was not chosen."""
    chosen = sorted(name for name, node in nodes.items() if is_node(node))
    for name in nodes.keys() - chosen:
        inside = [f"{key}.{node}.{name}" for node in chosen if name in keys_of(nodes[node])]
        did = f"Did you mean {' or '.join(inside)}?" if inside else f"Chosen: {', '.join(chosen) or 'none'}."
        raise ConfigError(f"{key}.{name} is {nodes[name]!r}, but {name} is not chosen in {key}=[...]. {did}")


def finish(cfg: Config) -> Config:
    """Fills in the defaults, resolves interpolations and checks every value against its annotation."""
    refuse(cfg)
    filled = OmegaConf.create(complete(cfg.plain()))
    try:
        OmegaConf.resolve(filled)
    except OmegaConfBaseException as error:
        raise ConfigError(unresolved(cfg, error)) from error
    check(plain(filled))
    return Config.of(anchored(plain(filled)))


def refuse(cfg: Config) -> None:
    """Raises ConfigError as finish() does, for what the sources tell: no class is imported, which takes seconds."""
    filled = OmegaConf.create(complete(cfg.plain(), read=signature))
    try:
        OmegaConf.resolve(filled)
    except OmegaConfBaseException:  # it may refer to a default that takes an import
        return
    check(plain(filled), read=signature)


def unresolved(cfg: Config, error: OmegaConfBaseException) -> str:
    """What is wrong where an interpolation leads nowhere: most often it asks a node for a key that another option has."""
    missing = re.search(r"Interpolation key '(\w+)\.(\w+)' not found", str(error))
    slot, key = missing.groups() if missing else ("", "")
    has = (
        [name for name, file in options(slot).items() if key in complete(yaml.safe_load(file.read_text()))]
        if slot
        else []
    )
    asking = next(asks(dict(cfg.nodes), f"${{{slot}.{key}}}", ""), "")
    if not (has and asking):
        return f"an interpolation cannot be resolved: {paragraph(error)}"
    reader = asking.partition(".")[0]
    names = {name: str((cfg.nodes[name] or {}).get("_target_")).rpartition(".")[2] for name in (slot, reader)}
    return (
        f"{asking} is read from {slot}.{key}, which {slot} ({names[slot]}) does not have: this {reader} ({names[reader]}) goes "
        f"with {slot}={' or '.join(has)}; {reader}=NAME chooses another, experiment=NAME one that goes with its {slot}"
    )


def asks(value: Any, interpolation: str, key: str) -> Iterator[str]:
    """The full keys whose value is an interpolation."""
    if value == interpolation:
        yield key
    for _, child, full in children(value, key):
        yield from asks(child, interpolation, full)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as dicts, lists and scalars, its interpolations as they are written."""
    return {str(key): value for key, value in cast("dict[Any, Any]", OmegaConf.to_container(cfg)).items()}
