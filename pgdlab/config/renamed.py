"""Names that were others in earlier versions: saved configurations and checkpoints are read in today's. No other file knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Node = dict[str, Any]

MODULES = {
    "pgdlab.budget": "pgdlab.training.budget",
    "pgdlab.evaluation.certificate": "pgdlab.certificates.certificate",
    "pgdlab.evaluation.comparison": "pgdlab.comparison.comparison",
    "pgdlab.loggers": "pgdlab.training.loggers",
    "pgdlab.module": "pgdlab.training.optimizer",
    "pgdlab.plan": "pgdlab.rollout.plan",
    "pgdlab.rewards.learned": "pgdlab.images.classifiers",
    "pgdlab.trainers.actor_critic": "pgdlab.credit.actor_critic",
    "pgdlab.trainers.credit": "pgdlab.credit.reward_to_go",
    "pgdlab.trainers.critic": "pgdlab.credit.critic",
    "pgdlab.trainers.per_part": "pgdlab.credit.per_part",
}
TARGETS: dict[
    str, str
] = {}  # classes that have another name in the module where MODULES puts them: old path -> today's
# today's path of the class: its old keys -> today's, which may lie inside a mapping (a.b); None for a key that is gone
KEYS: dict[str, dict[str, str | None]] = {
    "pgdlab.rollout.plan.Plan": {"steps": "trained_steps"},
    "pgdlab.trainers.denoising.Pretrain": {"steps": "updates"},
    "pgdlab.trainers.rwr.RewardWeightedRegression": {"steps": "updates"},
    "pgdlab.domains.digits.Digits": {"prompts": "train_conditions"},
    "pgdlab.domains.fashion.Fashion": {"prompts": "train_conditions"},
    "pgdlab.domains.qm9.QM9": {"prompts": "train_conditions"},
    "pgdlab.domains.qm9_3d.QM9InSpace": {"prompts": "train_conditions"},
}
# what more than names have changed in: today's path of the class, or the slot -> what makes today's node of the old one
NODES: dict[str, Callable[[Node], Any]] = {}
SLOTS: dict[str, Callable[[Any], Any]] = {}
WEIGHTS: dict[str, str] = {}  # beginnings of weights' names in a checkpoint: old -> today's


def target(path: str) -> str:
    """Today's path of a class or function."""
    module, _, name = path.rpartition(".")
    return TARGETS.get(path, f"{MODULES.get(module, module)}.{name}".lstrip("."))


def advice(path: str, key: str, name: str) -> str:
    """A sentence with today's name of a key of a class; empty for one that no version knew."""
    keys = KEYS.get(path, {})
    if name not in keys:
        return ""
    return f"{key}.{name} is now {key}.{keys[name]}" if keys[name] else f"{key}.{name} is gone: it had no effect"


def run(config: dict[str, Any]) -> dict[str, Any]:
    """The saved configuration of a run, in today's names."""
    new = {slot: translate(value) for slot, value in config.items()}
    return {slot: SLOTS[slot](value) if slot in SLOTS else value for slot, value in new.items()}


def translate(value: Any) -> Any:
    """A node, and all nodes inside it, in today's names; any other value as it is."""
    if isinstance(value, list):
        return [translate(item) for item in value]
    if not isinstance(value, dict):
        return value
    node = {key: translate(item) for key, item in value.items()}
    if "_target_" not in node:
        return node
    node["_target_"] = path = target(str(node["_target_"]))
    keys, new = KEYS.get(path, {}), Node()
    for key, item in node.items():
        put(new, keys.get(key, key), item)
    return NODES[path](new) if path in NODES else new


def put(node: Node, key: str | None, value: Any) -> None:
    """Sets a.b in nested mappings; nowhere for None."""
    if key is not None:
        *inside, last = key.split(".")
        for name in inside:
            node = node.setdefault(name, {})
        node[last] = value


def checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint with the weights in today's names."""

    def renamed(name: str) -> str:
        old = next((start for start in WEIGHTS if name.startswith(start)), "")
        return WEIGHTS.get(old, "") + name.removeprefix(old)

    parts = {part: state[part] for part in ("current_model_state", "state_dict") if part in state}
    return state | {part: {renamed(name): x for name, x in weights.items()} for part, weights in parts.items()}
