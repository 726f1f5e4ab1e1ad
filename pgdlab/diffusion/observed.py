"""A denoiser of actions that sees the observation they are an answer to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pgdlab.config.program import program
from pgdlab.diffusion import files
from pgdlab.diffusion.conditioning import Observations
from pgdlab.diffusion.denoisers import NetworkDenoiser
from pgdlab.diffusion.networks.perceptron import Perceptron
from pgdlab.diffusion.schedules import Schedule
from pgdlab.functional.gaussian import expand


class ActionDenoiser(NetworkDenoiser):
    """A perceptron that predicts v = alpha noise - sigma x0; x0 = alpha x - sigma v (Salimans & Ho 2022, arXiv:2202.00512).
    actions: what they are normalised with, saved beside the network as the observations' mean and spread are. domain: the name
    of the option that reads it."""

    supports_unconditional = False
    adapter_targets = ("sample", "seen", "body.1", "head")

    def __init__(
        self, conditioning: Observations, actions: nn.Module, schedule: Schedule, domain: str, **sizes: int
    ) -> None:
        super().__init__()
        self.conditioning, self.actions, self.schedule, self.domain = conditioning, actions, schedule, domain
        self.sizes: dict[str, Any] = sizes
        self.network = Perceptron(observed=conditioning.width, **sizes)

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        alpha, sigma = expand(self.schedule.alpha(t), x), expand(self.schedule.sigma(t), x)
        seen = self.conditioning(cond)["observation"].to(self.dtype)
        v = self.network(x.to(self.dtype), t.to(self.dtype), seen).to(x.dtype)
        return alpha * x - sigma * v

    @property
    def files(self) -> nn.ModuleDict:
        """What is saved: the network, and what both ends of it are normalised with."""
        return nn.ModuleDict({"network": self.network, "observations": self.conditioning, "actions": self.actions})

    def save(self, folder: Path) -> str:
        """config.json (the network's sizes) and model.safetensors."""
        files.write(self.files, self.sizes, folder)
        return f"```bash\n{program()} domain={self.domain} domain.weights={folder}\n```"

    def save_for_adapters(self, folder: Path) -> str:
        return files.adapters("Control", "pgdlab.domains.control", folder)

    def read(self, folder: Path) -> None:
        """What save() wrote. Raises ValueError where it is broken, of another network, or not finite."""
        files.read(self.files, folder)
        if not all(torch.isfinite(x).all() for x in self.files.state_dict().values()):
            raise ValueError("the weights are not finite")
