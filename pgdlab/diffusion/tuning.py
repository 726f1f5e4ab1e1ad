"""Tunings: which weights of a denoiser are trained; all, low-rank adapters, a correction on top, or none."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.denoisers import Denoiser, NetworkDenoiser
from pgdlab.diffusion.kernels import Chain
from pgdlab.diffusion.residual import AffineCorrection, NetworkCorrection, Residual, Unit
from pgdlab.diffusion.space import Space
from pgdlab.functional.gaussian import expand


class Tuning(ABC):
    """Prepares a pretrained denoiser for training. It is put in eval mode: dropout at replay would move the ratio."""

    @abstractmethod
    def apply(self, denoiser: Denoiser, chain: Chain, space: Space, num_conditions: int) -> Denoiser:
        """The denoiser to train, in a sampler of these steps over this space under that many conditions."""


@dataclass(frozen=True, kw_only=True)
class Full(Tuning):
    """Every weight is trained."""

    def apply(self, denoiser: Denoiser, chain: Chain, space: Space, num_conditions: int) -> Denoiser:
        return denoiser.eval().requires_grad_(True)


@dataclass(frozen=True, kw_only=True)
class Frozen(Tuning):
    """Nothing is trained: for initial-distribution tuning alone."""

    def apply(self, denoiser: Denoiser, chain: Chain, space: Space, num_conditions: int) -> Denoiser:
        return denoiser.eval().requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class LastSteps(Tuning):
    """Every weight is trained, and takes the last `count` steps of the sampler alone; the pretrained ones, in a frozen copy, take
    those before them   (DPPO: Ren et al. 2024, arXiv:2409.00588, sec. 4.3). plan.trained_steps=Last with the same count leaves
    out the passes of the others."""

    count: int = 1

    def apply(self, denoiser: Denoiser, chain: Chain, space: Space, num_conditions: int) -> Denoiser:
        steps = len(chain.std)
        if not 1 <= self.count <= steps:
            raise ValueError(f"count is {self.count}; it must be from 1 to the {steps} steps (policy.steps)")
        early = denoiser.frozen()
        return InTurn(early, denoiser.eval().requires_grad_(True), float(chain.times[steps - self.count]))


@dataclass(frozen=True, kw_only=True)
class LoRA(Tuning):
    """W + scale / rank B A, B = 0 at the start   (Hu et al. 2021, arXiv:2106.09685), through peft.

    targets: ends of the names of the layers that get adapters; those that the denoiser names if None. scale: alpha in the
    paper; rank if None.
    """

    rank: int = 8
    scale: int | None = None
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; it must be at least 1")

    def apply(self, denoiser: Denoiser, chain: Chain, space: Space, num_conditions: int) -> Denoiser:
        if not isinstance(denoiser, NetworkDenoiser):
            raise ValueError(f"LoRA adapts networks, and a {type(denoiser).__name__} has none; set policy=network")
        return Adapted(denoiser, self).eval()


@dataclass(frozen=True, kw_only=True)
class Affine(Tuning):
    """The denoiser is frozen; for every step and condition an affine map of the state is added to its estimate.

    unit: see residual.units.
    """

    unit: Unit = "std"

    def apply(self, denoiser: Denoiser, chain: Chain, space: Space, num_conditions: int) -> Denoiser:
        correction = AffineCorrection(max(1, num_conditions), len(chain.std), math.prod(space.shape))
        return Residual(denoiser.eval(), correction, chain, space, self.unit)


@dataclass(frozen=True, kw_only=True)
class Network(Tuning):
    """The denoiser is frozen; one perceptron for all steps is added to its estimate. hidden: width; layers: how many
    of that width; unit, separate: see residual.units and residual.NetworkCorrection."""

    hidden: int = 64
    layers: int = 2
    unit: Unit = "std"
    separate: bool = True

    def apply(self, denoiser: Denoiser, chain: Chain, space: Space, num_conditions: int) -> Denoiser:
        size = math.prod(space.shape)
        correction = NetworkCorrection(len(chain.std), size, self.hidden, self.layers, self.separate)
        return Residual(denoiser.eval(), correction, chain, space, self.unit)


class InTurn(Denoiser):
    """The pretrained denoiser at times above `since`, the trained one from there on."""

    def __init__(self, early: Denoiser, late: Denoiser, since: float) -> None:
        super().__init__()
        self.early, self.late, self.since = early, late, since
        self.schedule, self.supports_unconditional = late.schedule, late.supports_unconditional

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        late = t <= self.since
        if late.all():
            return self.late(x, t, cond)
        if not late.any():
            return self.early(x, t, cond)
        return self.late(x, t, cond).where(expand(late, x).bool(), self.early(x, t, cond))

    def frozen(self) -> Denoiser:
        return self.early


class Adapted(Denoiser):
    """A denoiser whose network carries peft adapters; only these are trained."""

    def __init__(self, denoiser: NetworkDenoiser, lora: LoRA) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        alpha = lora.rank if lora.scale is None else lora.scale
        config = LoraConfig(
            r=lora.rank, lora_alpha=alpha, target_modules=list(lora.targets or denoiser.adapter_targets)
        )
        denoiser.network = get_peft_model(denoiser.network, config)  # raises ValueError naming targets it cannot find
        self.denoiser, self.schedule = denoiser, denoiser.schedule

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        return self.denoiser(x, t, cond)

    def frozen(self) -> Denoiser:
        return AdaptersOff(self)

    def save(self, folder: Path) -> str:
        return self.denoiser.save_adapters(folder)


class AdaptersOff(Denoiser):
    """The pretrained denoiser inside an adapted one: the same weights, the adapters switched off for the pass."""

    def __init__(self, adapted: Adapted) -> None:
        super().__init__()
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.shared = (adapted,)  # in a tuple: not a submodule, so that its weights are not listed twice
        self.layers = tuple(m for m in adapted.modules() if isinstance(m, BaseTunerLayer))
        self.schedule = adapted.schedule

    def forward(self, x: Float[Tensor, "P *D"], t: Tensor, cond: Tensor) -> Float[Tensor, "P *D"]:
        self.switch(False)  # layer by layer: peft's disable_adapter searches the network every time
        try:
            return self.shared[0].denoiser(x, t, cond)
        finally:
            self.switch(True)

    def switch(self, on: bool) -> None:
        """All adapters on, and training, or off."""
        for layer in self.layers:
            layer.enable_adapters(on)

    def frozen(self) -> Denoiser:
        return self
