"""A value that task=value has fitted, as the potential of a guidance."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.credit.fitted import Fitted, read
from pgdlab.guidance.base import Potential, Valued
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class LearnedValue(Potential):
    """V_h(s, c) of the base, fitted by task=value. It asks no reward. run: the folder that holds it."""

    run: Path | None = None

    @functools.cached_property
    def fitted(self) -> Fitted:
        """What lies in the folder."""
        return read(self.run)

    def refuse(self, world: World) -> None:
        self.fitted.require(world)

    def refuse_slope(self, world: World) -> None:
        self.refuse(world)

    def temperature(self) -> float | None:
        return self.fitted.facts["lam"] if self.fitted.facts["of"] == "soft" else None

    def costs(self) -> dict[str, int]:
        return {name: int(self.fitted.facts.get(name, 0)) for name in ("queries", "evaluations")}

    def value(self, x: Float[Tensor, "P *D"], h: int, cond: Tensor) -> Float[Tensor, " P"]:
        """At states x of step h."""
        return self.fitted.value.to(x.device)(x, torch.full((len(x),), h, device=x.device), cond)

    def __call__(
        self, world: World, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], h: int, cond: Tensor
    ) -> Valued:
        value = self.value(x, h, cond)
        return Valued(value, value.isfinite())

    def slope(self, world: World, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], h: int, cond: Tensor) -> Valued:
        value = self.value(x, h, cond)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        return Valued(value.detach(), value.isfinite(), 0, gradient)
