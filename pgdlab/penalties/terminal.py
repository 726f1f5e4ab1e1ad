"""A penalty on the distribution of final samples: how far it is from the reference's, by samples of both."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.functional.divergences import energy, mmd, rbf, witness_advantage
from pgdlab.penalties.base import Draw, Penalty

TINY = 1e-12  # the bandwidth where most reference samples are equal


class Terminal(Penalty):
    """weight * E_c[MMD^2(p_c, p_pre_c)] is subtracted from the objective, p_c the final samples under condition c.

    Its gradient is a policy gradient with the witness function as the cost of a sample (functional.divergences), so that
    every action, and rho, is charged for where it led. kernel: energy is the energy distance, rbf a Gaussian of
    `bandwidth`, the reference samples' median distance if None. samples: of the reference, drawn once with keyed noise and
    shared evenly by the conditions. weight: reward units per unit of distance.
    """

    def __init__(
        self,
        *,
        weight: float = 1.0,
        kernel: Literal["energy", "rbf"] = "energy",
        bandwidth: float | None = None,
        samples: int = 512,
    ) -> None:
        super().__init__()
        if weight <= 0 or samples < 2 or (bandwidth is not None and (bandwidth <= 0 or kernel != "rbf")):
            raise ValueError(
                f"weight is {weight}, samples {samples}, bandwidth {bandwidth}: weight must be above 0, samples at least 2, "
                "and a bandwidth, above 0, goes with kernel=rbf"
            )
        self.weight, self.kernel, self.bandwidth, self.samples = weight, kernel, bandwidth, samples
        self.drawn: tuple[Tensor, Tensor] | None = None  # no buffer: a resumed run draws the same ones again
        self.measured: dict[str, float] = {}

    def reference_samples(self) -> int:
        return self.samples

    def logs(self) -> dict[str, float]:
        return self.measured

    def sample_cost(self, sample: Float[Tensor, "N *D"], cond: Tensor, draw: Draw) -> Float[Tensor, " N"]:
        if self.drawn is None:
            self.drawn = draw(self.samples)
        reference, conditions = self.drawn
        x, total = sample.flatten(1).double(), 0.0
        cost = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for c in cond.unique():
            rows, y = (cond == c).nonzero().flatten(), reference[conditions == c].flatten(1).double()
            advantage, distance = self.compare(x[rows], y)
            cost[rows] += self.weight * advantage
            total += len(rows) * distance
        self.measured = {"penalty/terminal": total / len(x)}
        return cost

    def compare(self, x: Float[Tensor, "N F"], y: Float[Tensor, "M F"]) -> tuple[Float[Tensor, " N"], float]:
        """The samples' advantages, and the estimated distance, of one condition."""
        if len(x) < 3 or len(y) < 2:
            raise ValueError(
                f"{len(x)} samples of a condition against {len(y)} of the reference; it takes 3 and 2: set plan.group to 3 "
                "or more, penalty.terminal.samples to at least twice the number of conditions"
            )
        width = max(torch.pdist(y).median().item(), TINY) if self.bandwidth is None else self.bandwidth
        xx, xy, yy = (rbf(a, b, width) if self.kernel == "rbf" else energy(a, b) for a, b in ((x, x), (x, y), (y, y)))
        return witness_advantage(xx, xy), mmd(xx, xy, yy).item()
