"""Composes a run's configuration: Hydra's groups and experiments, checked and filled in from the classes' signatures.

Only Hydra's compose API is used: no launcher, no working directory of its own, no logging. `a.b=c` may name any keyword
of any node; `group=option` replaces the whole node, also what an experiment had set in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pgdlab.config import renamed
from pgdlab.config.schema import ConfigError, check, complete, instantiate, is_node, make, make_each, nearest

__all__ = [
    "CONFIGS",
    "ConfigError",
    "compose",
    "draft",
    "instantiate",
    "load_run",
    "make",
    "make_each",
    "options",
    "slots",
    "stated",
]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RESUMABLE = ("task", "plan", "budget", "runtime", "logger")  # what may differ when a run's training goes on


class Slot(NamedTuple):
    """A place that takes options of a group.

    group: as Hydra writes it (`reward@heldout`). optional: null empties it. many: it takes a list of options, each of
    which is a file with one key and its node, and holds a mapping of nodes by name.
    """

    group: str
    optional: bool
    many: bool


class Overrides(NamedTuple):
    """What the command line says. picks: slot -> options; values: (full key, value) in order."""

    picks: dict[str, list[str]]
    values: list[tuple[str, Any]]


def slots(config_dir: Path = CONFIGS) -> dict[str, Slot]:
    """The slots that config.yaml names, under their names in the result."""
    groups = [next(iter(entry.items())) for entry in root(config_dir)["defaults"] if isinstance(entry, dict)]
    found = [
        Slot(group.removeprefix("optional "), group.startswith("optional "), isinstance(default, list))
        for group, default in groups
    ]
    return {slot.group.rpartition("@")[2]: slot for slot in found}


def root(config_dir: Path) -> dict[str, Any]:
    """config.yaml as it is written."""
    try:
        return cast("dict[str, Any]", yaml.safe_load((config_dir / "config.yaml").read_text()))
    except OSError as error:
        message = f"cannot read {error.filename}: {error.strerror}. Install with `pip install -e .` from a checkout"
        raise ConfigError(message) from error


def options(group: str, config_dir: Path = CONFIGS) -> dict[str, Path]:
    """The options of a group, `experiment` included: name -> file."""
    folder = config_dir / group.partition("@")[0]
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}


def compose(overrides: Sequence[str] = (), config_dir: Path = CONFIGS) -> DictConfig:
    """The whole configuration of a run. Raises ConfigError for any mistake in the overrides or the files."""
    return finish(draft(overrides, config_dir))


def draft(overrides: Sequence[str] = (), config_dir: Path = CONFIGS) -> DictConfig:
    """The configuration as the files and overrides state it: no class is imported, no default filled in."""
    known = slots(config_dir)
    picks, values = parse(overrides, known, config_dir)
    cfg = with_hydra(known, picks, config_dir)
    bare = with_hydra(known, {**picks, "experiment": ["null"]}, config_dir)
    for slot in picks.keys() - {"experiment"}:
        cfg[slot] = bare[slot]
    assign(cfg, values, bare, known)
    return cfg


def load_run(folder: str | Path, overrides: Sequence[str] = (), config_dir: Path = CONFIGS) -> DictConfig:
    """The configuration saved in a run's folder, with overrides. Resumed training may only differ in RESUMABLE.

    Raises ConfigError where there is no such run, or an override would make it another one.
    """
    known = slots(config_dir)
    picks, values = parse(overrides, known, config_dir)
    cfg = saved_config(str(folder), known, config_dir)
    task = dict(values).get("task", cfg.task)
    for key in [*picks, *(key for key, _ in values)]:
        if task in ("train", "pretrain") and key.split(".")[0] not in RESUMABLE:
            raise ConfigError(f"{key} cannot change when a run resumes; only {', '.join(RESUMABLE)} and their keys can")
    fresh = with_hydra(known, {**picks, "experiment": ["null"]}, config_dir) if picks else cfg
    for slot in picks:
        cfg[slot] = fresh[slot]
    assign(cfg, [*values, ("resume", str(folder))], cfg.copy(), known)
    return finish(cfg)


def saved_config(folder: str, known: Mapping[str, Slot], config_dir: Path) -> DictConfig:
    """config.yaml of a run's folder. Raises ConfigError where there is none, or it is not that of a run."""
    file = Path(folder) / "config.yaml"
    if not folder or not file.is_file():
        there = {
            path.parent.as_posix()
            for near in (Path(folder).parent, Path("runs"))
            for path in near.glob("*/config.yaml")
        }
        lacks = "has no config.yaml" if Path(folder).is_dir() else "does not exist"
        what = "is empty" if not folder else f"is {folder!r}, which {'is a file' if Path(folder).is_file() else lacks}"
        raise ConfigError(f"resume {what}; it takes the folder of a run.{nearest(folder, there)}")
    try:
        cfg = OmegaConf.load(file)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {paragraph(error)}") from error
    empty = [
        key.split()[-1]
        for group in root(config_dir)["defaults"]
        if isinstance(group, dict)
        for key in group
        if group[key] is None
    ]
    nulls = dict.fromkeys([*(key for key, value in root(config_dir).items() if value is None), *empty])
    needed = root(config_dir).keys() - nulls.keys() - {"defaults"} | {
        name for name, slot in known.items() if not slot.optional
    }
    missing = needed - cfg.keys() if isinstance(cfg, DictConfig) else needed
    if not isinstance(cfg, DictConfig) or missing:
        raise ConfigError(f"{file} is not the configuration of a run: it has no key {min(missing)}")
    return cast(
        DictConfig, OmegaConf.merge(nulls, renamed.run(plain(cfg)))
    )  # keys that have come to be since it was saved


