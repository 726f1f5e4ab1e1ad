"""Denoisers of plans: a network that estimates x0, and what puts given coordinates in their places."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.config.program import program
from pgdlab.diffusion import files
from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.diffusion.denoisers import Denoiser, NetworkDenoiser
from pgdlab.diffusion.networks.residual_mlp import PERIODS, ResidualMLP, places
from pgdlab.diffusion.schedules import Schedule
from pgdlab.diffusion.space import Pinned

LARGEST_WEIGHT = 5.0  # of the loss at a time


class PinnedDenoiser(Denoiser):
    """A denoiser around a denoiser that is told some rows of x0: they are put into the state, so that it sees them without noise,
    and into its estimate. conditioning: gives them as "pinned", (P, K, W)."""

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
    """A residual perceptron that gives out x0 itself. It sees the state, where its waypoints are, and of the conditioning
    "cells", (P, C), and "blocks", (P, F): see ResidualMLP. basis: (W, R), waypoints from the rows of a sample. domain: the words
    of a command that name it. width, layers: of the network."""

    supports_unconditional = False
    adapter_targets = ("first", "second", "told")
    basis: Tensor

    def __init__(
        self, basis: Float[Tensor, "W R"], schedule: Schedule, conditioning: Conditioning, domain: str,
        *, width: int = 256, layers: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.schedule, self.conditioning, self.domain = schedule, conditioning, domain
        self.register_buffer("basis", basis.float(), persistent=False)
        self.sizes = {"width": width, "layers": layers}
        told = conditioning(torch.zeros(1, dtype=torch.long))
        waypoints, rows = basis.shape
        seen = 2 * rows + 2 * waypoints * 2 * len(PERIODS) + told["cells"].numel()
        self.network = ResidualMLP(size=seen, out=2 * rows, facts=told["blocks"].numel(), **self.sizes)

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        told, state = self.conditioning(cond), x.to(self.dtype)
        seen = [state.flatten(1), places(self.basis.to(self.dtype) @ state), told["cells"].flatten(1).to(self.dtype)]
        log_snr = 2 * (self.schedule.alpha(t) / self.schedule.sigma(t)).log()
        out = self.network(torch.cat(seen, 1), log_snr.to(self.dtype), told["blocks"].to(self.dtype))
        return out.reshape(x.shape).to(x.dtype)

    def loss(self, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, " P"]:
        """min(alpha^2 / sigma^2, 5) times the mean square of the error of the waypoints (Hang et al. 2023, arXiv:2303.09556, sec.
        3.4): that of v would weigh the last steps, where sigma^2 is 1e-4 and less, by so much that nothing else is learned."""
        weight = (self.schedule.alpha(t) / self.schedule.sigma(t)).square().clamp_max(LARGEST_WEIGHT)
        off = self.basis.to(x.dtype) @ (x0 - self(x, t, cond))
        return weight.to(x.dtype) * off.square().flatten(1).mean(1)

    def save(self, folder: Path) -> str:
        """config.json (the network's sizes) and model.safetensors."""
        files.write(self.network, self.sizes, folder)
        return f"```bash\n{program()} {self.domain} domain.weights={folder}\n```"

    def save_for_adapters(self, folder: Path) -> str:
        raise ValueError("adapters of plans are not exported: take policy=full")
