"""How a pipeline makes one output of those of its network's branches: guidance, signs and channels that are dropped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

EXACT = 1e-3  # of numbers around 1 that a pipeline in bf16 may have rounded


class Mix(ABC):
    """What the scheduler gets, of what the network gave out for each branch."""

    @abstractmethod
    def combined(self, outs: Sequence[Float[Tensor, "P *D"]]) -> Float[Tensor, "P *D"]:
        """One output of those of the branches, in their order."""

    def explains(self, outs: Sequence[Float[Tensor, "P *D"]], made: Float[Tensor, "P *D"]) -> bool:
        """Whether it makes this of them."""
        return bool((self.combined(outs) - made).abs().max() < EXACT)


@dataclass(frozen=True, kw_only=True)
class Linear(Mix):
    """sum_b weights_b out_b: one branch, or classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, eq. 6)."""

    weights: tuple[float, ...]

    def combined(self, outs: Sequence[Float[Tensor, "P *D"]]) -> Float[Tensor, "P *D"]:
        made = self.weights[0] * outs[0]
        for weight, out in zip(self.weights[1:], outs[1:], strict=True):
            made = torch.add(made, out, alpha=weight)
        return made


@dataclass(frozen=True, kw_only=True)
class NormKept(Mix):
    """The same, rescaled to the length of branch `given` over the last dimension (Qwen-Image, Lumina 2)."""

    weights: tuple[float, ...]
    given: int

    def combined(self, outs: Sequence[Float[Tensor, "P *D"]]) -> Float[Tensor, "P *D"]:
        made = Linear(weights=self.weights).combined(outs)
        return made * (outs[self.given].norm(dim=-1, keepdim=True) / made.norm(dim=-1, keepdim=True))


def mix_of(outs: Sequence[Float[Tensor, "P *D"]], made: Float[Tensor, "P *D"]) -> Mix:
    """The mix that makes `made` of random outputs, all in fp64. Raises ValueError where it is neither kind."""
    found = torch.linalg.lstsq(torch.stack([o.flatten() for o in outs], 1), made.flatten()[:, None]).solution
    linear = Linear(weights=tuple(round(w, 6) for w in found.flatten().tolist()))
    if linear.explains(outs, made):
        return linear
    for given in range(2) if len(outs) == 2 else ():
        for kept in norms_kept(outs, given, made):
            if kept.explains(outs, made):
                return kept
    raise ValueError(
        "what the pipeline makes of its network's outputs is neither a weighted sum nor one that keeps the conditional "
        "output's length: set guidance_rescale=0 (or the like) in domain.call"
    )


def norms_kept(outs: Sequence[Float[Tensor, "P *D"]], given: int, made: Float[Tensor, "P *D"]) -> list[NormKept]:
    """The guidance scales g for which made is c + (g - 1)(c - u) in direction, of either sign; c is outs[given], u the other."""
    c, u = outs[given], outs[1 - given]
    unit = made / made.norm(dim=-1, keepdim=True)
    beside_u, beside_c = ((x - (x * unit).sum(-1, keepdim=True) * unit).flatten() for x in (u, c))
    ratio = float(beside_c @ beside_u / (beside_c @ beside_c))  # u's part beside the direction is ratio times c's
    if ratio == 1:
        return []
    g = round(ratio / (ratio - 1), 6)
    pair = (g, 1 - g) if given == 0 else (1 - g, g)
    return [NormKept(weights=(s * pair[0], s * pair[1]), given=given) for s in (1, -1)]