def parse(overrides: Iterable[str], known: Mapping[str, Slot], config_dir: Path) -> Overrides:
    """Splits overrides into group choices and values, and refuses unknown options."""
    found = Overrides({}, [])
    for text in overrides:
        key, value = parse_one(text)
        slot = next((name for name, slot in known.items() if key in (name, slot.group)), None)
        if slot is None or isinstance(value, dict):
            found.values.append((key, value))
            continue
        found.picks[slot] = choice(slot, value, known[slot], config_dir)
    return found


def choice(name: str, value: Any, slot: Slot, config_dir: Path) -> list[str]:
    """The options that `name=value` picks: one, or a list where the slot takes many."""
    if isinstance(value, list) and not slot.many:
        raise ConfigError(f"{name} is {value!r}; it takes one option of its group, not a list")
    chosen = ["null" if v is None else str(v) for v in (value if isinstance(value, list) else [value])]
    allowed = [*options(slot.group, config_dir)]
    for option in chosen:
        if now := renamed.OPTIONS.get((name, option)):
            raise ConfigError(f"{name}={option} is now {name}={now}")
        if option not in allowed + ["null"] * slot.optional:
            raise ConfigError(f"{name} is {option!r}, which is not an option.{nearest(option, allowed)}")
    return chosen


def parse_one(text: str) -> tuple[str, Any]:
    """`a.b=c` -> ("a.b", c), with Hydra's grammar for c. A leading + or ++ means nothing more: every key can be set."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if "=" not in text or text.startswith(("~", "=")):
        raise ConfigError(f"{text!r} is not an override; write key=value, for instance trainer=ppo or trainer.clip=0.3")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        advice = "Quote a value with special characters: \"key='a = b'\"" if "=" in text else ""
        raise ConfigError(f"cannot read {text!r}: {paragraph(error)}. {advice}") from error
    if override.is_sweep_override():
        raise ConfigError(f"{text!r} asks for a sweep, which one run cannot do; a list is written [1,2]")
    key = override.key_or_group + (f"@{override.package}" if override.package else "")
    return key, override.value()


def with_hydra(known: Mapping[str, Slot], picks: Mapping[str, Sequence[str]], config_dir: Path) -> DictConfig:
    """config.yaml with the groups' options, as Hydra composes it; null leaves a slot out."""
    import hydra
    from hydra.errors import HydraException

    chosen = {known[slot]: names for slot, names in picks.items() if slot in known}
    texts = [
        f"{slot.group}=[{','.join(names)}]" if slot.many else hydra_choice(slot.group, *names)
        for slot, names in chosen.items()
    ]
    try:
        with hydra.initialize_config_dir(str(config_dir), version_base="1.3"):
            cfg = hydra.compose("config", overrides=texts)
    except (yaml.YAMLError, HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"the files in {config_dir} do not compose: {paragraph(error)}") from error
    OmegaConf.set_struct(cfg, False)
    for name, slot in known.items():
        if name not in cfg and name != "experiment":
            cfg[name] = {} if slot.many else None
    return cfg


