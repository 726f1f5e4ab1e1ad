"""Search over the noise of a whole path: noise that is kept, and moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.guidance.base import Source
from pgdlab.rollout.noise import RowNoise


@dataclass(frozen=True)
class Kept(RowNoise):
    """The numbers of whole paths, as they are: z[:, h] is what step h is taken with, the initial state's first."""

    z: Float[Tensor, "B S *D"]

    def __len__(self) -> int:
        return len(self.z)

    def steps(self, start: int, stop: int, steps: int, shape: tuple[int, ...]) -> Iterator[Float[Tensor, "B *D"]]:
        return iter(self.z[start:stop].unbind(1))


def drawn(source: Source, k: int, slots: int) -> Float[Tensor, "B S *D"]:
    """The noise of candidate k of the first slots, all of it at once."""
    policy = source.policy
    noise = source.noise.of(k, range(slots))
    return torch.stack([*noise.steps(0, slots, policy.steps + 1, policy.space.shape)], 1)


def squared(z: Float[Tensor, "B S *D"]) -> Float[Tensor, " B"]:
    """The mean square of a path's numbers: 1 on average where they are normal."""
    return z.double().square().flatten(1).mean(1)
