"""The held-out reward follows the reward: a judge of something else would say nothing, and look as if it did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pgdlab.config.schema import ConfigError, children, is_node

FILE = "heldout.yaml"  # beside config.yaml: reward option -> its judge
JUDGED = ("domain", "target")  # keys that say what a reward looks at
Picks = dict[str, list[str]]


def chosen(overrides: Iterable[tuple[str, Any]]) -> bool:
    """Whether a reward is chosen as a whole, and no held-out reward."""
    keys = [key.rpartition("@")[2] for key, _ in overrides]
    return "reward" in keys and not any(key.split(".")[0] == "heldout" for key in keys)


def followed(picks: Picks, values: Sequence[tuple[str, Any]], config_dir: Path) -> Picks:
    """The picks, with the judge of the reward that they choose where they choose none."""
    if not chosen([*picks.items(), *values]):
        return picks
    file = config_dir / FILE
    judges: Mapping[str, str] = yaml.safe_load(file.read_text()) if file.is_file() else {}
    whole = any(key == "reward" for key, _ in values)  # a node of one's own
    return {**picks, "heldout": ["null" if whole else judges.get(picks["reward"][0], "null")]}


def note(overrides: Sequence[tuple[str, Any]], heldout: Mapping[str, Any] | None) -> str:
    """What became of the held-out reward, where the choice of a reward decided it; else ""."""
    if not chosen(overrides):
        return ""
    if heldout is None:
        return "no held-out reward: none is known for the reward that was chosen; heldout=NAME sets one"
    return f"held-out reward: {str(heldout['_target_']).rpartition('.')[2]}, which goes with the reward that was chosen"


def require_judge(reward: Any, heldout: Any) -> None:
    """Raises ConfigError where the held-out reward is of the reward's kind, but looks at something else."""
    if not is_node(heldout):
        return
    alike = [(key, node) for key, node in nodes(reward, "reward") if node["_target_"] == heldout["_target_"]]
    wrong = [
        (f"{key}.{name}", node[name], f"heldout.{name}", heldout.get(name))
        for key, node in alike
        for name in JUDGED
        if name in node and node[name] != heldout.get(name)
    ]
    if wrong and len({key.rpartition(".")[0] for key, *_ in wrong}) == len(alike):  # there is none that it judges
        key, value, other, has = wrong[0]
        shown = "null" if value is None else value
        raise ConfigError(
            f"{key} is {value!r}, but {other} is {has!r}: the held-out reward must judge the same; set {other}={shown}"
        )


def nodes(value: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node in a node, itself among them, with its full key; without potentials, which shape a reward and are no aim."""
    if is_node(value):
        yield key, value
    for name, child, full in children(value, key):
        yield from nodes(child, full) if name != "potential" else ()
