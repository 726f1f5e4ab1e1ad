"""Hydra's part: the groups and their options, what the command line picks and sets, and config.yaml composed of them.

Only Hydra's compose API is used: no launcher, no working directory of its own, no logging.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pgdlab.config import renamed
from pgdlab.config.program import CONFIGS
from pgdlab.config.schema import ConfigError, nearest

OWN = "PGDLAB_CONFIG_DIR"  # the variable of the user's folder of groups: the processes that a run starts have it too
FILE = "file"  # the folder of a group in which Hydra sees an option that is given as a file


class Slot(NamedTuple):
    """A place that takes options of a group.

    group: as Hydra writes it (`reward@heldout`). optional: null empties it. many: it takes a list of options, each of
    which is a file with one key and its node, and holds a mapping of nodes by name.
    """

    group: str
    optional: bool
    many: bool


class Overrides(NamedTuple):
    """The command line. picks: slot -> options; values: (full key, value) in order."""

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
        message = f"cannot read {error.filename}: {error.strerror}. Install anew: `pip install -e .` in a checkout"
        raise ConfigError(message) from error


def options(group: str, config_dir: Path = CONFIGS) -> dict[str, Path]:
    """The options of a group, `experiment` included: name -> file; those of the user's folder come last.

    Raises ConfigError where an option of the user's has the name of another.
    """
    found: dict[str, Path] = {}
    for home in [config_dir, *own_folder()]:
        folder = home / group.partition("@")[0]
        new = {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}
        if twice := found.keys() & new.keys():
            raise ConfigError(f"{new[min(twice)]} has the name of an option that comes with pgdlab: give it another")
        found |= new
    return found


def own_folder() -> list[Path]:
    """The user's folder of groups, where there is one."""
    return [Path(os.environ[OWN])] if os.environ.get(OWN) else []


def use_folder(folder: str) -> None:
    """Makes the options of a user's folder known. Raises ConfigError where it has no groups."""
    home = Path(folder).resolve()
    if not folder or not home.is_dir():
        raise ConfigError(f"--config-dir is {folder!r}, which is no folder")
    groups = sorted(file.name for file in CONFIGS.iterdir() if file.is_dir())
    if not any((home / group).is_dir() for group in groups):
        there = ", ".join(sorted(file.name for file in home.iterdir() if file.is_dir())) or "none"
        raise ConfigError(
            f"--config-dir is {folder!r}, which has none of the groups {', '.join(groups)}; it has: {there}"
        )
    if (home / "config.yaml").exists():
        raise ConfigError(f"{home / 'config.yaml'} would not be read: defaults of your own belong in pgdlab.yaml")
    os.environ[OWN] = str(home)


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
        raise ConfigError(f"{name} is {value!r}; it must be one option of its group, not a list")
    chosen = ["null" if v is None else str(v) for v in (value if isinstance(value, list) else [value])]
    allowed = [*options(slot.group, config_dir)]
    for option in chosen:
        if option == value and (now := renamed.OPTIONS.get((name, option))):
            raise ConfigError(f"{name}={option} is now {now}")
        if option.endswith(".yaml"):
            if not Path(option).is_file():
                raise ConfigError(f"{name} is {option!r}, and there is no such file")
        elif option not in allowed + ["null"] * slot.optional:
            raise ConfigError(f"{name} is {option!r}, which is not an option.{nearest(option, allowed)}")
    return chosen


def once(overrides: Iterable[str], known: Mapping[str, Slot]) -> None:
    """Raises ConfigError for a key or group that is given twice: one of the two would have no effect."""
    given: dict[str, str] = {}
    for text in overrides:
        key, _ = parse_one(text)
        name = next((name for name, slot in known.items() if key == slot.group), key)
        if name in given:
            raise ConfigError(f"{name} is given twice, by {given[name]!r} and {text!r}: leave one of them out")
        given[name] = text


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

    with tempfile.TemporaryDirectory() as folder:
        chosen = {slot: as_options(known[slot], names, Path(folder)) for slot, names in picks.items() if slot in known}
        texts = [
            f"{known[slot].group}=[{','.join(names)}]" if known[slot].many else hydra_choice(known[slot].group, *names)
            for slot, names in chosen.items()
        ]
        homes = ",".join(f"'{home}'" for home in [folder, *own_folder()])
        try:
            with hydra.initialize_config_dir(str(config_dir), version_base="1.3"):
                cfg = hydra.compose("config", overrides=[*texts, f"hydra.searchpath=[{homes}]"])
        except (yaml.YAMLError, HydraException, OmegaConfBaseException) as error:
            files = [name for names in picks.values() for name in names if name.endswith(".yaml")]
            what = " and ".join([f"the files in {config_dir}", *map(str, own_folder()), *files])
            raise ConfigError(f"{what} do not compose: {paragraph(error)}") from error
    OmegaConf.set_struct(cfg, False)
    for name, slot in known.items():
        if name not in cfg and name != "experiment":
            cfg[name] = {} if slot.many else None
    if "experiment" in cfg:
        named = ", ".join(picks.get("experiment", ()))
        raise ConfigError(f"experiment={named} sets nothing: its file must begin with the line # @package _global_")
    return cfg


def as_options(slot: Slot, names: Sequence[str], folder: Path) -> list[str]:
    """The options as Hydra finds them: one that is given as a file is copied into its group under a folder."""
    found = []
    for number, name in enumerate(names):
        if name.endswith(".yaml"):
            group, _, place = slot.group.partition("@")
            copy = folder / group / FILE / f"{place or group}{number}.yaml"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, copy)
            name = f"{FILE}/{copy.stem}"
        found.append(name)
    return found


def hydra_choice(group: str, option: str) -> str:
    """An option, or null for none, in Hydra's words."""
    return f"~{group}" if option == "null" else f"{group}={option}"


def paragraph(error: Exception) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())
