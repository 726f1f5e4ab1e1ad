"""The slope of psi = r / lam at states: a reward query and a backward pass each."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.guidance.weights import normalised
from pgdlab.rewards.base import Outcome
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.sampler import Batch
from pgdlab.trainers.reward_gradient import Slope, shaped
from pgdlab.world import World


class Slopes:
    """Counts what it asks. unscored: points whose reward could not be measured, or whose slope is not finite: they pull nowhere.
    backwards: rows that were carried back through the network."""

    def __init__(self, world: World, lam: float) -> None:
        self.world, self.lam = world, lam
        self.queries = self.unscored = self.backwards = 0

    def of_samples(
        self, sample: Float[Tensor, "P *D"], cond: Tensor
    ) -> tuple[Float[Tensor, " P"], Float[Tensor, "P *D"]]:
        """psi in nats (-inf where not measured) and its slope, of samples as the policy makes them."""
        slope = Slope(self.world, sample)
        asked = Outcome(torch.arange(len(sample), device=sample.device), cond, self.world.policy.steps)
        paid = guarded(slope, asked, max_failed=1.0)
        self.queries += paid.queries
        self.unscored += int((~paid.measured).sum())
        return torch.where(paid.measured, paid.total.double() / self.lam, -torch.inf), slope.gradient / self.lam

    def of_states(
        self, batch: Batch, x: Float[Tensor, "P *D"], h: int, cond: Tensor, spread: Float[Tensor, "P K *D"]
    ) -> tuple[Float[Tensor, "P *D"], Float[Tensor, " P"], Float[Tensor, "P *D"]]:
        """x0 estimates of states x of step h, log of the mean of exp(psi) over x0hat + spread, and its slope in x."""
        draws = spread.shape[1]
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            x0 = batch.estimate(at, h, cond)
        points = (x0.detach()[:, None] + spread).flatten(0, 1)
        psi, slope = self.of_samples(points, cond.repeat_interleave(draws, 0))
        psi, pull = mixed(psi, slope, draws)
        (slope,) = torch.autograd.grad(x0, at, pull)
        self.backwards += len(x)
        finite = slope.flatten(1).isfinite().all(1)
        self.unscored += int((~finite).sum())
        return x0.detach(), psi, slope.where(shaped(finite, slope), 0.0)


def mixed(
    psi: Float[Tensor, " M"], slope: Float[Tensor, "M *D"], draws: int
) -> tuple[Float[Tensor, " P"], Float[Tensor, "P *D"]]:
    """log of the mean of exp(psi) over the `draws` rows of each, and its slope: of the draws by their weights exp(psi). Where
    none is measured the slopes are 0."""
    table = psi.reshape(-1, draws)
    weight = normalised(table).to(slope).reshape(-1, draws, *(1,) * (slope.ndim - 1))
    return table.logsumexp(1) - math.log(draws), (weight * slope.reshape(-1, draws, *slope.shape[1:])).sum(1)
