"""Denoisers: (x_t, t, cond) -> E[x_0 | x_t]. Everything that changes the estimate is a Denoiser around a Denoiser."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.diffusion.predictions import estimate_of
from pgdlab.diffusion.schedules import DiffusersSchedule, Schedule
from pgdlab.functional.gaussian import expand

LOADING = """```python
from diffusers import DDIMScheduler, {network}

unet = {network}.from_pretrained("{name}", subfolder="unet")
scheduler = DDIMScheduler.from_pretrained("{name}", subfolder="scheduler")
```"""

ADAPTERS = """```python
from diffusers import {network}
from peft import PeftModel

unet = PeftModel.from_pretrained({network}.from_pretrained("the base folder", subfolder="unet"), "{name}/lora")
```"""

LARGEST_SCALE = 1e3  # of guidance; a difference of estimates times more than that is their rounding in fp32

CLIPPED = """

Estimates are clipped (`clip_sample`), and steps take the noise that belongs to the clipped estimate, as DDPM does. DDIMScheduler
does so with `use_clipped_model_output=True`; by default it keeps the noise of the unclipped one, and the samples differ."""

OTHER_TIMES = """

The steps were taken at the times of the base's {kind}. The DDIMScheduler here spaces the same number of steps in its own way."""


class Denoiser(nn.Module, ABC):
    """Estimates x_0 from x_t (P, *D) at times t (P,) under conditions cond (P, ...). supports_unconditional: whether an
    unconditional estimate exists (cond == Conditioning.unconditional); False where cond is the size of a sample. guided:
    whether the estimate is not that of one network, but extrapolated between two.

    The estimate is not clipped here, whatever the schedule says: Policy.estimate clips, after all wrappers.
    """

    schedule: Schedule
    supports_unconditional: bool = True
    guided: ClassVar[bool] = False

    @abstractmethod
    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        """E[x_0 | x_t] in the units of the data. Rows do not see each other."""

    def loss(self, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, " P"]:
        """The loss of a regression of the estimate at x = x_t on clean samples x0: -log p(x0 | x_t) up to a factor and a
        constant. Unless the estimate is the mean of another density: the mean over dimensions of
        ||x0 - x0hat(x, t)||^2 / sigma^2, the squared error of v (Salimans & Ho 2022, arXiv:2202.00512, sec. 4), whatever the
        network predicts."""
        return ((x0 - self(x, t, cond)) / expand(self.schedule.sigma(t), x0)).square().flatten(1).mean(1)

    @abstractmethod
    def frozen(self) -> Denoiser:
        """The pretrained denoiser, with nothing to train: what the KL is measured to. A copy, unless adapters let the
        weights be shared."""

    def save(self, folder: Path) -> str:
        """Writes the weights into a folder of the run's; returns how to load them, in markdown. Raises ValueError where there
        is no such format."""
        raise ValueError(f"a {type(self).__name__} cannot be exported")


def refuse_to_hide(denoiser: Denoiser, advice: str) -> None:
    """Raises ValueError where the condition is no part of the network's input that could be left out."""
    if not all(m.supports_unconditional for m in denoiser.modules() if isinstance(m, Denoiser)):
        raise ValueError(
            "the condition cannot be hidden (it is the size of a sample, or the denoiser knows no estimate without one): "
            f"set {advice}"
        )


