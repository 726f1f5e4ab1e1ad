"""Tunable corrections of a frozen denoiser: x0 = x0_pre(x, t) + unit_h f(x, h, cond), f = 0 before training."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pgdlab.diffusion.conditioning import require_small
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.kernels import Chain
from pgdlab.diffusion.space import Space
from pgdlab.functional.gaussian import expand

Unit = Literal["std", "noise", "x0"]


def units(unit: Unit, denoiser: Denoiser, chain: Chain) -> Float[Tensor, " H"]:
    """The change of the x0 estimate by a correction of 1, per step.

    std: std_h / from_x0_h, so that it moves the action by one standard deviation. KL_h is then ||f||^2 / 2 and the
    Fisher information of f is the identity at every step: late steps, whose std is tiny, weigh what early ones do.
    noise: sigma / alpha, as in a network that predicts the noise; on a flow sigma, as in one that predicts the velocity.
    x0: 1; the Fisher information is (from_x0 / std)^2, which grows by orders of magnitude toward the sample.
    Deterministic steps get 0 in units of std.
    """
    if unit == "x0":
        return torch.ones_like(chain.std)
    if unit == "noise":
        t, schedule = chain.times[:-1], denoiser.schedule
        return schedule.sigma(t) / (1 if schedule.straight else schedule.alpha(t))
    return torch.where(chain.std > 0, chain.std / chain.from_x0, 0.0)


class Residual(Denoiser):
    """A frozen denoiser plus a trained correction inside the space; the correction at a time is that of the nearest step."""

    times: Tensor
    unit: Tensor

    def __init__(self, base: Denoiser, correction: nn.Module, chain: Chain, space: Space, unit: Unit) -> None:
        super().__init__()
        self.space = space
        # the affine map has a row for every condition and none for their absence
        self.supports_unconditional = not isinstance(correction, AffineCorrection)
        self.base, self.correction, self.schedule = base.requires_grad_(False), correction, base.schedule
        self.register_buffer("times", chain.times[:-1].double(), persistent=False)
        self.register_buffer("unit", units(unit, base, chain), persistent=False)

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        h = (t.double()[:, None] - self.times).abs().argmin(1)
        return self.base(x, t, cond) + self.space.project(expand(self.unit[h], x) * self.correction(x, h, cond), cond)

    def frozen(self) -> Denoiser:
        return self.base


class AffineCorrection(nn.Module):
    """f(x, h, cond) = W[cond, h] x + b[cond, h]: free for every step and condition. It holds the optimum of a Gaussian
    base under a quadratic reward. size: D of the flattened sample. fp64."""

    def __init__(self, num_conditions: int, steps: int, size: int) -> None:
        super().__init__()
        again = "policy=network has one for all, and policy=lora adapts the denoiser's own network"
        require_small("an affine map a step", num_conditions, 8 * steps * size * (size + 1), again)
        self.weight = nn.Parameter(torch.zeros(num_conditions, steps, size, size, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(num_conditions, steps, size, dtype=torch.float64))

    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Int[Tensor, " P"]) -> Float[Tensor, "P *D"]:
        moved = torch.einsum("pij,pj->pi", self.weight[cond, h].to(x.dtype), x.flatten(1)) + self.bias[cond, h]
        return moved.reshape(x.shape).to(x.dtype)


class NetworkCorrection(nn.Module):
    """A perceptron on the state and a sinusoidal embedding of the step, shared by all steps; zero last layer. fp64.

    separate: state and embedding have first layers of their own, which are added. One layer for both would start with
    weights of 1 / sqrt(D + hidden) for the few coordinates of the state, and hardly learn from it.
    """

    def __init__(self, steps: int, size: int, hidden: int, layers: int, separate: bool) -> None:
        super().__init__()
        self.steps, self.hidden = steps, hidden
        self.state = nn.Linear(size, hidden).double() if separate else None
        first = nn.Linear(hidden if separate else size + hidden, hidden)
        inner = [layer for _ in range(layers - 1) for layer in (nn.SiLU(), nn.Linear(hidden, hidden))]
        last = nn.Linear(hidden, size)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.first = first.double()
        self.rest = nn.Sequential(*inner, nn.SiLU(), last).double()

    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Tensor) -> Float[Tensor, "P *D"]:
        from diffusers.models.embeddings import get_timestep_embedding

        time, flat = get_timestep_embedding(h * (1000 / self.steps), self.hidden).to(x.dtype), x.flatten(1)
        seen = self.first(torch.cat([flat, time], 1)) if self.state is None else self.first(time) + self.state(flat)
        return self.rest(seen).reshape(x.shape)
