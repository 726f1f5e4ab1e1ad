"""Keyed noise: what it depends on, and that it is normal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pgdlab.rollout.noise import Noise, Stream

SHAPE = (2, 3)


def normal(noise: Noise, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> torch.Tensor:
    """(len(index), steps, *shape)."""
    return torch.stack(list(noise.steps(iteration, index, steps, shape)), 1)


def test_it_depends_on_seed_stream_iteration_index_and_step_only() -> None:
    """The same numbers from any slice, in any order of calls, and after any other use."""
    noise = Noise(7)
    whole = normal(noise, 3, range(10), 5, SHAPE)
    assert whole.shape == (10, 5, *SHAPE)
    assert torch.equal(normal(noise, 3, range(4, 7), 5, SHAPE), whole[4:7])
    assert torch.equal(
        torch.cat([normal(noise, 3, range(i, i + 1), 5, SHAPE) for i in reversed(range(10))]), whole.flip(0)
    )
    torch.manual_seed(0)
    normal(noise, 0, range(3), 1, SHAPE)
    assert torch.equal(normal(Noise(7), 3, range(10), 5, SHAPE), whole)
    assert torch.equal(normal(noise, 3, range(10), 2, SHAPE), whole[:, :2]), "fewer steps are a prefix"
    assert torch.equal(normal(noise, 3, range(5, 15), 5, SHAPE)[:5], whole[5:])


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_however_many_steps_are_drawn_at_once(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As numpy draws all of a sample's numbers in one call; 1: a step at a time, 40: two steps of 3 samples of 6 numbers."""
    monkeypatch.setattr("pgdlab.rollout.noise.BLOCK", block)
    x = normal(Noise(7), 3, range(3), 5, SHAPE)
    for i in range(3):
        bits = np.random.Philox(counter=[0, 0, i, 3], key=[7, 0])
        expected = np.random.Generator(bits).standard_normal(30, dtype=np.float32)
        np.testing.assert_array_equal(x[i].flatten().numpy(), expected)


def test_every_key_gives_other_numbers() -> None:
    """Shared noise collapsed a published run; a resumed run must not redraw."""
    draws = torch.cat([
        normal(Noise(seed, stream), iteration, range(20), 4, SHAPE).flatten(0, 1)
        for seed in (0, 1) for stream in Stream for iteration in (0, 1, 2)
    ]).flatten(1)  # fmt: skip
    assert len(draws) == 2 * len(Stream) * 3 * 20 * 4
    assert len(torch.unique(draws, dim=0)) == len(draws)
    # also not shifted copies of one another: hardly a number occurs twice (8640 fp32 normals out of about 2^25)
    assert len(torch.unique(draws)) > 0.999 * draws.numel()


def test_it_is_standard_normal() -> None:
    """Kolmogorov-Smirnov and moments over 120,000 numbers, along every axis of the key."""
    x = torch.cat([normal(Noise(0), k, range(500), 6, (4,)) for k in range(10)]).double()
    n = x.numel()
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    # four standard errors
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.square().mean() - 1) < 4 * (2 / n) ** 0.5
    assert abs(x.pow(4).mean() - 3) < 4 * (96 / n) ** 0.5
    flat = x.reshape(10, 500, 24)
    for axis, pairs in (
        (0, flat[:-1] * flat[1:]),
        (1, flat[:, :-1] * flat[:, 1:]),
        (2, flat[..., :-1] * flat[..., 1:]),
    ):
        assert abs(pairs.mean()) < 4 / pairs.numel() ** 0.5, f"neighbours along axis {axis} are correlated"


def test_it_is_fp32_on_the_cpu() -> None:
    x = normal(Noise(0), 0, range(2), 1, SHAPE)
    assert x.dtype == torch.float32
    assert x.device.type == "cpu"


def test_philox_is_numpys() -> None:
    """The counter is (0, 0, index, iteration) and the key (seed, stream): what the docstring promises."""
    bits = np.random.Philox(counter=[0, 0, 5, 2], key=[11, int(Stream.EVALUATE)])
    expected = np.random.Generator(bits).standard_normal(6, dtype=np.float32)
    got = normal(Noise(11, Stream.EVALUATE), 2, range(5, 6), 1, (6,))
    np.testing.assert_array_equal(got.flatten().numpy(), expected)


def test_generators_differ_by_all_they_are_keyed_by() -> None:
    keys = [(s, k, i, p) for s in (0, 1) for k in Stream for i in range(3) for p in range(12)]
    first = [torch.rand(4, generator=Noise(s, k).generator(i, p)) for s, k, i, p in keys]
    assert len(torch.unique(torch.stack(first), dim=0)) == len(keys)
    assert torch.equal(torch.rand(4, generator=Noise(0).generator(0, 0)), first[0])


@pytest.mark.parametrize("seed", [0, 2**40, 2**63 - 1])
def test_large_seeds(seed: int) -> None:
    assert normal(Noise(seed), 0, range(1), 1, (3,)).isfinite().all()
    Noise(seed).generator(0)


def test_numbers_for_choices_are_keyed_and_apart_from_those_of_steps() -> None:
    u = Noise(7).uniform(3, range(10), 4)
    assert u.shape == (10, 4)
    assert u.dtype == torch.float64
    assert torch.equal(Noise(7).uniform(3, range(4, 7), 4), u[4:7])
    assert torch.equal(Noise(7).uniform(3, range(10), 2), u[:, :2])
    for other in (Noise(8).uniform(3, range(10), 4), Noise(7).uniform(4, range(10), 4), u.flip(0)):
        assert not (other == u).any()
    # what the generator of the steps' numbers would give
    same = np.random.Generator(np.random.Philox(counter=[0, 0, 0, 3], key=[7, 0])).random(4)
    assert not (u[0].numpy() == same).any()
    many = Noise(7).uniform(0, range(2000), 2).flatten().numpy()
    assert stats.kstest(many, "uniform").pvalue > 1e-3
