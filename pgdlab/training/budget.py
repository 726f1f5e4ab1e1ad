"""Limits of what training may cost, whatever the trainer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pgdlab.rollout.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Training ends with the first iteration that reaches a limit, and with plan.iterations at the latest; null for no limit.

    queries: of the reward. They are known beforehand, plan.samples an iteration, so they lower plan.iterations: shares of the
    whole run (EMA, learning rate) are shares of what is run. evaluations: network rows, of sampling and training. seconds: of
    training, over all parts of a run that was resumed; where such a run ends depends on the machine.
    """

    queries: int | None = None
    evaluations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("queries", "evaluations", "seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0, or null for no limit")

    def within(self, plan: Plan, done: int = 0, asked: int = 0) -> Plan:
        """The plan, with no more iterations than the reward queries pay for; the last one may overdraw them. done: iterations
        that were run before, on `asked` samples: they may have been more or fewer an iteration than the plan's.

        Raises ValueError where more is spent than such a last iteration explains.
        """
        if self.queries is None:
            return plan
        if done and asked - max(plan.samples, -(-asked // done)) >= self.queries:
            raise ValueError(f"budget.queries is {self.queries}, but {done} iterations have asked {asked} already")
        left = max(0, self.queries - asked)
        return replace(plan, iterations=min(plan.iterations, done + -(-left // plan.samples)))

    def spent(self, evaluations: int, seconds: float) -> bool:
        """Whether one of the other limits is reached."""
        limits = [(evaluations, self.evaluations), (seconds, self.seconds)]
        return any(limit is not None and used >= limit for used, limit in limits)
