"""Rewards fail: they raise, or return NaN. A failure is counted and masked, and past a limit it stops the run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from pgdlab.processes import alone
from pgdlab.rewards.base import (
    Outcome,
    Reward,
    RewardError,
    ShapeError,
    StepRewards,
    lent,
    require_measured,
    require_names,
    require_shape,
)

LONGEST = 300  # characters of an exception that a message quotes


def guarded(
    reward: Reward, outcome: Outcome, max_failed: float, gather: Callable[[Tensor], Tensor] = alone
) -> StepRewards:
    """reward(outcome) with failures masked: measured is False, the value 0, where the scorer raised or was not finite.

    Where a batch raises, single samples are tried while they raise too, and the rest is halved until the samples at fault
    stand alone, so that one bad sample costs only itself; queries counts every row that was scored. A reward that compares
    samples then scores the others together. All is moved to cond's device, and the working directory stays what it was.
    Raises RewardError where more than the share max_failed failed, with the first exception as its cause: as soon as that is
    certain, or, with other processes, once all have scored. gather: from this process's rows to all processes', over which
    the share is taken, so that all of them stop or none does.
    """
    search = _Search(reward, outcome, max_failed if gather is alone else math.inf)
    with torch.no_grad():
        paid = search.settled()
    finite = paid.values.isfinite().all(1) & paid.initial.isfinite()
    measured = paid.measured & finite
    everywhere = gather(measured)
    share = (~everywhere).double().mean().item()
    if share > max_failed:
        raise _too_many(reward, f"{share:.0%} of {len(everywhere)}", max_failed, search.errors)
    values = torch.where(measured[:, None], paid.values, 0.0)
    return replace(paid, values=values, initial=torch.where(measured, paid.initial, 0.0), measured=measured)


def _too_many(reward: Reward, failed: str, max_failed: float, errors: list[Exception]) -> RewardError:
    """The cause, and what to do about it."""
    why = f"the first exception: {quoted(errors[0])}" if errors else "values were not finite or not measured"
    error = RewardError(
        f"reward {reward.called} failed on {failed} samples (plan.max_failed allows {max_failed:.0%}); {why}. Mend the "
        "reward, or raise plan.max_failed to train on the rest"
    )
    error.__cause__ = errors[0] if errors else None
    return error


def quoted(error: BaseException) -> str:
    """An exception as a message has it: some put a whole page, or a tensor, into their text."""
    text = repr(error)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters)"


class _Search:
    """Scores a batch, and finds the samples at fault where that raises. errors: what was raised, in order; queries: rows
    that were scored; at_fault: rows that raise by themselves."""

    def __init__(self, reward: Reward, outcome: Outcome, max_failed: float) -> None:
        self.reward, self.outcome, self.max_failed = reward, outcome, max_failed
        self.errors: list[Exception] = []
        self.at_fault: list[int] = []
        self.queries = 0

    def settled(self) -> StepRewards:
        """The rewards of all rows."""
        rows = len(self.outcome)
        paid = self.attempt(self.outcome)
        if paid is None:
            paid = _join(list(self.parted(rows)))
            if self.reward.compares() and len(self.at_fault) < rows:
                paid = self.together()
        return replace(paid, queries=self.queries)

    def parted(self, rows: int) -> Iterator[StepRewards]:
        """Of a batch that raised: single rows while they raise too, as all do where the mistake is the reward's; then the
        halves of the rest."""
        for row in range(rows):
            paid = self.attempt(self.outcome.rows(row, row + 1)) if rows > 1 else None
            yield self.lost(row) if paid is None else paid
            if paid is not None:
                middle = (row + 1 + rows) // 2
                yield from (self.found(a, b) for a, b in ((row + 1, middle), (middle, rows)) if a < b)
                return

    def found(self, start: int, stop: int) -> StepRewards:
        """The rewards of rows, halved while they raise."""
        paid = self.attempt(self.outcome.rows(start, stop))
        if paid is not None:
            return paid
        if stop - start == 1:
            return self.lost(start)
        middle = (start + stop) // 2
        return _join([self.found(start, middle), self.found(middle, stop)])

    def lost(self, row: int) -> StepRewards:
        """A row at fault. Raises RewardError where those are too many, whatever the others are."""
        self.at_fault.append(row)
        share = len(self.at_fault) / len(self.outcome)
        if share > self.max_failed:
            least = "" if share == 1 else "at least "
            failed = f"{least}{share:.0%} of {len(self.outcome)}"
            raise _too_many(self.reward, failed, self.max_failed, self.errors)
        return self.unmeasured(1)

    def unmeasured(self, rows: int) -> StepRewards:
        """Of rows that could not be scored."""
        zero = torch.zeros(rows, self.outcome.steps, dtype=torch.float64, device=self.outcome.cond.device)
        return StepRewards(zero, zero[:, 0], torch.zeros(rows, dtype=torch.bool, device=zero.device), {})

    def together(self) -> StepRewards:
        """The rows that are not at fault in one batch: halves would not see each other's samples."""
        good = [row for row in range(len(self.outcome)) if row not in self.at_fault]
        paid = self.attempt(self.outcome.some(good)) or self.unmeasured(len(good))
        order = torch.tensor([*good, *self.at_fault], device=self.outcome.cond.device).argsort()
        return _join([paid, self.unmeasured(len(self.at_fault))]).rows(order)

    def attempt(self, outcome: Outcome) -> StepRewards | None:
        """The rewards of rows, None where the scorer raised. Raises ShapeError where it does what no reward may."""
        self.queries += len(outcome)
        try:
            with _staying():
                paid = self.reward(replace(outcome, sample=lent(outcome.sample), cond=lent(outcome.cond)))
            require_shape(self.reward, {"values": paid.values}, len(outcome), outcome.steps)
            require_names(self.reward, paid.parts)
            require_shape(self.reward, {"initial": paid.initial, "measured": paid.measured, **paid.parts}, len(outcome))
            require_measured(self.reward, paid.measured)
            return paid.to(outcome.cond.device)
        except ShapeError:
            raise
        except SystemExit as end:
            raise ShapeError(
                f"reward {self.reward.called} asked to end the program (sys.exit({end.code!r})): raise an exception where a "
                "sample cannot be scored"
            ) from end
        except Exception as error:  # a scorer may raise anything; what it was is kept and reported
            self.errors.append(error)
            return None


@contextmanager
def _staying() -> Iterator[None]:
    """Goes back where a scorer changes the working directory: the run's own paths lead from there."""
    try:
        before = os.getcwd()
    except OSError:  # it was deleted
        yield
        return
    try:
        yield
    finally:
        if os.getcwd() != before:
            os.chdir(before)


def _join(parts: list[StepRewards]) -> StepRewards:
    names = sorted({name for p in parts for name in p.parts})
    unknown = {name: [p.parts.get(name, torch.full_like(p.initial, torch.nan)) for p in parts] for name in names}
    return StepRewards(
        torch.cat([p.values for p in parts]),
        torch.cat([p.initial for p in parts]),
        torch.cat([p.measured for p in parts]),
        {name: torch.cat(some) for name, some in unknown.items()},
    )
