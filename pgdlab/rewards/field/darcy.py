"""Darcy flow: the residual in the data's own stencil, and the pressure solved again from the permeability."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.physics import darcy
from pgdlab.rewards.base import Reward, Score

SMALLEST = 1e-12  # what a residual or an error of 0 counts as


class DarcyResidual(Reward):
    """-log10 of the mean over cells of |-div(K grad p) - f|, of fields (B, 2, S, S) of log K and p; part "residual".

    gradients: false: numpy's, a black box; true: the same in torch, whose gradient may be followed. Not measured where log K or
    p is not finite, or too large for fp64.
    """

    takes = "Darcy flow"

    def __init__(self, *, gradients: bool = False) -> None:
        super().__init__()
        self.differentiable = gradients

    def score(self, sample: Float[Tensor, "B 2 S S"], cond: Tensor) -> Score:
        if self.differentiable:
            found = darcy.residual_with_gradient(*sample.unbind(1))
        else:
            log_k, p = sample.detach().cpu().numpy().swapaxes(0, 1)
            with np.errstate(all="ignore"):  # what is not finite is not measured
                found = torch.from_numpy(darcy.residual(log_k, p)).to(sample.device)
        size = found.abs().mean((1, 2))
        return Score(-(size + SMALLEST).log10(), size.detach().isfinite(), {"residual": size.detach()})


class DarcySolved(Reward):
    """-log10 of ||p - p*|| / ||p*||, p* solved again from log K, of fields (B, 2, S, S) of log K and p; part "error". No smooth K
    helps it. Not measured where the solver fails."""

    takes = "Darcy flow"

    def score(self, sample: Float[Tensor, "B 2 S S"], cond: Tensor) -> Score:
        log_k, p = sample.detach().cpu().numpy().swapaxes(0, 1)
        error = torch.from_numpy(darcy.relative_error(log_k, p)).to(sample.device)
        return Score(-(error + SMALLEST).log10(), error.isfinite(), {"error": error})
