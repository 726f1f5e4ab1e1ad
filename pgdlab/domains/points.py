"""Points in the plane or on a line with exact denoisers: domains whose optimum is known (docs/domains/points.md)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.analytic import Mixture, Points
from pgdlab.diffusion.conditioning import Conditioning, NoLabels
from pgdlab.diffusion.schedules import Cosine, Schedule
from pgdlab.diffusion.space import Dense
from pgdlab.domains.base import Decoder, Domain, Identity


class AsTheyAre(Identity):
    """Points as they are."""

    gives = "points"


@dataclass(frozen=True, kw_only=True)
class PointDomain(Domain):
    """Points (B, D). replicas: conditions under which the base is the same, so that one run with parameters of their
    own per condition (policy=affine) is that many independent runs side by side."""

    schedule: Schedule = field(default_factory=Cosine)
    replicas: int = 1
    decoder: Decoder = field(default_factory=AsTheyAre, init=False, compare=False)

    @property
    def name(self) -> str:  # type: ignore[override]
        return type(self).__name__.lower()

    @property
    def conditioning(self) -> Conditioning:  # type: ignore[override]
        return NoLabels(self.replicas)

    @property
    def train_conditions(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(range(self.replicas))

    @property
    def space(self) -> Dense:  # type: ignore[override]
        return Dense((len(self.draw(1, torch.Generator())[0]),))

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "N D"]:
        """Points of the data distribution."""

    def metrics(self, sample: Float[Tensor, "B D"], cond: Tensor) -> dict[str, float]:
        spread = sample.std(0) if len(sample) > 1 else torch.zeros(sample.shape[1])
        each = [("sample_mean", sample.mean(0)), ("sample_std", spread)]
        return {f"{name}_{d}": v.item() for name, vector in each for d, v in enumerate(vector)}

    def show(self, rows: dict[str, Tensor], path: Path, cond: Tensor | None = None) -> None:
        """Histograms on a line; the first two coordinates scattered elsewhere."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, len(rows), figsize=(4 * len(rows), 3.5), squeeze=False, sharex=True, sharey=True)
        for axis, (title, points) in zip(axes[0], rows.items(), strict=True):
            at = points.cpu()
            axis.hist(at[:, 0], bins=30) if at.shape[1] == 1 else axis.scatter(at[:, 0], at[:, 1], s=4)
            axis.set_title(title)
            axis.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        plt.close(figure)


@dataclass(frozen=True, kw_only=True)
class Gaussian(PointDomain):
    """N(mean, covariance); covariance: one row a coordinate."""

    mean: tuple[float, ...] = (0.0,)
    covariance: tuple[tuple[float, ...], ...] = ((1.0,),)

    def base(self) -> Mixture:
        one = torch.ones(1, dtype=torch.float64)
        return Mixture(self.schedule, one, tensor(self.mean)[None], tensor(self.covariance)[None])

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "N D"]:
        return from_mixture(self.base(), count, generator)


@dataclass(frozen=True, kw_only=True)
class GaussianMixture(PointDomain):
    """sum_k weights_k N(means_k, std_k^2 I)."""

    weights: tuple[float, ...] = (0.5, 0.5)
    means: tuple[tuple[float, ...], ...] = ((-1.0,), (1.0,))
    std: tuple[float, ...] = (0.4, 0.4)

    def base(self) -> Mixture:
        means = tensor(self.means)
        covariances = tensor(self.std).square()[:, None, None] * torch.eye(means.shape[1], dtype=torch.float64)
        return Mixture(self.schedule, tensor(self.weights), means, covariances)

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "N D"]:
        return from_mixture(self.base(), count, generator)


@dataclass(frozen=True, kw_only=True)
class FiniteSet(PointDomain):
    """The given points, each with the same probability: the base is their empirical score."""

    points: tuple[tuple[float, ...], ...] = ((-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0))

    def base(self) -> Points:
        return Points(self.schedule, tensor(self.points))

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "N D"]:
        points = tensor(self.points)
        return points[torch.randint(len(points), (count,), generator=generator)]


def tensor(values: object) -> Tensor:
    """Nested tuples of numbers in fp64."""
    return torch.tensor(values, dtype=torch.float64)


def from_mixture(mixture: Mixture, count: int, generator: torch.Generator) -> Float[Tensor, "N D"]:
    """Points of a mixture."""
    k = torch.multinomial(mixture.weights, count, replacement=True, generator=generator)
    z = torch.randn(count, mixture.means.shape[1], dtype=torch.float64, generator=generator)
    return mixture.means[k] + torch.einsum("nij,nj->ni", mixture.directions[k], mixture.spread[k].sqrt() * z)
