"""Figures of sets of images: distance to the data, diversity, copying. Pure functions of features or pixels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def kid(features: Float[Tensor, "B F"], reference: Float[Tensor, "N F"]) -> float:
    """Kernel inception distance: the unbiased squared MMD under k(x, y) = (x.y / F + 1)^3
    (Binkowski et al. 2018, arXiv:1801.01401, eq. 3 and 4), over all pairs rather than random subsets. 0 where the two
    sets are of one distribution; may be negative. At least 2 rows each; torchmetrics' poly_mmd is right for sets of one
    size only.
    """
    x, y = features.double(), reference.double()
    within = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (cubic(x, x), cubic(y, y))]
    return float(within[0] + within[1] - 2 * cubic(x, y).mean())


def cubic(x: Float[Tensor, "A F"], y: Float[Tensor, "B F"]) -> Float[Tensor, "A B"]:
    """k(x, y) = (x.y / F + 1)^3 of all pairs."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def diversity(features: Float[Tensor, "B F"]) -> float:
    """Mean Euclidean distance between two different rows."""
    return float(torch.pdist(features.double()).mean())


def nearest(
    image: Float[Tensor, "B C S S"], training: Float[Tensor, "N C S S"], rows: int = 256
) -> Float[Tensor, " B"]:
    """Distance of every image to its nearest training image: root mean square over pixels, in grey levels of [0, 1]."""
    data = training.flatten(1)
    found = [torch.cdist(part, data).amin(1) for part in image.flatten(1).split(rows)]
    return torch.cat(found) / data.shape[1] ** 0.5


def copies(distance: Float[Tensor, " B"], real: Float[Tensor, " N"], quantile: float = 0.05) -> float:
    """Share of samples nearer to a training image than the nearest 5 % of unseen real images: 0.05 for real ones."""
    return float((distance < real.quantile(quantile)).double().mean())
