"""Which runs are seeds of one method, which methods may be compared, and what they are called."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import yaml

from pgdlab.comparison.folders import Run
from pgdlab.config import trust
from pgdlab.config.compose import options
from pgdlab.config.schema import ConfigError, schema

# keys that define a problem: the base and its sampler, the reward, and the evaluation
PROBLEM = (
    "domain", "reward", "heldout", "plan.eval_samples", "policy.steps", "policy.kernel", "policy.guidance", "problem",
)  # fmt: skip
# keys that are no part of a method: where and when it ran, in how large batches, and its length, which is in the budget
APART = (
    "task", "name", "seed", "resume", "runtime", "logger", "certificate", "compare", "sweep", "engine", "budget", "divergence",
    "value", "preferences", "annotator",
    "plan.iterations", "plan.checkpoint_every", "plan.sheet_every", "plan.rollout_batch", "plan.pass_size", "plan.max_failed",
    "domain.folder",
)  # fmt: skip
BEST_OF_N, BEST_OF_N_CLASS = "best of n", "pgdlab.guidance.best_of_n.BestOfN"
USUAL = ("policy", "initial", "penalty")  # groups that a label names next to the trainer
SILENT = ("full", "frozen", "standard", "path_kl")  # options that it leaves out
Flat = dict[str, Any]


def flat(config: Any, prefix: str = "") -> Flat:
    """Nested keys joined by dots; lists and scalars as they are."""
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    joined = {k: flat(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in config.items()}
    return {key: value for part in joined.values() for key, value in part.items()}


def under(key: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted key is one of the prefixes, or inside one."""
    return any(key == p or key.startswith(f"{p}.") for p in prefixes)


def hashed(keys: Flat) -> Hashable:
    """Dictionaries of plain values as something to compare and to group by."""
    return json.dumps(keys, sort_keys=True, default=str)


def problem_of(run: Run) -> Flat:
    """The keys of a run that must agree for two runs to be compared, its budget of reward queries included."""
    keys = {k: v for k, v in flat(run.config).items() if under(k, PROBLEM) and k != "domain.folder"}
    return keys | {"queries": budget(run)}


def budget(run: Run) -> int:
    """Reward queries that the run was given: without those of batches that raised and were asked again."""
    if "samples" in run.summary:
        return int(run.summary["samples"])
    if "candidates" in run.summary:  # best-of-n of an earlier version
        return round(run.summary["candidates"] * run.summary["evaluation_samples"])
    if "iterations" in run.summary:  # of an earlier version
        return int(run.summary["iterations"] * run.config["plan"]["samples"])
    return int(run.summary["reward_queries"])


def method_of(run: Run, by: Sequence[str] = ()) -> Flat:
    """The keys of a run that its seeds share; with `by`, only those. Best-of-n has none: it does not train."""
    if best_of_n(run.config):
        return {}
    keys = {k: v for k, v in flat(run.config).items() if not under(k, (*PROBLEM, *APART)) or k == "algorithm"}
    if (
        run.config["task"] == "steer" and "steered_run" not in run.summary
    ):  # of the base: nothing of what trains it is used
        keys = {k: v for k, v in keys.items() if under(k, ("guidance",))}
    keys = {k: v for k, v in keys.items() if (k, v) != ("guidance", None)}  # of a run that trains
    return {k: v for k, v in keys.items() if under(k, by)} if by else keys


@functools.cache
def shipped(group: str) -> dict[str, Any]:
    """The options of a group as their files state them."""
    return {name: yaml.safe_load(file.read_text()) for name, file in options(group).items()}


def option(group: str, node: Any) -> str:
    """The name of the option that a node was made from: the one that states most of what the node holds; else its class."""
    if not node:
        return "none"
    fitting = {name: len(flat(stated)) for name, stated in shipped(group).items() if states(stated, node)}
    if fitting:
        return max(fitting, key=lambda name: (fitting[name], name))
    return str(node.get("_target_", "unknown")).rpartition(".")[2]


def states(stated: Any, node: Any) -> bool:
    """Whether a node holds all that an option states; values that are interpolated may be anything."""
    if isinstance(stated, dict):
        return isinstance(node, dict) and all(k in node and states(v, node[k]) for k, v in stated.items())
    return bool(stated == node) or (isinstance(stated, str) and stated.startswith("${"))


