"""Names that were others in earlier versions: saved configurations and checkpoints are read in today's. No other file knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

Node = dict[str, Any]
COEFFICIENT, OLD_COEFFICIENT = re.compile(r"penalties\.\w+\.coefficient$"), re.compile(r"(penalty\.)+coefficient$")

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
TARGETS = {  # what is not where MODULES puts it, or has another name there: old path -> today's
    "pgdlab.module.AdamW": "pgdlab.training.optimizer.Optimization",
    "pgdlab.penalties.trust_region.KLConstraint": "pgdlab.penalties.constraint.KLConstraint",
    "pgdlab.loggers.csv": "pgdlab.training.loggers.Csv",
    "pgdlab.loggers.wandb": "pgdlab.training.weights_and_biases.Wandb",
    "pgdlab.training.loggers.csv": "pgdlab.training.loggers.Csv",
    "pgdlab.training.loggers.wandb": "pgdlab.training.weights_and_biases.Wandb",
}
# today's path of the class: its old keys -> today's, which may lie inside a mapping (a.b); None for a key that is gone
KEYS: dict[str, dict[str, str | None]] = {
    "pgdlab.rollout.plan.Plan": {"steps": "trained_steps"},
    "pgdlab.trainers.denoising.Pretrain": {"steps": "updates"},
    "pgdlab.trainers.rwr.RewardWeightedRegression": {"steps": "updates"},
    "pgdlab.domains.digits.Digits": {"prompts": "train_conditions"},
    "pgdlab.domains.fashion.Fashion": {"prompts": "train_conditions"},
    "pgdlab.domains.qm9.QM9": {"prompts": "train_conditions"},
    "pgdlab.domains.qm9_3d.QM9InSpace": {"prompts": "train_conditions"},
    "pgdlab.training.optimizer.Optimization": {"initial_lr": "rates.initial", "critic_lr": "rates.critic"},
    "pgdlab.trainers.reinforce.Reinforce": {"epochs": None, "minibatches": None},
    "pgdlab.training.loggers.Csv": {"_partial_": None},
    "pgdlab.training.weights_and_biases.Wandb": {"_partial_": None},
    "pgdlab.trainers.eager.Eager": {"epochs": None, "minibatches": None, "ratio": None},
}
# what more than names have changed in: today's path of the class, or the slot -> what makes today's node of the old one
CLASSIFIERS = {"pgdlab.domains.digits.Digits": "digits", "pgdlab.domains.fashion.Fashion": "fashion"}


def told_by_class(node: Node) -> Node:
    """A reward by classifiers that were named by the class of their domain."""
    return node | {"domain": CLASSIFIERS.get(node.get("domain", ""), node.get("domain"))}


NODES: dict[str, Callable[[Node], Any]] = {
    "pgdlab.rewards.image.classes.ClassProbability": told_by_class,
    "pgdlab.rewards.image.classes.AnyClass": told_by_class,
}
WEIGHTS: dict[str, str] = {}  # beginnings of weights' names in a checkpoint: old -> today's

PENALTIES = {  # today's path of a penalty -> its name among the penalties of a run
    "pgdlab.penalties.path_kl.PathKL": "path_kl",
    "pgdlab.penalties.constraint.KLConstraint": "constraint",
    "pgdlab.penalties.terminal.Terminal": "terminal",
    "pgdlab.penalties.trust_region.TrustRegion": "trust_region",
}


def penalties(node: Any) -> Any:
    """One penalty, which may hold another one (`penalty`), as a mapping of them by name. A coefficient that was steered to a
    target becomes a constraint, whose updates agree with it to first order."""
    if not isinstance(node, dict) or "_target_" not in node:
        return node
    own = dict(node)
    inner = penalties(own.pop("penalty", None)) or {}
    target, gain, first = own.pop("target", None), own.pop("gain", None), own.get("initial_coefficient")
    if own["_target_"] == "pgdlab.penalties.path_kl.PathKL" and target is not None:
        if first not in (None, own["coefficient"]):
            raise ValueError(
                "a path KL with a target and an initial_coefficient of its own has no counterpart: start anew"
            )
        path = "pgdlab.penalties.constraint.KLConstraint"
        own = {"_target_": path, "limit": target, "multiplier": own["coefficient"], "rate": gain, "form": own["form"]}
    name = PENALTIES.get(own["_target_"])
    if name is None:  # none, or a class of the user's own
        return inner if own["_target_"] == "pgdlab.penalties.base.NoPenalty" else inner | {"own": own}
    return inner | {name: own}


def loggers(node: Any) -> Any:
    """One logger as a mapping of them by name."""
    if not isinstance(node, dict) or "_target_" not in node:
        return node
    return {"csv" if node["_target_"].endswith(".Csv") else "wandb": node}


SLOTS: dict[str, Callable[[Any], Any]] = {"penalty": penalties, "logger": loggers}
OPTIONS = {  # of groups: old -> today's
    ("penalty", "target_kl"): "penalty=constraint",
    ("penalty", "trust_region"): "penalty=[path_kl,trust_region]; alone it is penalty=[trust_region]",
    ("penalty", "terminal"): "penalty=[path_kl,terminal]; alone it is penalty=[terminal]",
}


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


def checkpoint(state: dict[str, Any], own: Iterable[str] = ()) -> dict[str, Any]:
    """A checkpoint with the weights in today's names. own: those of the module that it is for: a run has one coefficient of a
    KL, under the name of its penalty."""
    coefficient = next((name for name in own if COEFFICIENT.match(name)), None)

    def renamed(name: str) -> str:
        if coefficient is not None and OLD_COEFFICIENT.match(name):
            return coefficient
        old = next((start for start in WEIGHTS if name.startswith(start)), "")
        return WEIGHTS.get(old, "") + name.removeprefix(old)

    parts = {part: state[part] for part in ("current_model_state", "state_dict") if part in state}
    count_steps(state.get("loops", {}).get("fit_loop", {}))
    return state | {part: {renamed(name): x for name, x in weights.items()} for part, weights in parts.items()}


def count_steps(loop: dict[str, Any]) -> None:
    """Moves the number of optimiser steps to where Lightning counts them under manual optimisation."""
    automatic = loop.get("epoch_loop.automatic_optimization.optim_progress", {}).get("optimizer", {}).get("step", {})
    if automatic.get("total", {}).get("completed"):
        loop["epoch_loop.manual_optimization.optim_step_progress"] = {k: dict(v) for k, v in automatic.items()}
