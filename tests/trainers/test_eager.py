"""The eager gradient: its loss by hand, what it moves, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from pgdlab.penalties.base import Penalty
from pgdlab.penalties.path_kl import PathKL
from pgdlab.trainers.eager import Eager
from tests.tiny import moved, tiny_policy, tiny_world


def test_the_loss_by_hand() -> None:
    """Mean over trajectories of sum_h A_h ||x_0 - x0hat(x_h)||^2 / (sigma^2 D), from the trajectory's own states."""
    world = tiny_world(moved(tiny_policy()), samples=8)
    algorithm = Eager()
    experience = algorithm.collect(world, 0)
    (piece,) = algorithm.micro_batches(experience, 0, world)
    trajectory, policy = experience.trajectory, world.policy
    total = 0.0
    for b in range(8):
        for column, h in enumerate(trajectory.trained):
            x = trajectory.states[b : b + 1, trajectory.stored_at[h]]
            t = policy.times[h : h + 1]
            estimate = policy.denoiser(x, t, trajectory.cond[b : b + 1])[0]
            off = (trajectory.sample[b] - estimate).square().sum() / policy.denoiser.schedule.sigma(t)[0] ** 2 / 2
            total += float(experience.advantage[b, column] * off.detach())
    assert algorithm.loss(experience, piece, world).value.item() == pytest.approx(total / 8, rel=1e-10)


def test_a_step_makes_good_samples_likelier_and_bad_ones_less() -> None:
    world, algorithm = tiny_world(moved(tiny_policy()), samples=64), Eager()
    experience = algorithm.collect(world, 0)
    (piece,) = algorithm.micro_batches(experience, 0, world)
    before = algorithm.loss(experience, piece, world).value.item()
    steps = [p for p in world.policy.parameters() if p.requires_grad]
    found = torch.autograd.grad(algorithm.loss(experience, piece, world).value, steps, allow_unused=True)
    with torch.no_grad():
        for p, g in zip(steps, found, strict=True):
            p -= 0.0 if g is None else 1e-3 * g
    assert algorithm.loss(experience, piece, world).value.item() < before


@pytest.mark.parametrize(("rho", "penalty"), [(True, None), (False, PathKL(coefficient=0.1))])
def test_what_has_no_density_is_refused(rho: bool, penalty: Penalty) -> None:
    with pytest.raises(ValueError, match="initial=standard penalty=none"):
        Eager().refuse(tiny_world(tiny_policy(rho=rho), penalty=penalty))
