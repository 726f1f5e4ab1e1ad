"""Divergence-free fields as a set of guidance=projection: against the exact projection by Fourier transforms."""

from __future__ import annotations

import numpy as np
import torch

from pgdlab.guidance.constraints import Linear

SIZE = 8


def divergence(field: np.ndarray) -> np.ndarray:
    """Central differences of fields (*B, 2, S, S) on a periodic grid of width 1."""
    u, v = field[..., 0, :, :], field[..., 1, :, :]
    return (np.roll(u, -1, -2) - np.roll(u, 1, -2) + np.roll(v, -1, -1) - np.roll(v, 1, -1)) / 2


def projected(field: np.ndarray) -> np.ndarray:
    """Helmholtz: every Fourier mode without its part along the difference's symbol, i sin(k)."""
    wave = np.sin(2 * np.pi * np.fft.fftfreq(SIZE))
    symbol = np.stack(np.meshgrid(wave, wave, indexing="ij"))
    modes = np.fft.fft2(field)
    square = (symbol**2).sum(0)
    along = (symbol * modes).sum(-3, keepdims=True) / np.where(square < 1e-12, 1.0, square)
    return np.fft.ifft2(modes - symbol * along).real


def test_the_nearest_divergence_free_field_is_helmholtz_s() -> None:
    unit = np.eye(2 * SIZE**2).reshape(-1, 2, SIZE, SIZE)
    constraint = Linear(matrix=divergence(unit).reshape(len(unit), -1).T.tolist())
    constraint.refuse((2, SIZE, SIZE))
    field = np.random.default_rng(0).standard_normal((3, 2, SIZE, SIZE))
    found = constraint.project(torch.from_numpy(field)).numpy()
    assert np.abs(divergence(field)).max() > 1
    np.testing.assert_allclose(divergence(found), 0, atol=1e-12)
    np.testing.assert_allclose(found, projected(field), atol=1e-12)  # two exact projections in fp64
    assert constraint.violation(torch.from_numpy(projected(field))).max() < 1e-12
