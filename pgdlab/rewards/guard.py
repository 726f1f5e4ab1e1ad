"""Rewards fail: they raise, or return NaN. A failure is counted and masked, and past a limit it stops the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pgdlab.processes import alone
from pgdlab.rewards.base import Outcome, Reward, RewardError, ShapeError, StepRewards, require_shape


def guarded(
    reward: Reward, outcome: Outcome, max_failed: float, gather: Callable[[Tensor], Tensor] = alone
) -> StepRewards:
    """reward(outcome) with failures masked: measured is False, the value 0, where the scorer raised or was not finite.

    Where a batch raises it is halved until the samples at fault stand alone, so that one bad sample costs only itself;
    queries counts every row that was scored, those of a batch that raised included. All is moved to cond's device.
    Raises RewardError where more than the share max_failed failed, with the first exception as its cause. gather: from
    this process's rows to all processes', over which the share is taken, so that all of them stop or none does.
    """
    failures: list[Exception] = []
    with torch.no_grad():
        paid = _attempt(reward, outcome, failures)
    finite = paid.values.isfinite().all(1) & paid.initial.isfinite()
    measured = paid.measured & finite
    everywhere = gather(measured)
    share = (~everywhere).double().mean().item()
    if share > max_failed:
        raise RewardError(
            f"reward {type(reward).__name__} failed on {share:.0%} of {len(everywhere)} samples (plan.max_failed "
            f"allows {max_failed:.0%}); {_why(failures)}"
        ) from (failures[0] if failures else None)
    values = torch.where(measured[:, None], paid.values, 0.0)
    return replace(paid, values=values, initial=torch.where(measured, paid.initial, 0.0), measured=measured)


def _why(failures: list[Exception]) -> str:
    """The cause, and what to do about it."""
    why = f"the first exception: {failures[0]!r}" if failures else "values were not finite or not measured"
    return f"{why}. Mend the reward, or raise plan.max_failed to train on the rest"


def _attempt(reward: Reward, outcome: Outcome, failures: list[Exception]) -> StepRewards:
    try:
        paid = reward(outcome)
        require_shape(reward, {"values": paid.values}, len(outcome), outcome.steps)
        require_shape(reward, {"initial": paid.initial, "measured": paid.measured, **paid.parts}, len(outcome))
        return replace(paid.to(outcome.cond.device), queries=len(outcome))
    except ShapeError:
        raise
    except Exception as error:  # a scorer may raise anything; what it was is kept and reported
        failures.append(error)
    if len(outcome) == 1:
        zero = torch.zeros(1, outcome.steps, dtype=torch.float64, device=outcome.cond.device)
        return StepRewards(zero, zero[:, 0], torch.zeros(1, dtype=torch.bool, device=zero.device), {}, queries=1)
    half = len(outcome) // 2
    joined = _join([_attempt(reward, outcome.rows(a, b), failures) for a, b in ((0, half), (half, len(outcome)))])
    return replace(joined, queries=joined.queries + len(outcome))


def _join(parts: list[StepRewards]) -> StepRewards:
    names = sorted({name for p in parts for name in p.parts})
    unknown = {name: [p.parts.get(name, torch.full_like(p.initial, torch.nan)) for p in parts] for name in names}
    return StepRewards(
        torch.cat([p.values for p in parts]),
        torch.cat([p.initial for p in parts]),
        torch.cat([p.measured for p in parts]),
        {name: torch.cat(some) for name, some in unknown.items()},
        sum(p.queries for p in parts),
    )
