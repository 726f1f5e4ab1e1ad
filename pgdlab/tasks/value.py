"""task=value: fits V(x, h, cond) to rollouts of the base: what guidance=value follows, and a potential of others."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from pgdlab.config.compose import compose
from pgdlab.config.configuration import Config
from pgdlab.config.functions import edited_since
from pgdlab.config.runs import SUMMARY, run_folder, save_config, short, versions, write_json
from pgdlab.credit.fitted import facts_of, save
from pgdlab.diffusion.values import KINDS
from pgdlab.training.budget import Budget
from pgdlab.training.build import build_world
from pgdlab.training.progress import Working
from pgdlab.training.value_fit import ValueFit, collected, fit
from pgdlab.world import World

READS = (
    "experiment", "domain", "policy.kernel", "policy.steps", "policy.guidance", "reward", "value", "plan.iterations",
    "plan.samples", "plan.rollout_batch", "plan.max_failed", "budget", "runtime", "seed", "name",
)  # fmt: skip
INSTEAD = "a value is fitted to the base alone"


def main(cfg: Config) -> int:
    """A new run folder with value/ (numbers and text), config.yaml and summary.json."""
    started = time.perf_counter()
    if not cfg.nodes["reward"]:
        raise ValueError("a value is that of a reward: give reward=NAME")
    if cfg.nodes["value"] is None:
        cfg = cfg.with_nodes(value=compose(["value=soft"]).nodes["value"])
    how, world = cfg.make(ValueFit, "value"), build_world(cfg)
    require(cfg, how, world)
    folder = run_folder(cfg)
    save_config(cfg, folder)
    with torch.no_grad(), Working() as working:
        paths, costs = collected(world, working.say)
    value, found = fit(how, world, paths, cfg.nodes["runtime"])
    facts = {"of": how.of, "lam": how.lam, "reward": cfg.nodes["reward"], **facts_of(world), **costs}
    save(value, facts, folder)
    spent = {"reward_queries": costs["queries"], "network_evaluations": costs["evaluations"]}
    summary = {"of": how.of, "lam": how.lam, "paths": len(paths.reward), **found, **spent, "seed": cfg.seed}
    seconds = {"versions": versions(), "seconds": time.perf_counter() - started}
    write_json(summary | edited_since(cfg) | seconds, folder / SUMMARY)
    say(summary, folder)
    return 0


def require(cfg: Config, how: ValueFit, world: World) -> None:
    """Raises ValueError, before a folder is made, for what could not be kept or would not be spent."""
    budget = cfg.stated(Budget, "budget")
    if budget.evaluations or budget.seconds:
        raise ValueError("the budget of a value is reward queries: budget.queries, or plan.iterations x plan.samples")
    if cfg.nodes["runtime"].get("strategy", "auto") != "auto":
        raise ValueError("a value is fitted by one process: runtime=cpu or runtime=gpu")
    if world.reward.needs_estimates():
        raise ValueError(
            f"reward {world.reward.called} pays intermediate states, and a value is fitted to the reward of samples"
        )
    if type(how.critic.build(world)).__name__ not in KINDS:
        raise ValueError(f"value.critic makes a network that cannot be kept; those that can are {', '.join(KINDS)}")
    how.parts(world.plan.iterations * world.plan.samples)


def say(summary: dict[str, object], folder: Path) -> None:
    """What was found, and how it is used."""
    explained, paths = summary["value_explained"], summary["heldout_paths"]
    assert isinstance(explained, float)
    at = short(folder)
    print(f"the value explains {explained:.0%} of the loss of a constant on {paths} paths that it was not fitted to")
    print(
        f"written to {at}; use it: task=steer guidance=value guidance.lam={summary['lam']} guidance.potential.run={at}"
    )
