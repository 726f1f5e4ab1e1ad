"""The Frechet distance against closed forms, and FCD: the data are at its floor, a collapse is far away."""

from __future__ import annotations

import numpy as np
import pytest

from pgdlab.molecules import fcd, known, reference

needs_fcd = pytest.mark.skipif(not fcd.has_fcd(), reason="needs fcd_torch")


def exact(mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Points with exactly this mean and the covariance root root^T."""
    size = len(mean)
    points = np.random.default_rng(0).standard_normal((10 * size, size))
    points -= points.mean(0)
    white = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T))).T
    return white @ root.T + mean


def test_gaussians_with_common_axes() -> None:
    """|m - n|^2 + sum (s_i - t_i)^2 of standard deviations s and t."""
    a, b = exact(np.array([0.0, 1, 2]), np.diag([1.0, 2, 0])), exact(np.array([0.0, 0, 0]), np.diag([3.0, 1, 1]))
    assert fcd.frechet(a, b) == pytest.approx(5 + 4 + 1 + 1)
    assert fcd.frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_any_gaussians() -> None:
    """tr sqrt(S T) by scipy's square root of a matrix that is not symmetric."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    roots = rng.standard_normal((2, 4, 4))
    s, t = (root @ root.T for root in roots)
    expected = np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t)).real
    a, b = (exact(np.zeros(4), root) for root in roots)
    assert fcd.frechet(a, b) == pytest.approx(expected)
    assert fcd.frechet(b, a) == pytest.approx(expected)


def test_without_the_package_it_is_left_out_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcd, "has_fcd", lambda: False)
    with pytest.warns(UserWarning, match="needs fcd_torch"):
        assert fcd.fcd(known.test_sample()) == {}


@needs_fcd
def test_few_samples_have_no_fcd() -> None:
    assert fcd.fcd(known.test_sample()[: fcd.LEAST - 1]) == {}


@needs_fcd
def test_the_data_are_at_the_floor_and_a_collapse_is_not() -> None:
    """The floor falls with the number of samples, to which it belongs; molecules of the data score it by construction."""
    half = reference.scattered()[1::2]
    found = fcd.fcd(half[:600])
    assert found["fcd"] == pytest.approx(found["fcd_floor"], rel=1e-3)  # features are kept in fp32
    assert 0.2 < fcd.floor(2500) < found["fcd_floor"] < 1 < fcd.floor(250) < 2
    cages = ["C1CC2CC3CC1C23", "C1CC2CCC12", "C1C2CC3CC1C23", "CC1CC2CC12"]
    assert fcd.fcd(cages * 150)["fcd"] > 10 * found["fcd_floor"]


@needs_fcd
def test_features_are_chemnets() -> None:
    """fcd_torch's own distance of two sets of 60 agrees: its square root of a singular product is good to a few per cent."""
    import fcd_torch

    one, two = known.test_sample()[:60], known.test_sample()[-60:]
    theirs = fcd_torch.FCD()(list(one), list(two))
    assert fcd.frechet(fcd.features(one), fcd.features(two)) == pytest.approx(theirs, rel=0.05)
