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

    def within(self, plan: Plan) -> Plan:
        """The plan, with no more iterations than the reward queries pay for; the last one may overdraw them."""
        if self.queries is None:
            return plan
        return replace(plan, iterations=min(plan.iterations, -(-self.queries // plan.samples)))

    def spent(self, evaluations: int, seconds: float) -> bool:
        """Whether one of the other limits is reached."""
        limits = [(evaluations, self.evaluations), (seconds, self.seconds)]
        return any(limit is not None and used >= limit for used, limit in limits)
