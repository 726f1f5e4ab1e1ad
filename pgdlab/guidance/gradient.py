"""Gradient guidance: every step is moved along the gradient of the reward of its x0 estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.functional.gaussian import expand
from pgdlab.guidance.base import Law, Source, Steered, Tilt
from pgdlab.guidance.slopes import Slopes, mixed
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.sampler import Batch, Sampler, rollout
from pgdlab.rollout.trajectory import initial_kl
from pgdlab.trainers.interaction import decoded
from pgdlab.trainers.reward_gradient import refuse_flat

Form = Literal["next", "own", "score"]
INSTEAD = "guidance=smc or guidance=soft_best_of_n, which need"


@dataclass(frozen=True, kw_only=True)
class Gradient(Tilt):
    """psi_h(s) = r(decode(x0hat_h(s))) / lam in nats, psi_H of the sample itself, and three shifts that go by one name:

        next    mean + std_h^2 grad psi_h+1(mean)         the tilted step's mean, to first order
        own     mean + std_h^2 grad psi_h(s)              (DPS, TDS, DAS: arXiv:2209.14687, 2306.17775, 2501.05803)
        score   x0hat + sigma_h^2 / alpha_h grad psi_h(s)   (classifier and universal guidance: arXiv:2105.05233, 2302.07121)

    They agree as the number of steps grows, for the psi that is the soft value. `own` falls short by the slope of the step's
    mean. `score` is the denoiser of tilted data: it moves steps without noise too, at any number of nats.

    draws: 0: psi at the estimate (`next`: at the mean). Above: the log of the mean of exp(psi) over so many. For `own` and
    `score` these are x0 given the state, N(x0hat, sigma^2 / (alpha^2 + sigma^2)), exact for N(0, 1) data (LGD: Song et al. 2023,
    ICML), for `next` they are next states, and the shift is that of the tilted step's mean. recurrence: a step is taken so many
    times, with one of the forward process back in between. bound: of a shift's length, in standard deviations of the step's noise
    (it then costs bound^2 / 2 nats at most), for `score` in those of x0 given the state; None: none.
    """

    form: Form = "next"
    draws: int = 0
    recurrence: int = 1
    bound: float | None = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 0:
            raise ValueError(f"draws is {self.draws}; it must be at least 0, which is the estimate itself")
        if self.recurrence < 1:
            raise ValueError(f"recurrence is {self.recurrence}; it must be at least 1, which takes a step once")
        if self.bound is not None and not self.bound > 0:
            raise ValueError(f"bound is {self.bound}; it must be above 0, in standard deviations, or null for none")

    @property
    def law(self) -> Law:
        if self.form == "score":
            return "T_data"
        return "attainable" if self.recurrence == 1 else "none"

    def refuse(self, source: Source) -> None:
        refuse_flat(source.world, "this guidance", INSTEAD)
        if source.world.reward.needs_estimates():
            raise ValueError(
                f"reward {source.world.reward.called} pays intermediate states, and the guidance asks at those itself: take the "
                f"reward inside it, or {INSTEAD} values alone"
            )
        if source.tuned and self.ratio:
            raise ValueError(
                "a shift of the mean has no weights: with the ratio to the base it would take back what the policy has learned. "
                "Leave resume out, or tilt the policy itself, whose reward then counts twice: guidance.tilted=policy"
            )
        if self.form != "score" and not source.policy.stochastic_steps:
            raise ValueError(
                f"form {self.form} shifts by std^2, which is 0 where no step has noise (eta 0): take guidance.form=score"
            )

    def guided(self, source: Source) -> list[int]:
        """The steps that are: those with noise, by the score those at which there is any signal."""
        policy = source.policy
        if self.form != "score":
            return policy.stochastic_steps
        return (policy.denoiser.schedule.alpha(policy.times[:-1]) > 0).nonzero().flatten().tolist()

    def require(self, source: Source, queries: int) -> None:
        self.refuse(source)
        slots = len(source.cond)
        asked = len(self.guided(source)) * self.recurrence * max(1, self.draws) + 1
        if queries < slots * asked:
            raise ValueError(
                f"{slots} samples (plan.eval_samples) take {asked} reward queries each, and there are {queries}: lower them, "
                "policy.steps, guidance.draws or guidance.recurrence, or raise plan.iterations"
            )

    @torch.no_grad()
    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        self.require(source, queries)
        world, loop = source.world, Moved(self, source)
        known = self.form != "score" and self.recurrence == 1  # how far its paths are from the base's
        request = source.request(source.noise.of(0, range(len(source.cond))), source.cond, known, loop)
        found = rollout(
            request.policy, request.reference, request.noise, request.cond, batch=world.capacity.rollout_batch,
            extras=request.extras, sampler=loop,
        )  # fmt: skip
        paid = guarded(world.reward, decoded(world, found), world.plan.max_failed)
        value = torch.where(paid.measured, paid.total, -torch.inf)
        kl = None
        if known:
            path = found.kl.sum(1).double() if source.tuned else torch.cat(loop.nats)
            kl = (path + initial_kl(source.policy, world.reference, found.cond).double()).mean().item()
        queries = loop.slopes.queries + paid.queries
        yield Steered(found, value, queries, loop.evaluated, loop.figures(), kl_nats=kl)


class Moved(Sampler):
    """The loop of a rollout whose guided steps are moved: through their x0 estimate, so that the step is the policy's."""

    def __init__(self, how: Gradient, source: Source) -> None:
        self.how, self.source, self.guided = how, source, how.guided(source)
        self.slopes = Slopes(source.world, how.lam)
        self.evaluated = self.slots = 0
        self.nats: list[Tensor] = []
        self.lengths: list[Tensor] = []

    def advance(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        if h == 0:
            self.begin(batch, len(states))
        guided, at = h in self.guided, torch.full((len(states),), h, device=states.device)
        for _ in range(self.how.recurrence - 1 if guided else 0):
            after = batch.policy.step(states, self.moved(batch, states, h), at).sample(self.drawn(batch, -1))
            states = self.back(batch, after, h)
        x0 = self.moved(batch, states, h) if guided else batch.estimate(states, h, batch.cond)
        after = batch.step(states, h, x0)
        if h == batch.policy.steps - 1:
            self.slots += len(states)
            self.evaluated += batch.evaluated
            self.nats.append(self.spent)
        return after

    def begin(self, batch: Batch, rows: int) -> None:
        """Numbers beside those of the path: of every draw, and of the steps that are taken again, last."""
        index, steps = range(self.slots, self.slots + rows), (batch.policy.steps + 1) * 2 * self.how.recurrence
        shape, noise = self.source.policy.space.shape, self.source.noise
        self.more = [noise.of(1 + k, index).steps(0, rows, steps, shape) for k in range(self.how.draws + 1)]
        self.spent = torch.zeros(rows, dtype=torch.float64, device=batch.policy.device)

    def drawn(self, batch: Batch, k: int) -> Float[Tensor, "B *D"]:
        """The next numbers of draw k, in the space."""
        initial = batch.out.initial
        return batch.policy.space.project(next(self.more[k]).to(initial), batch.cond)

    def draws(self, batch: Batch, scale: Tensor) -> Float[Tensor, "B K *D"]:
        """Draws around a point, times the scale; without any the point itself."""
        if not self.how.draws:
            return torch.zeros_like(batch.out.initial)[:, None]
        return scale.to(batch.out.initial) * torch.stack([self.drawn(batch, k) for k in range(self.how.draws)], 1)

    def signal(self, batch: Batch, h: int) -> tuple[Tensor, Tensor]:
        """alpha and sigma of state h."""
        schedule, t = batch.policy.denoiser.schedule, batch.policy.times[h : h + 1]
        return schedule.alpha(t)[0], schedule.sigma(t)[0]

    def moved(self, batch: Batch, x: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        """The x0 estimates with which step h is the moved one."""
        std, from_x0 = batch.policy.std[h], batch.policy.from_x0[h]
        alpha, sigma = self.signal(batch, h)
        around = sigma / (alpha**2 + sigma**2).sqrt()
        if self.how.form == "next":
            x0 = batch.estimate(x, h, batch.cond)
            slope = self.ahead(batch, x, x0, h)
        else:
            x0, _, slope = self.slopes.of_states(batch, x, h, batch.cond, self.draws(batch, around))
        if self.how.form == "score":
            return x0 + self.bounded(slope * (sigma**2 / alpha).to(slope), around, batch)
        shift = self.bounded(slope * (std**2).to(slope), std, batch)
        self.spent = self.spent + 0.5 * (self.length(shift, batch) / std) ** 2
        return x0 + shift / from_x0.to(shift)

    def ahead(self, batch: Batch, x: Tensor, x0: Tensor, h: int) -> Float[Tensor, "B *D"]:
        """The slope of psi of the next state, at the mean of the step or over draws of it."""
        g = batch.policy.step(x, x0, torch.full((len(x),), h, device=x.device))
        spread = self.draws(batch, batch.policy.std[h])
        draws = spread.shape[1]
        after, cond = (g.mean[:, None] + spread).flatten(0, 1), batch.cond.repeat_interleave(draws, 0)
        if h + 1 == batch.policy.steps:
            psi, slope = self.slopes.of_samples(after, cond)
        else:
            _, psi, slope = self.slopes.of_states(batch, after, h + 1, cond, torch.zeros_like(after)[:, None])
        return mixed(psi, slope, draws)[1]

    def bounded(self, shift: Float[Tensor, "B *D"], unit: Tensor, batch: Batch) -> Float[Tensor, "B *D"]:
        """The shift, shortened where it is longer than `bound` units."""
        length = self.length(shift, batch) / unit
        self.lengths.append(length)
        if self.how.bound is None:
            return shift
        return shift * expand((self.how.bound / length.clamp(min=self.how.bound)), shift)

    def length(self, x: Float[Tensor, "B *D"], batch: Batch) -> Float[Tensor, " B"]:
        """Of every row, with each degree of freedom counted once."""
        return batch.policy.space.squared_distance(x, torch.zeros_like(x), batch.cond).sqrt()

    def back(self, batch: Batch, after: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        """States of step h from those after it, by the forward process."""
        (alpha, sigma), (less, left) = self.signal(batch, h), self.signal(batch, h + 1)
        kept = alpha / less
        std = (sigma**2 - (kept * left) ** 2).clamp(min=0).sqrt()
        return kept.to(after) * after + std.to(after) * self.drawn(batch, -1)

    def figures(self) -> dict[str, Any]:
        """Of summary.json."""
        length = torch.cat(self.lengths)
        bound = self.how.bound
        return {
            "gradient_norm": length.mean().item(), "unscored": self.slopes.unscored, "backwards": self.slopes.backwards,
            "bounded": None if bound is None else (length > bound).double().mean().item(),
        }  # fmt: skip
