"""FCD, the Frechet distance of ChemNet features (Preuer et al. 2018, arXiv:1803.09518), with the optional fcd_torch."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pgdlab.config.program import extra
from pgdlab.molecules.elements import Source
from pgdlab.molecules.known import QM9
from pgdlab.molecules.reference import scattered, stored

LEAST = (
    250  # valid samples: the data themselves score 1.54 there, std .07; with fewer, that is most of what is measured
)


def has_fcd() -> bool:
    """Whether fcd_torch is installed."""
    return importlib.util.find_spec("fcd_torch") is not None


@functools.cache
def network() -> Any:
    """ChemNet with its published weights, which fcd_torch contains."""
    import fcd_torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fcd_torch.FCD(canonize=False)  # what is given is canonical


def features(smiles: Sequence[str]) -> Float[Any, "N 512"]:
    """ChemNet's second last layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's row_stack
        return np.asarray(network().get_predictions(list(smiles)), np.float64)


def frechet(a: Float[Any, "N F"], b: Float[Any, "M F"]) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2) of means and covariances (Dowson and Landau 1982)."""
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    value, vector = np.linalg.eigh(cov_a)
    root = vector * np.sqrt(value.clip(min=0)) @ vector.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


@functools.cache
def halves(source: Source = QM9) -> tuple[Float[Any, "N F"], Float[Any, "N F"]]:
    """Features of two disjoint random halves of the test molecules (QM9's: 10 s, once, kept in a file): the reference, and
    data to compare with it."""

    def make() -> dict[str, Any]:
        return {"features": features(scattered(source)).astype(np.float32)}

    found = (stored("qm9_test_chemnet", make) if source is QM9 else make())["features"]
    return found[0::2].astype(np.float64), found[1::2].astype(np.float64)


@functools.cache
def floor(count: int, source: Source = QM9) -> float:
    """The distance of `count` molecules of the data themselves."""
    reference, others = halves(source)
    return frechet(others[:count], reference)


def fcd(smiles: Sequence[str], source: Source = QM9) -> dict[str, float]:
    """fcd and fcd_floor of valid samples, copies included, as many as half of the test molecules (2,500 of QM9); nothing below
    LEAST of either. Warns without fcd_torch."""
    if not has_fcd():
        warnings.warn(f"FCD is left out, it needs fcd_torch: {extra('molecules')}", stacklevel=2)
        return {}
    if min(len(smiles), len(source.test()) // 2) < LEAST:
        return {}
    reference, others = halves(source)
    used = smiles[: len(others)]
    return {"fcd": frechet(features(used), reference), "fcd_floor": floor(len(used), source)}
