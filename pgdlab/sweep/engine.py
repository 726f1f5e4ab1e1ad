"""The engine's settings, and how a sweep file's method becomes Ray Tune's searcher and scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgdlab.sweep.file import Parameters, Sweep
from pgdlab.sweep.parameters import Parameter

FOREVER = 10**6  # iterations: no trial is stopped for having come to the last rung


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where and how trials run.

    address: of a Ray cluster ("auto": the one that this machine belongs to); null: this machine alone. cpus: CPU threads of a
    trial. gpus: of a trial; below 1 several share one. trials: at once, null for as many as there is room for. seconds: an
    attempt's limit, null for none. retries: further attempts after a failed one. warm: whether trials on one CPU process may
    share a process, one after another. seed: of random and bayes.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0
    trials: int | None = None
    seconds: float | None = None
    retries: int = 2
    warm: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(
                f"cpus is {self.cpus}, gpus {self.gpus}; cpus must be at least 1, gpus a whole number or a share below 1"
            )
        limits = [limit for limit in (self.seconds, self.trials) if limit is not None]
        if self.retries < 0 or any(limit <= 0 for limit in limits):
            raise ValueError(
                f"retries is {self.retries}, seconds {self.seconds}, trials {self.trials}; retries must be at least 0, "
                "seconds above 0, trials at least 1; null for no limit"
            )


def space(sweep: Sweep) -> dict[str, Any]:
    """The parameters that vary, as Tune's distributions."""
    from ray import tune

    return {name: domain(p, tune) for name, p in sweep.space.items()}


def domain(p: Parameter, tune: Any) -> Any:
    """A distribution of W&B's as one of Tune's; of one that Tune does not have, the share that is drawn."""
    if not p.distribution.own:
        return tune.uniform(0.0, 1.0)
    if p.kind == "categorical":
        return tune.choice(list(p.settings["values"]))
    low, high, q = p.settings["min"], p.settings["max"], p.settings.get("q")
    kinds = {
        "int_uniform": lambda: tune.randint(low, high + 1),
        "uniform": lambda: tune.uniform(low, high),
        "q_uniform": lambda: tune.quniform(low, high, q),
        "log_uniform_values": lambda: tune.loguniform(low, high),
        "q_log_uniform_values": lambda: tune.qloguniform(low, high, q),
    }
    return kinds[p.kind]()


def searcher(sweep: Sweep, engine: Engine, known: list[Parameters]) -> Any:
    """Tune's variant generator, or Optuna's tree-structured Parzen estimator for bayes.

    known: the trials of a sweep that goes on; they are suggested first, and finished ones answer at once. New trials get another
    seed: the same would suggest the same again.
    """
    from ray.tune.search.basic_variant import BasicVariantGenerator

    if sweep.method != "bayes":
        return BasicVariantGenerator(max_concurrent=engine.trials or 0, random_state=engine.seed)
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(seed=engine.seed + len(known), points_to_evaluate=known or None)


def scheduler(sweep: Sweep) -> Any:
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934) where the file says hyperband; else none."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if sweep.early is None:
        return FIFOScheduler()
    eta = sweep.early.get("eta", 3)
    least = sweep.early.get("min_iter") or max(1, round(sweep.early["max_iter"] / eta ** sweep.early["s"]))
    return ASHAScheduler("iteration", max_t=FOREVER, grace_period=least, reduction_factor=eta)
