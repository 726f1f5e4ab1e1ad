"""The diffusion loss on data as the penalty: a KL from the data to the policy, in the place of one from the policy."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.gaussian import expand
from pgdlab.penalties.base import DataSource, Known, Penalty

LARGEST = 50.0  # nats of (Z - r) / lambda; a sample that bad decides the iteration alone in any case


class DataLoss(Penalty):
    """max E[f(r)] - lambda sum_h E_data[KL(q(x_{h+1} | x_h, x_0) || pi_h(x_{h+1} | x_h))], x_h a data sample noised to step h:
    the chain's bound of KL(data || p)   (DDRL: 2025, arXiv:2512.04332).

    utility: "tilt" is f = -lambda exp(-(r - Z) / lambda), Z = lambda log E_data[exp(r / lambda)] under each condition, whose
    optimum is the tilt p_data exp((r - Z) / lambda); "reward" is f = r, as published: p = lambda p_data / (nu - r), which has no
    maximum where r is unbounded, and an atom off the data where lambda E_data[1 / (max r - r)] is below 1. data: the base's own
    samples, whose x_0 is then taken to be the base's estimate of it, so that equal rewards leave the policy as it is; or "train",
    the domain's. samples: of it, drawn and scored once; batch: of these, an update, each noised to one of the steps.
    coefficient: lambda, reward units a nat.
    """

    def __init__(
        self,
        *,
        coefficient: float = 0.1,
        utility: Literal["tilt", "reward"] = "tilt",
        data: DataSource = "reference",
        samples: int = 512,
        batch: int = 128,
    ) -> None:
        super().__init__()
        if coefficient <= 0 or samples < 2 or batch < 1:
            raise ValueError(
                f"coefficient is {coefficient}, samples {samples}, batch {batch}: coefficient must be above 0, samples at least "
                "2, batch at least 1"
            )
        self.coefficient, self.tilts, self.data, self.samples, self.batch = (
            coefficient,
            utility == "tilt",
            data,
            samples,
            batch,
        )
        self.known: Known | None = None  # no buffer: a resumed run draws the same samples again
        self.measured: dict[str, float] = {}

    def refuse(self, trains_initial: bool) -> None:
        if trains_initial:
            raise ValueError(
                "data_loss has no term for the initial distribution: set initial=standard, or take path_kl"
            )

    def data_source(self) -> tuple[DataSource, int] | None:
        return self.data, self.samples

    def learn(self, known: Known) -> None:
        self.known = known
        scaled = known.reward.double() / self.coefficient
        self.log_mean = {
            c: float(scaled[known.cond == c].logsumexp(0)) - math.log(int((known.cond == c).sum()))
            for c in known.cond.unique().tolist()
        }

    def utility(self, total: Float[Tensor, " B"], cond: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        if not self.tilts:
            return total
        z = torch.tensor([self.log_mean[c] for c in cond.tolist()], dtype=torch.float64, device=total.device)
        return -self.coefficient * (z - total.double() / self.coefficient).clamp(max=LARGEST).exp()

    def own_loss(
        self, policy: Policy, reference: Policy, generator: torch.Generator, rank: int, processes: int
    ) -> tuple[Tensor, int]:
        assert self.known is not None, "learn() is called before the first update"
        known, steps = self.known, torch.tensor(policy.stochastic_steps)
        rows = torch.randint(len(known.sample), (self.batch,), generator=generator)
        spread = (torch.arange(self.batch) + torch.rand(self.batch, generator=generator)) / self.batch
        noise = torch.randn(self.batch, *known.sample.shape[1:], generator=generator)
        mine, device = torch.arange(rank, self.batch, processes), policy.device
        h = steps[(spread * len(steps)).long()][mine].to(device)
        x0, cond = known.sample[rows[mine].to(device)], known.cond[rows[mine].to(device)]
        t, schedule = policy.times[h], policy.denoiser.schedule
        z = policy.space.project(noise[mine].to(x0), cond)
        x = expand(schedule.alpha(t), x0) * x0 + expand(schedule.sigma(t), x0) * z
        if self.data == "reference":
            with torch.no_grad():
                x0 = reference.denoiser(x, t, cond)
        nats = policy.space.squared_distance(policy.denoiser(x, t, cond), x0, cond) * (
            policy.from_x0[h].square() / (2 * policy.std[h].square())
        )
        total = nats.double().sum() * (len(steps) / self.batch)
        self.measured = {"penalty/data_nats": float(total.detach()) * processes}
        return self.coefficient * total, len(mine) * (2 if self.data == "reference" else 1)

    def logs(self) -> dict[str, float]:
        return self.measured
