"""Gradient guidance: every step is moved along the gradient of the reward of its x0 estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.guidance.base import Law, Source, Steered, Tilt
from pgdlab.guidance.shift import Shift, Shifted
from pgdlab.guidance.slopes import Slopes, mixed
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.sampler import Batch, rollout
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
        world, loop = source.world, AlongReward(self, source)
        known = self.form != "score" and self.recurrence == 1  # how far its paths are from the base's
        request = source.request(source.noise.of(0, range(len(source.cond))), source.cond, known, loop)
        found = rollout(
            request.policy, request.reference, request.noise, request.cond, batch=world.capacity.rollout_batch,
            extras=request.extras._replace(reference=known), sampler=loop,
        )  # fmt: skip
        paid = guarded(world.reward, decoded(world, found), world.plan.max_failed)
        value = torch.where(paid.measured, paid.total, -torch.inf)
        kl = None
        if known:
            rho = initial_kl(source.policy, world.reference, found.cond).double()
            kl = (found.kl.sum(1) + rho).mean().item()
        figures = {**loop.figures(), "unscored": loop.slopes.unscored, "backwards": loop.slopes.backwards}
        yield Steered(found, value, loop.slopes.queries + paid.queries, loop.evaluated, figures, kl_nats=kl)


class AlongReward(Shifted):
    """The loop of a rollout whose means follow the reward of their estimates."""

    def __init__(self, how: Gradient, source: Source) -> None:
        super().__init__(source.policy.space, how.bound, how.guided(source))
        self.how, self.source, self.slopes = how, source, Slopes(source.world, how.temperature)
        self.begun: Batch | None = None

    def again(self, batch: Batch, states: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        """After as many steps and ways back as are taken before the last one."""
        at = torch.full((len(states),), h, device=states.device)
        for _ in range(self.how.recurrence - 1):
            x0, shift = self.moved(batch, states, h)
            g = batch.policy.step(states, x0, at)
            states = self.back(batch, replace(g, mean=g.mean + shift).sample(self.drawn(batch, -1)), h)
        return states

    def shift(self, batch: Batch, x: Float[Tensor, "B *D"], h: int) -> Shift:
        std, from_x0 = batch.policy.std[h], batch.policy.from_x0[h]
        alpha, sigma = self.signal(batch, h)
        around = sigma / (alpha**2 + sigma**2).sqrt()
        if self.how.form == "next":
            x0 = batch.estimate(x, h, batch.cond)
            slope = self.ahead(batch, x, x0, h)
        else:
            x0, _, slope = self.slopes.of_states(batch, x, h, batch.cond, self.draws(batch, around))
        if self.how.form == "score":
            return Shift(x0, slope * (from_x0 * sigma**2 / alpha).to(slope), (from_x0 * around).item())
        return Shift(x0, slope * (std**2).to(slope), std.item())

    def drawn(self, batch: Batch, k: int) -> Float[Tensor, "B *D"]:
        """The next numbers of draw k, in the space, beside those of the path; last those of steps that are taken again."""
        initial = batch.out.initial
        if self.begun is not batch:
            index = range(self.slots, self.slots + len(initial))
            shape, steps = initial.shape[1:], (batch.policy.steps + 1) * 2 * self.how.recurrence
            noises = [self.source.noise.of(1 + k, index) for k in range(self.how.draws + 1)]
            self.more = [noise.steps(0, len(initial), steps, shape) for noise in noises]
            self.begun = batch
        return self.space.project(next(self.more[k]).to(initial), batch.cond)

    def draws(self, batch: Batch, scale: Tensor) -> Float[Tensor, "B K *D"]:
        """Draws around a point, times the scale; without any the point itself."""
        if not self.how.draws:
            return torch.zeros_like(batch.out.initial)[:, None]
        return scale.to(batch.out.initial) * torch.stack([self.drawn(batch, k) for k in range(self.how.draws)], 1)

    def signal(self, batch: Batch, h: int) -> tuple[Tensor, Tensor]:
        """alpha and sigma of state h."""
        schedule, t = batch.policy.denoiser.schedule, batch.policy.times[h : h + 1]
        return schedule.alpha(t)[0], schedule.sigma(t)[0]

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

    def back(self, batch: Batch, after: Float[Tensor, "B *D"], h: int) -> Float[Tensor, "B *D"]:
        """States of step h from those after it, by the forward process."""
        (alpha, sigma), (less, left) = self.signal(batch, h), self.signal(batch, h + 1)
        kept = alpha / less
        std = (sigma**2 - (kept * left) ** 2).clamp(min=0).sqrt()
        return kept.to(after) * after + std.to(after) * self.drawn(batch, -1)
