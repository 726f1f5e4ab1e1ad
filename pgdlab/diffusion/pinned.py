"""Denoisers of plans: a network that estimates x0, and what puts given coordinates in their places."""

from __future__ import annotations

import math
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from pgdlab.config.program import program
from pgdlab.diffusion import files
from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.diffusion.denoisers import Denoiser, NetworkDenoiser
from pgdlab.diffusion.networks.residual_mlp import ResidualMLP
from pgdlab.diffusion.schedules import Schedule
from pgdlab.diffusion.space import Pinned


class PinnedDenoiser(Denoiser):
    """A denoiser around a denoiser that is told some rows of x0: they are put into the state, so that it sees them without noise, and
    into its estimate. conditioning: gives them as "pinned", (P, K, W)."""

    supports_unconditional = False  # without a condition there is nothing to put there

    def __init__(self, denoiser: Denoiser, space: Pinned, conditioning: Conditioning) -> None:
        super().__init__()
        self.denoiser, self.space, self.conditioning, self.schedule = denoiser, space, conditioning, denoiser.schedule

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        given = self.conditioning(cond)["pinned"]
        return self.space.pin(self.denoiser(self.space.pin(x, given), t, cond), given)

    def loss(self, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, " P"]:
        given = self.conditioning(cond)["pinned"]
        return self.denoiser.loss(self.space.pin(x, given), x0, t, cond)

    def frozen(self) -> Denoiser:
        return PinnedDenoiser(self.denoiser.frozen(), self.space, self.conditioning)

    def save(self, folder: Path) -> str:
        return self.denoiser.save(folder)


class PlanDenoiser(NetworkDenoiser):
    """A residual perceptron that gives out x0 itself, and is told "blocks", (P, F), of the conditioning. width, layers: of the
    network."""

    supports_unconditional = False
    adapter_targets = ("first", "second", "told")

    def __init__(
        self, shape: tuple[int, int], schedule: Schedule, conditioning: Conditioning, facts: int, domain: str,
        *, width: int = 256, layers: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.schedule, self.conditioning, self.domain = schedule, conditioning, domain
        self.sizes = {"width": width, "layers": layers}
        self.network = ResidualMLP(size=math.prod(shape), facts=facts, **self.sizes)

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        log_snr = 2 * (self.schedule.alpha(t) / self.schedule.sigma(t)).log()
        blocks = self.conditioning(cond)["blocks"]
        out = self.network(*(part.to(self.dtype) for part in (x.flatten(1), log_snr, blocks)))
        return out.reshape(x.shape).to(x.dtype)

    def loss(self, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, " P"]:
        """The mean of (x0 - x0hat)^2: all times weigh alike, as in Diffuser (Janner et al. 2022, arXiv:2205.09991), which predicts
        x0 too. That of v would be this by sigma^2, which is 1e-4 and less at the last steps."""
        return (x0 - self(x, t, cond)).square().flatten(1).mean(1)

    def save(self, folder: Path) -> str:
        """config.json (the network's sizes) and model.safetensors."""
        files.write(self.network, self.sizes, folder)
        return f"```bash\n{program()} {self.domain} domain.weights={folder}\n```"

    def save_for_adapters(self, folder: Path) -> str:
        raise ValueError("adapters of plans are not exported: take policy=full")
