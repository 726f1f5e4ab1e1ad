"""Atoms in space: their space, and a denoiser that is equivariant under what does not change a molecule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdlab.config.program import program
from pgdlab.diffusion import files
from pgdlab.diffusion.denoisers import NetworkDenoiser
from pgdlab.diffusion.networks.egnn import EGNN
from pgdlab.diffusion.schedules import Schedule
from pgdlab.diffusion.space import Space, squared_difference
from pgdlab.functional.gaussian import expand


@dataclass(frozen=True)
class Atoms(Space):
    """At most `atoms` points with features: rows of `types` features, then three coordinates, whose mean over the points is 0
    (Hoogeboom et al. 2022, arXiv:2203.17003, sec. 3). What is past the last point is 0. cond: (P,) the number n of points;
    there are types n + 3 (n - 1) degrees of freedom. A standard deviation of coordinates must be the same for all of them.
    """

    atoms: int
    types: int

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.atoms, self.types + 3)

    def real(self, cond: Int[Tensor, " P"]) -> Bool[Tensor, "P N"]:
        """Which rows are points."""
        return torch.arange(self.atoms, device=cond.device) < cond[:, None]

    def project(self, noise: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, "P *D"]:
        mask = self.real(cond).to(noise)[..., None]
        kept = noise * mask
        place = kept[..., self.types :]
        centre = place.sum(1, keepdim=True) / expand(cond, place)
        return torch.cat([kept[..., : self.types], (place - centre) * mask], 2)

    def squared_distance(self, x: Float[Tensor, "P *D"], y: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        return (squared_difference(x, y) * self.real(cond).to(x)[..., None]).sum((1, 2), dtype=torch.float64)

    def dof(self, cond: Tensor) -> Int[Tensor, " P"]:
        return cond * self.types + 3 * (cond - 1)

    def sum_over_dof(self, log_std: Float[Tensor, "P *D"], cond: Tensor) -> Float[Tensor, " P"]:
        each = (log_std * self.real(cond).to(log_std)[..., None]).sum(1, dtype=torch.float64)
        n = cond.to(each)
        return each[:, : self.types].sum(1) + each[:, self.types :].sum(1) * (n - 1) / n

    def orbits(self) -> Int[Tensor, "N D"]:
        return torch.arange(self.types + 3).clamp(max=self.types).repeat(self.atoms, 1)

    def scales(self, log_scale: Float[Tensor, "P *D"]) -> Float[Tensor, "P *D"]:
        features, place = self.unpack(log_scale)
        return torch.cat([features, place.mean((1, 2), keepdim=True).expand_as(place)], 2)

    def unpack(self, x: Float[Tensor, "P N D"]) -> tuple[Float[Tensor, "P N K"], Float[Tensor, "P N 3"]]:
        """Features and coordinates."""
        return x[..., : self.types], x[..., self.types :]


class AtomDenoiser(NetworkDenoiser):
    """An EGNN that predicts v = alpha noise - sigma x0; x0 = alpha x - sigma v (Salimans & Ho 2022, arXiv:2202.00512).

    EDM predicts the noise, from which x0 is found by dividing by alpha: 1000 times its error at the first step, which a
    sampler of some tens of steps takes as it is. hidden, layers: of the network.
    """

    supports_unconditional = False
    adapter_targets = (
        "ends", "distances", "message.1", "node.0", "node.2", "moved_ends", "moved_distances", "pull.1",
    )  # fmt: skip

    def __init__(self, space: Atoms, schedule: Schedule, *, hidden: int = 256, layers: int = 9) -> None:
        super().__init__()
        self.space, self.schedule = space, schedule
        self.sizes = {"hidden": hidden, "layers": layers}
        self.network = EGNN(features=space.types, outputs=space.types, **self.sizes)

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        alpha, sigma = expand(self.schedule.alpha(t), x), expand(self.schedule.sigma(t), x)
        log_snr = 2 * (self.schedule.alpha(t) / self.schedule.sigma(t)).log()
        seen = (part.to(self.dtype) for part in (*self.space.unpack(x), log_snr))
        features, shift = self.network(*seen, self.space.real(cond))
        v = self.space.project(torch.cat([features, shift], 2).to(x.dtype), cond)
        return alpha * x - sigma * v

    def save(self, folder: Path) -> str:
        """config.json (the network's sizes) and model.safetensors."""
        files.write(self.network, self.sizes, folder)
        return f"```bash\n{program()} domain=qm9_3d domain.weights={folder}\n```"

    def save_for_adapters(self, folder: Path) -> str:
        return files.adapters("QM9InSpace", "pgdlab.domains.qm9_3d", folder)
