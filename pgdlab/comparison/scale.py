"""The reward scale on points, where an oracle knows the optimum of the objective: a score of 1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgdlab.certificates.truth import affine, truth
from pgdlab.comparison.folders import Run
from pgdlab.comparison.validity import ODD
from pgdlab.config import trust
from pgdlab.config.configuration import Config
from pgdlab.penalties.path_kl import PathKL
from pgdlab.training.build import build_world
from pgdlab.training.progress import Working

POINTS, PATH_KL = "pgdlab.domains.points.", f"{PathKL.__module__}.PathKL"
PLANE = (
    "no optimum of a problem in the plane: its grid takes minutes, so scores are gains in reward; task=certify "
    "certificate=plane solves one"
)


@dataclass(frozen=True)
class Optimum:
    """The declared KL weight of a problem, and how far above the base's the attainable optimum of J is."""

    weight: float
    gain: float

    def score(self, run: Run) -> float | None:
        """(J - J_base) / (J* - J_base), J = E[reward] - weight * KL; the gain in reward is that on paired noise. None where
        the run's KL or gain is not known."""
        kl, gained = run.summary.get("kl_nats"), run.summary.get("reward_gain")
        return None if kl is None or gained is None else float((gained - self.weight * kl) / self.gain)


def optimum(runs: Sequence[Run]) -> Optimum | None:
    """Of runs on one problem; None where it is not known: another domain, or runs that declare no or several KL weights.

    The optimum is the highest among what the runs train (denoiser, initial distribution, both): one yardstick for all.
    """
    if not str(runs[0].config.get("domain", {}).get("_target_")).startswith(POINTS):
        return None
    weights = {w for run in runs if (w := weight(run.config.get("penalty") or {})) is not None}
    if len(weights) != 1:
        return None
    (declared,) = weights
    configs = [run.config for run in runs if run.config.get("trainer")]
    trained = {json.dumps([config["policy"], config.get("initial")]): config for config in configs}
    gains = [g for config in trained.values() if (g := gain(config, declared)) is not None]
    return Optimum(declared, max(gains)) if gains else None


def weight(penalty: dict[str, Any]) -> float | None:
    """The fixed KL weight of a run's penalties, the same for path and initial distribution; None where it is not known."""
    nodes = list(penalty.values())
    if [node.get("_target_") for node in nodes if isinstance(node, dict)] != [PATH_KL] or len(nodes) > 1:
        return None
    coefficient, first = nodes[0].get("coefficient"), nodes[0].get("initial_coefficient")
    return coefficient if isinstance(coefficient, (int, float)) and first in (None, coefficient) else None


def gain(config: dict[str, Any], weight: float) -> float | None:
    """J* - J_base of what a run trains, at a KL weight; None where no oracle knows it, or only one that takes minutes."""
    try:
        trust.check(config, "config.yaml of a run")
        world = build_world(Config.of(config | {"runtime": {"accelerator": "cpu"}}))
        with Working() as working:
            if world.policy.space.shape != (1,) and not affine(world):
                working.say(PLANE, now=True)
                return None
            working.say("solving for the optimum that scores are held against", now=True)
            found = truth(world, PathKL(coefficient=weight))
    except ODD:
        return None
    return found.best.objective[0] - found.base.objective[0]