def method_label(run: Run, by: Sequence[str] = ()) -> str:
    """A readable name: the trainer's option and the unusual other options; with `by`, the values of those keys."""
    config = run.config
    if best_of_n(config):
        return BEST_OF_N
    if config["task"] == "steer" and not by:
        name = option("guidance", config.get("guidance"))
        return f"{trained(config)}, then {name}" if "steered_run" in run.summary else name
    if "algorithm" in config:
        return str(config["algorithm"])
    if by:
        return ", ".join(declared(config, key) for key in by)
    return trained(config)


def best_of_n(config: dict[str, Any]) -> bool:
    """Whether a run's configuration is that of best-of-n on the base, which has nothing to set."""
    node = (config.get("guidance") or {}) if config["task"] == "steer" and not config.get("trainer") else {}
    return config["task"] == "best_of_n" or node.get("_target_") == BEST_OF_N_CLASS


def trained(config: dict[str, Any]) -> str:
    """The trainer's option and the unusual other options of a configuration."""
    names = {slot: option(slot, config.get(slot)) for slot in USUAL}
    if names["initial"] != "standard":
        names["initial"] = "initial only" if names["policy"] == "frozen" else "initial too"
    said = [f"no {slot}" if name == "none" else name for slot, name in names.items() if name not in SILENT]
    return ", ".join([option("trainer", config.get("trainer")), *said])


def declared(config: dict[str, Any], key: str) -> str:
    """A declared factor of a run: the option of a group, or a key and its value. Raises ValueError where there is none."""
    if key in ("trainer", *USUAL):
        return option(key, config.get(key))
    keys = flat(config)
    if key not in keys:
        raise ValueError(
            f"compare.by names {key}, which some runs do not have; it must be one of {', '.join(sorted(keys))}"
        )
    return f"{key.rpartition('.')[2]} {keys[key]}"


def problem_label(run: Run) -> str:
    """Domain, reward and budget."""
    if "problem" in run.config:
        return f"{run.config['problem']} (exact), {budget(run):,} queries"
    domain = option("domain", run.config["domain"])
    return f"{domain}: {reward_label(run.config['reward'])}, {budget(run):,} queries"


def reward_label(node: dict[str, Any]) -> str:
    """A reward that is made of others by the name of its option; else its class in words, and what differs from its defaults."""
    if any(isinstance(value, (dict, list)) for value in node.values()) and option("reward", node) in shipped("reward"):
        return option("reward", node)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", node["_target_"].rpartition(".")[2]).lower()
    own = ", ".join(f"{key} {value}" for key, value in stated(node).items())
    return f"{name} ({own})" if own else name


def stated(node: Any) -> Flat:
    """The scalars of a node that differ from its class's defaults."""
    try:
        trust.check({"node": node}, "a run's config.yaml")
        defaults = schema(node["_target_"]).defaults
    except (ConfigError, ImportError):  # not to be imported, or not there
        defaults = {}
    plain = {k: v for k, v in node.items() if k not in ("_target_", "digest") and isinstance(v, (str, int, float))}
    return {k: v for k, v in plain.items() if defaults.get(k) != v and "." not in str(v).strip("0123456789.")}


def distinguished(labels: dict[Hashable, str], keys: dict[Hashable, Flat]) -> dict[Hashable, str]:
    """Labels, where several have the same one with the keys in which they differ."""
    out = dict(labels)
    for label in set(labels.values()):
        same = [i for i, own in labels.items() if own == label]
        names = sorted({k for i in same for k in keys[i]})
        differ = [k for k in names if len({hashed({"": keys[i].get(k)}) for i in same}) > 1]
        for i in same if len(same) > 1 else []:
            out[i] = f"{label} ({', '.join(short(k, keys[i].get(k)) for k in differ[:3])}{' ...' * (len(differ) > 3)})"
    return out


def short(key: str, value: Any) -> str:
    """The end of a key, and its value."""
    name = key.removesuffix("._target_").rpartition(".")[2]
    return f"{name} {str(value).rpartition('.')[2] if key.endswith('_target_') else value}"


def grouped(runs: Sequence[Run], keys: Callable[[Run], Flat]) -> dict[Hashable, list[Run]]:
    """Runs by the value of keys, in the order of the first of each."""
    out: dict[Hashable, list[Run]] = {}
    for run in runs:
        out.setdefault(hashed(keys(run)), []).append(run)
    return out
