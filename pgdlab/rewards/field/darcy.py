"""Darcy flow: the residual in the data's own stencil, and the pressure solved again from the permeability."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.physics import darcy
from pgdlab.rewards.base import Reward, Score

SMALLEST = 1e-12  # what a residual or an error of 0 counts as


class DarcyResidual(Reward):
    """-log10 of how far fields (B, 2, S, S) of log K and p are off the law, in the data's own stencil; part "residual", its mean
    over cells, and the chosen one.

    over: "pressure": the residual as a pressure, over the pressure (darcy.relative_residual), which roughness does not lower or
    raise; "effect": over what K does to the pressure, which evener fields do not lower; "cells": the mean over cells of
    |-div(K grad p) - f|, which both do. gradients: false: numpy's, a black box; true: the same in torch, whose gradient may be
    followed. Not measured where log K or p is not finite, or too large for fp64, nor where what it is over is 0.
    """

    takes = "Darcy flow"

    def __init__(self, *, over: Literal["pressure", "effect", "cells"] = "pressure", gradients: bool = False) -> None:
        super().__init__()
        self.over, self.differentiable = over, gradients

    def score(self, sample: Float[Tensor, "B 2 S S"], cond: Tensor) -> Score:
        effect = self.over == "effect"
        if self.differentiable:
            first, second = sample.unbind(1)
            each = darcy.residual_with_gradient(first, second)
            relative = darcy.relative_residual(first, second, effect)
        else:
            log_k, p = sample.detach().cpu().numpy().swapaxes(0, 1)
            with np.errstate(all="ignore"):  # what is not finite is not measured
                found = darcy.residual(log_k, p), darcy.relative_residual(log_k, p, effect)
            each, relative = (torch.from_numpy(x).to(sample.device) for x in found)
        size = each.abs().mean((1, 2))
        parts = {"residual": size.detach()} | ({} if self.over == "cells" else {self.over: relative.detach()})
        off = size if self.over == "cells" else relative
        return Score(-(off + SMALLEST).log10(), off.detach().isfinite(), parts)


class DarcySolved(Reward):
    """-log10 of ||p - p*|| / ||p*||, p* solved again from log K, of fields (B, 2, S, S) of log K and p; part "error". No smooth K
    helps it. Not measured where the solver fails."""

    takes = "Darcy flow"

    def score(self, sample: Float[Tensor, "B 2 S S"], cond: Tensor) -> Score:
        log_k, p = sample.detach().cpu().numpy().swapaxes(0, 1)
        error = torch.from_numpy(darcy.relative_error(log_k, p)).to(sample.device)
        return Score(-(error + SMALLEST).log10(), error.isfinite(), {"error": error})
