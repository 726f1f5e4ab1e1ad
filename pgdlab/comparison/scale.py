"""What a score of 1 is on points, where an oracle knows the optimum of the objective."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgdlab.certificates.truth import truth
from pgdlab.comparison.folders import Run
from pgdlab.config.configuration import Config
from pgdlab.config.schema import complete
from pgdlab.penalties.base import Penalty
from pgdlab.training.build import build_world

POINTS, PATH_KL = "pgdlab.domains.points.", "pgdlab.penalties.path_kl.PathKL"


@dataclass(frozen=True)
class Optimum:
    """The declared KL weight of a problem, and how far above the base's the attainable optimum of J is."""

    weight: float
    gain: float

    def score(self, run: Run) -> float | None:
        """(J - J_base) / (J* - J_base), J = E[reward] - weight * KL; the gain in reward is that on paired noise. None where
        the run's KL is not known."""
        kl, gained = run.summary["kl_nats"], run.summary["reward_gain"]
        return None if kl is None else float((gained - self.weight * kl) / self.gain)


def optimum(runs: Sequence[Run]) -> Optimum | None:
    """Of runs on one problem; None where it is not known: another domain, or runs that declare no or several KL weights.

    The optimum is the highest among what the runs train (denoiser, initial distribution, both): one yardstick for all.
    """
    if not str(runs[0].config.get("domain", {}).get("_target_")).startswith(POINTS):
        return None
    weights = {w for run in runs if (w := weight(run.config["penalty"])) is not None}
    trained = {
        json.dumps([run.config[k] for k in ("policy", "initial")]): run for run in runs if run.config.get("trainer")
    }
    if len(weights) != 1:
        return None
    (declared,) = weights
    gains = [g for run in trained.values() if (g := gain(run.config, declared)) is not None]
    return Optimum(declared, max(gains)) if gains else None


def weight(penalty: dict[str, Any]) -> float | None:
    """The fixed KL weight of a penalty, the same for path and initial distribution; None where it has none."""
    if penalty.get("_target_") != PATH_KL or penalty.get("target") is not None:
        return None
    coefficient, first = penalty.get("coefficient"), penalty.get("initial_coefficient")
    return coefficient if first in (None, coefficient) else None


def gain(config: dict[str, Any], weight: float) -> float | None:
    """J* - J_base of what a config trains, at a KL weight; None where no oracle knows it."""
    penalty = complete({"_target_": PATH_KL, "coefficient": weight})
    cfg = Config.of(config | {"penalty": penalty, "runtime": {"accelerator": "cpu"}})
    try:
        found = truth(build_world(cfg), cfg.make(Penalty, "penalty"))
    except ValueError:
        return None
    return found.best.objective[0] - found.base.objective[0]