def hydra_choice(group: str, option: str) -> str:
    """An option, or null for none, in Hydra's words."""
    return f"~{group}" if option == "null" else f"{group}={option}"


def assign(
    cfg: DictConfig, values: Iterable[tuple[str, Any]], known: DictConfig, known_slots: Mapping[str, Slot]
) -> None:
    """Sets full keys in order; a mapping with its own _target_ replaces what was there, any other is merged."""
    check_root(cfg, known, known_slots)
    for key, value in values:
        if key.split(".")[0] not in known:
            raise ConfigError(f"{key} is not a key (given {value!r}).{suggest(key, known)}")
        try:
            OmegaConf.update(cfg, key, value, merge=not is_node(value), force_add=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"cannot set {key} to {value!r}: {paragraph(error)}") from error
        check_root(cfg, known, known_slots)


def suggest(key: str, known: DictConfig) -> str:
    """The nearest names to an unknown key: keys of that name inside the nodes, or else similar ones at the top."""
    top = complete(plain(known))
    inside = [f"{name}.{key}" for name, node in top.items() if isinstance(node, dict) and key in node]
    return f" Did you mean {' or '.join(inside)}?" if inside else nearest(key, top)


def check_root(cfg: DictConfig, known: DictConfig, known_slots: Mapping[str, Slot]) -> None:
    """Raises ConfigError where a top-level key is unknown, or is not what config.yaml has there: a node, int, str."""
    allowed = plain(known)
    for key, value in plain(cfg).items():
        if key not in allowed:
            raise ConfigError(f"{key} is not a key (an experiment sets it).{nearest(key, allowed)}")
        if value is None and key in known_slots and known_slots[key].optional:
            continue
        kind = dict if key in known_slots else str if allowed[key] is None else type(allowed[key])
        if type(value) is not kind and not (value is None and allowed[key] is None):
            takes = f"a node; {key}.KEY=VALUE sets a key of it" if kind is dict else kind.__name__
            quoted = f"; quote it: \"{key}='{value}'\"" if kind is str and isinstance(value, (int, float)) else ""
            raise ConfigError(f"{key} is {value!r}; it takes {takes}{quoted}")
        if key in known_slots and known_slots[key].many:
            check_nodes(key, value)


def check_nodes(key: str, nodes: Any) -> None:
    """Raises ConfigError where a mapping of nodes holds something else: a key of one that was not chosen."""
    chosen = sorted(name for name, node in nodes.items() if is_node(node))
    for name in nodes.keys() - chosen:
        inside = [f"{key}.{node}.{name}" for node in chosen if name in complete(nodes[node])]
        did = f"Did you mean {' or '.join(inside)}?" if inside else f"Chosen: {', '.join(chosen) or 'none'}."
        raise ConfigError(f"{key}.{name} is {nodes[name]!r}, but {name} is not chosen in {key}=[...]. {did}")


def finish(cfg: DictConfig) -> DictConfig:
    """Fills in the defaults, resolves interpolations and checks every value against its annotation."""
    filled = OmegaConf.create(complete(plain(cfg)))
    try:
        OmegaConf.resolve(filled)
    except OmegaConfBaseException as error:
        raise ConfigError(f"an interpolation cannot be resolved: {paragraph(error)}") from error
    check(plain(filled))
    return filled


def stated(cls: Any, cfg: DictConfig, key: str) -> Any:
    """The object of an optional node, cfg[key], over the defaults of the class that it is of: its _target_ need not be given."""
    given = OmegaConf.create({"_target_": f"{cls.__module__}.{cls.__qualname__}"})
    node = complete(OmegaConf.to_container(OmegaConf.merge(given, cfg.get(key) or {})), key)
    check(node, key)
    return make(cls, OmegaConf.create({key: node})[key])


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as dicts, lists and scalars, its interpolations as they are written."""
    return {str(key): value for key, value in cast("dict[Any, Any]", OmegaConf.to_container(cfg)).items()}


def paragraph(error: Exception) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())
