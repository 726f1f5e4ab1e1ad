"""Whether a run came to something: limits beyond which its figures are those of a policy that ran away, or never moved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

FINITE = ("reward", "kl_nats", "train/loss", "train/gradient_norm")  # columns that a healthy run has a number in
CLIPPED = ("train/{}clip_fraction_high", "train/{}clip_fraction_low")
STILL = 0.05  # nats of |log w|: below, a tiny clip (ddpo's is 1e-4) clips most pairs of a healthy run
CAME_TO_NOTHING = 3  # the exit code: the run was done and written, but it is not one to go on with

Row = Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """finished, diverged or untrained (no iteration had a gradient), and why it is not the first."""

    status: Literal["finished", "diverged", "untrained"]
    reason: str = ""

    @property
    def code(self) -> int:
        """The exit code."""
        return 0 if self.status == "finished" else CAME_TO_NOTHING

    @property
    def facts(self) -> dict[str, str]:
        """As summary.json has it."""
        return {"status": self.status} | ({"reason": self.reason} if self.reason else {})


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Limits of a run that counts as finished; null for none. They judge a run and change nothing in it.

    kl_nats: KL from the base a sample, of any iteration or the evaluation. clipped: share of (sample, step) pairs whose ratio
    is beyond the clip, where |log w| is above 0.05 at all; log_ratio: mean |log w|, in nats: at 5 a pair counts more than a
    hundred times or not at all. effective_samples: of reward-weighted regression, the least. The last three are means over
    the last `share` of the iterations, and say nothing of a run of fewer than 1 / share: one may begin with large steps.
    """

    kl_nats: float | None = 1000.0
    clipped: float | None = 0.8
    log_ratio: float | None = 5.0
    effective_samples: float | None = 1.05
    share: float = 0.25

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0, or null for no limit")
        for name in ("clipped", "share"):
            value = getattr(self, name)
            if value is not None and value > 1:
                raise ValueError(f"{name} is {value}; it must be a share, at most 1")

    def verdict(self, rows: Sequence[Row], summary: Mapping[str, Any]) -> Verdict:
        """Of a run that is over. rows: of metrics.csv; summary: its headline figures."""
        reasons = [*self.of_rows(rows), *self.of_summary(summary)]
        if reasons:
            return Verdict("diverged", "; ".join(reasons))
        norms = [row["train/gradient_norm"] for row in rows if "train/gradient_norm" in row]
        if norms and not any(norms):
            return Verdict("untrained", "the gradient was 0 in every iteration: nothing was learnt")
        spreads = [row["reward_std"] for row in rows if "reward_std" in row]
        if spreads and not any(spreads):  # that of one sample is not a number
            return Verdict("untrained", "all samples were paid alike in every iteration: there was nothing to learn")
        return Verdict("finished")

    def of_rows(self, rows: Sequence[Row]) -> Iterator[str]:
        """What is beyond a limit in the iterations."""
        for name in FINITE:
            bad = [row["iteration"] for row in rows if not math.isfinite(row.get(name, 0.0))]
            if bad:
                yield f"{name} was not finite in iteration {bad[0]:.0f}"
        farthest = max((row.get("kl_nats", 0.0) for row in rows), default=0.0)
        if self.kl_nats is not None and farthest > self.kl_nats:
            yield f"KL reached {farthest:,.0f} nats (limit {self.kl_nats:,g})"
        count = int(self.share * len(rows))
        yield from self.of_ratios(rows[len(rows) - count :], f"in the last {count} iterations")

    def of_ratios(self, rows: Sequence[Row], when: str) -> Iterator[str]:
        """What is beyond a limit in the means over rows."""
        for part in ("", "initial_"):
            share = sum(mean(rows, name.format(part)) or 0.0 for name in CLIPPED)
            far = mean(rows, f"train/{part}log_ratio_abs")
            if self.clipped is not None and share > self.clipped and (far or 0.0) > STILL:
                yield f"{share:.0%} of the pairs were clipped {when} (limit {self.clipped:.0%})"
            if self.log_ratio is not None and far is not None and far > self.log_ratio:
                yield f"|log ratio| was {far:,.1f} nats {when} (limit {self.log_ratio:g})"
        effective = mean(rows, "effective_samples")
        if self.effective_samples is not None and effective is not None and effective < self.effective_samples:
            yield f"{effective:.2f} samples had all the weight {when} (limit {self.effective_samples:g})"

    def of_summary(self, summary: Mapping[str, Any]) -> Iterator[str]:
        """What is beyond a limit in the evaluation."""
        for name in ("reward_after", "kl_nats"):
            if isinstance(summary.get(name), float) and not math.isfinite(summary[name]):
                yield f"{name} of the evaluation is not finite"
        kl = summary.get("kl_nats")
        if self.kl_nats is not None and kl is not None and kl > self.kl_nats:
            yield f"KL of the evaluation is {kl:,.0f} nats (limit {self.kl_nats:,g})"

    def warning(self, rows: Sequence[Row]) -> str:
        """What the progress line says after an iteration, of the same rows as the verdict; "" where nothing is beyond a limit."""
        found = next(iter(self.of_rows(rows)), "")
        return f"DIVERGING: {found}" if found else ""


def mean(rows: Sequence[Row], name: str) -> float | None:
    """The mean of a column where it is known; None where it nowhere is."""
    known = [row[name] for row in rows if name in row]
    return sum(known) / len(known) if known else None
