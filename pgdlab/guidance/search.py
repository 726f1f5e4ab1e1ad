"""Zero-order search over the noise of whole paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from pgdlab.guidance.base import Guidance, Source, Steered
from pgdlab.guidance.best_of_n import candidates, rounds
from pgdlab.guidance.noises import Kept, drawn, squared


@dataclass(frozen=True, kw_only=True)
class Search(Guidance):
    """Around a pivot, the noise z of a path, `neighbours` are tried, z + radius xi brought back to the norm of z; the best of
    them all is the next pivot (Ma et al. 2025, arXiv:2501.09732, zero-order search). Without the norm held the noise grows out of
    what the network knows. Its law is not known: the longer it searches, the further it is from the base, in any direction that
    pays.
    """

    neighbours: int = 4
    radius: float = 0.3

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours is {self.neighbours}; it must be at least 1")
        if not self.radius > 0:
            raise ValueError(f"radius is {self.radius}; it must be above 0, in standard deviations of the noise")

    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        slots = len(source.cond)
        pivot = drawn(source, 0, slots)
        best, at = candidates(source, Kept(pivot)), pivot.clone()
        yield best
        for k, count in enumerate(rounds(queries, slots)[1:], 1):
            if (k - 1) % self.neighbours == 0:
                pivot = at.clone()
            other = self.beside(pivot[:count], drawn(source, k, count))
            new = candidates(source, Kept(other))
            take = new.value > best.value[:count]
            best = best.taking(new, take)
            rows = take.nonzero().squeeze(1).to(at.device)
            at[rows] = other[rows]
            yield replace(best, figures={"noise_square": squared(at).mean().item()})

    def beside(self, z: Float[Tensor, "B S *D"], xi: Float[Tensor, "B S *D"]) -> Float[Tensor, "B S *D"]:
        """A neighbour, of the norm of z."""
        moved = z + self.radius * xi
        scale = (squared(z) / squared(moved)).sqrt().to(z)
        return moved * scale.reshape(-1, *(1,) * (z.ndim - 1))