class NetworkDenoiser(Denoiser):
    """A denoiser around a network. adapter_targets: ends of the names of its layers that get low-rank adapters."""

    network: Any  # a Module; what diffusers and peft add to one is not in its type
    adapter_targets: tuple[str, ...]

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in, whatever the states are: those of a policy with a correction are fp64."""
        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)

    def frozen(self) -> Denoiser:
        return copy.deepcopy(self).eval().requires_grad_(False)

    def save_adapters(self, folder: Path) -> str:
        """Writes the adapters of a network that has them, in peft's format as lora/, and what they need beside it; how to load
        them, in markdown."""
        self.network.save_pretrained(folder / "lora", safe_serialization=True)
        return self.save_for_adapters(folder)

    @abstractmethod
    def save_for_adapters(self, folder: Path) -> str:
        """Writes what lora/ needs beside it into the folder; how to load both, in markdown."""


class DiffusersDenoiser(NetworkDenoiser):
    """A diffusers UNet2DModel-like network with its scheduler's prediction type: see estimate_of. conditioning: tells the network
    what cond stands for."""

    adapter_targets = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "time_emb_proj")

    def __init__(self, network: nn.Module, schedule: DiffusersSchedule, conditioning: Conditioning) -> None:
        super().__init__()
        self.network, self.conditioning = network, conditioning
        self.schedule: DiffusersSchedule = schedule

    def output(self, x: Float[Tensor, "P *D"], t: Int[Tensor, " P"], cond: Tensor) -> Float[Tensor, "P *D"]:
        """The network's raw output (noise, v or x0), in the dtype of x."""
        out: Tensor = self.network(x.to(self.dtype), t, **self.conditioning(cond), return_dict=False)[0].to(x.dtype)
        if out.shape != x.shape:
            raise ValueError(
                f"the network gives out {tuple(out.shape[1:])} for samples of {tuple(x.shape[1:])}: a network that predicts "
                "its variance too (twice the channels), or another size, is not supported"
            )
        return out

    def forward(self, x: Float[Tensor, "P *D"], t: Int[Tensor, " P"], cond: Tensor) -> Float[Tensor, "P *D"]:
        alpha, sigma = expand(self.schedule.alpha(t), x), expand(self.schedule.sigma(t), x)
        return estimate_of(self.schedule.prediction_type, x, self.output(x, t, cond), alpha, sigma)

    def save(self, folder: Path) -> str:
        """unet/ and scheduler/, in diffusers' format."""
        self.network.save_pretrained(folder / "unet", safe_serialization=True)
        self.schedule.scheduler.save_pretrained(folder / "scheduler")
        return LOADING.format(name=folder.name, network=type(self.network).__name__) + self.differences()

    def save_for_adapters(self, folder: Path) -> str:
        self.schedule.scheduler.save_pretrained(folder / "scheduler")
        network = type(self.network.get_base_model()).__name__
        return ADAPTERS.format(name=folder.name, network=network) + self.differences()

    def differences(self) -> str:
        """Where diffusers' own loop, as it is by default, takes other steps than ours, in markdown."""
        said = CLIPPED if self.schedule.clip is not None else ""
        return said + (OTHER_TIMES.format(kind=self.schedule.config.kind) if self.schedule.has_own_times else "")


class ClassifierFreeGuidance(Denoiser):
    """x0 = x0(null) + scale (x0(cond) - x0(null))   (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, on the x0 estimate).

    Both estimates come from one forward of twice the rows. Scale 1 is the conditional model: do not wrap then. Raises
    ValueError where the condition cannot be hidden, and for a scale without bounds.
    """

    guided = True

    def __init__(self, denoiser: Denoiser, scale: float, unconditional: int) -> None:
        super().__init__()
        if not abs(scale) <= LARGEST_SCALE:
            raise ValueError(f"guidance is {scale}; it must be from -{LARGEST_SCALE:g} to {LARGEST_SCALE:g}")
        refuse_to_hide(denoiser, "policy.guidance=1")
        self.denoiser, self.scale, self.unconditional = denoiser, scale, unconditional
        self.schedule = denoiser.schedule

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        both = torch.cat([cond, torch.full_like(cond, self.unconditional)])
        given, null = self.denoiser(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return torch.lerp(null, given, self.scale)

    def frozen(self) -> Denoiser:
        return ClassifierFreeGuidance(self.denoiser.frozen(), self.scale, self.unconditional)

    def save(self, folder: Path) -> str:
        return self.denoiser.save(folder)
