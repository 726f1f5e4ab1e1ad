"""Samples that follow a law: what fields (darcy) and paths (pendulum) share."""

from __future__ import annotations

import functools
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.config.program import ASSETS, program
from pgdlab.diffusion.conditioning import Conditioning, NoLabels
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.files import read_diffusers
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense
from pgdlab.domains.base import LabelledDomain

TRAINING, HELD_OUT = 8000, 500  # samples that the solver makes of the splits
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "timestep_spacing": "linspace",  # the last step, which is the reference's, starts at the least noise
}


@dataclass(frozen=True, kw_only=True, eq=False)
class LawDomain(LabelledDomain):
    """Samples (B, 2, *S) of a law, made by the project's own solver. There is one condition, 0.

    weights: a folder with diffusers' unet/ and scheduler/, or null for the base that ships. Splits: "train" and "test".
    """

    weights: str | None = None
    train_conditions: tuple[int, ...] = field(default=(0,), init=False)
    conditioning: Conditioning = field(default_factory=lambda: NoLabels(1), init=False)

    @property
    @abstractmethod
    def space(self) -> Dense:  # type: ignore[override]
        """The shape of a sample."""

    @property
    @abstractmethod
    def network(self) -> tuple[type[Any], dict[str, Any]]:
        """The class of diffusers' network, and the sizes of an untrained one."""

    @abstractmethod
    def draw(self, count: int, seed: int) -> Float[Tensor, "N 2 *S"]:
        """Samples that follow the law, in fp64, as the denoiser sees them."""

    @functools.cached_property
    def _splits(self) -> dict[str, Tensor]:
        return {}

    def data(self, split: str) -> tuple[Float[Tensor, "N 2 *S"], Int[Tensor, " N"]]:
        if split not in ("train", "test"):
            raise ValueError(f"split is {split!r}; it must be train or test")
        if split not in self._splits:
            count, seed = (TRAINING, 0) if split == "train" else (HELD_OUT, 1)
            self._splits[split] = self.draw(count, seed).float()
        found = self._splits[split]
        return found, torch.zeros(len(found), dtype=torch.long)

    def fresh(self, generator: torch.Generator) -> DiffusersDenoiser:
        kind, sizes = self.network
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            network = kind(**sizes)
        return DiffusersDenoiser(network, DiffusersSchedule(SCHEDULER), self.conditioning)

    def base(self) -> DiffusersDenoiser:
        kind, sizes = self.network
        folder = ASSETS / self.name if self.weights is None else Path(self.weights).expanduser()
        again = f"Make it with `{program()} experiment=pretrain/{self.name}`, or name another in domain.weights"
        wanted = {key: sizes[key] for key in ("in_channels", "out_channels", "sample_size")}
        return read_diffusers(kind, folder, wanted, self.conditioning, name=self.name, again=again)
