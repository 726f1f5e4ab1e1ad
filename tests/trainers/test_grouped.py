"""Matching in blocks: groups at one time with one noise (CRD, DGPO), and one ratio of many times (FPO)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pgdlab.credit import critic as critics
from pgdlab.processes import Processes
from pgdlab.trainers.crd import CRD
from pgdlab.trainers.dgpo import DGPO
from pgdlab.trainers.estimates import Estimates
from pgdlab.trainers.fpo import FPO
from pgdlab.trainers.matching import Matching
from tests.tiny import Failing, Quadratic, gradient, moved, tiny_policy, tiny_world

SLOPE = torch.tensor([1.5, -0.7], dtype=torch.float64)
REWARD = torch.tensor([1.5, -2.0, 0.3, 0.0, -0.1, 0.9], dtype=torch.float64)
BLOCK = torch.tensor([0, 0, 0, 1, 1, 1])


def points() -> Estimates:
    """Random estimates of two blocks of three samples in the plane, and weights; q is of the order of 1."""
    g = torch.Generator().manual_seed(0)
    x0, now, old, pre = (torch.randn(6, 2, dtype=torch.float64, generator=g) for _ in range(4))
    weight = torch.rand(6, dtype=torch.float64, generator=g)
    return Estimates(x0, now.requires_grad_(), old, pre, weight, lambda x, y: (x - y).square().mean(1), BLOCK)


def gain(at: Estimates, now: Tensor) -> Tensor:
    """l_old - l, by hand."""
    return at.weight * ((at.x0 - at.old).square().sum(1) - (at.x0 - now).square().sum(1)) / 2


def slope(loss: Tensor, now: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, now)
    return found


def centred(x: Tensor) -> Tensor:
    return (x.reshape(2, 3) - x.reshape(2, 3).mean(1, keepdim=True)).flatten()


LEFT_OUT = 3 / 2 * centred(REWARD)  # each less the mean of the two others


def test_crd_has_the_published_gradient() -> None:
    """mean (beta (q - mean q) - (r - mean r))^2, the mean of q a constant (crd.py of Flow-Factory, uniform weights), over what is
    left of a sample's own in a mean of three, 2/3, and over the 2 beta that tells matchings apart at the old policy."""
    at = points()
    q = gain(at, at.now)
    own = q - (q - centred(q)).detach()
    published = (0.7 * own - centred(REWARD)).square().sum()
    found = slope(CRD(beta=0.7).match(at, LEFT_OUT, LEFT_OUT.abs().max()).sum(), at.now)
    torch.testing.assert_close(found, 3 / 2 / (2 * 0.7) * slope(published, at.now), rtol=1e-12, atol=1e-14)


def test_dgpo_has_the_published_gradient() -> None:
    """sigmoid(sum_i A_i beta (l_i - l_old_i) / G), a constant, times A_i l_i (train_sd3_dgpo.py of DGPO): ours is twice that. Its
    loss is DPO's of the whole group."""
    at = points()
    q = gain(at, at.now)
    told = (7.0 * LEFT_OUT * q / 3).reshape(2, 3).sum(1)
    published = (torch.sigmoid(-told).detach().repeat_interleave(3) * LEFT_OUT * -q).sum()
    loss = DGPO(beta=7.0).match(at, LEFT_OUT, LEFT_OUT.abs().max())
    torch.testing.assert_close(loss.reshape(2, 3).sum(1), -2 * 3 / 7.0 * logsigmoid(told), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(slope(loss.sum(), at.now), 2 * slope(published, at.now), rtol=1e-12, atol=1e-14)
    assert told.abs().max() > 0.3


@pytest.mark.parametrize("clip", [0.01, 5.0])
def test_fpo_has_one_ratio_a_sample(clip: float) -> None:
    """min(rho A, clip(rho) A), rho = exp(mean of its three q), times three: as many terms as there are rows."""
    at = points()
    a = torch.tensor([1.5, -2.0], dtype=torch.float64)
    rho = gain(at, at.now).reshape(2, 3).mean(1).exp()
    by_hand = -3 * torch.minimum(rho * a, rho.clamp(torch.tensor(-clip).exp(), torch.tensor(clip).exp()) * a).sum()
    found = FPO(times=3, clip=clip).match(at, a.repeat_interleave(3), a.abs().max()).sum()
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert (rho.log().abs() > 0.01).all()
    if clip == 5.0:
        torch.testing.assert_close(slope(found, at.now), slope(by_hand, at.now), rtol=1e-6, atol=1e-12)


def test_one_round_of_crd_explains_the_whole_reward_at_every_time() -> None:
    """With one noise a group q_i - mean q = 2 w / D (1 - k alpha) d (x_i - mean x), k the slope of the estimate, for a
    shift d of it: at d = D b / (2 beta w (1 - k alpha)) no sample of r = b x leaves anything, and that is the tilt at no beta."""
    beta, world = 0.8, tiny_world(reward=Quadratic(tuple(SLOPE.tolist()), (0.0, 0.0)), samples=32)
    algorithm = CRD(beta=beta, coefficient=0.0, critic=None, batch=32, updates=2)
    world = algorithm.equip(world)
    experience = algorithm.collect(world, 0)
    schedule, t, var = world.policy.denoiser.schedule, torch.arange(4), 0.25
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    k = var * alpha / (alpha.square() * var + sigma.square())
    exact = SLOPE / ((alpha / sigma).square() * beta * (1 - k * alpha))[:, None]  # D = 2
    for part, zero in ((1.0, True), (0.5, False)):
        with torch.no_grad():
            world.policy.denoiser.shift.copy_(part * exact)  # type: ignore[operator, union-attr]
        largest = max(float(g.abs().max()) for g in gradient(world, algorithm, experience).values())
        assert (largest < 2e-6) == zero  # rewards are fp32
        assert zero or largest > 1e-2


def test_a_group_is_at_one_time_with_one_noise_and_failed_samples_are_not_in_it() -> None:
    world = tiny_world(reward=Failing(Quadratic(), above=0.4), samples=32, group=8, max_failed=0.99)
    algorithm = CRD(critic=None, batch=20, updates=3)  # two groups an update
    world = algorithm.equip(world)
    experience = algorithm.collect(world, 0)
    sizes = experience.group.bincount(minlength=4)
    assert len(set(sizes.tolist())) > 1
    seen: list[int] = []
    for update in range(2):
        (piece,) = algorithm.micro_batches(experience, update, world)
        assert piece.count == len(piece.rows) == int(sizes[experience.group[piece.rows].unique()].sum())
        for block in (0, 1):
            rows = piece.block == block
            assert len(experience.group[piece.rows[rows]].unique()) == len(piece.t[rows].unique()) == 1
            assert len(piece.noise[rows].unique(dim=0)) == 1
        seen += piece.rows.tolist()
    assert sorted(seen) == list(range(len(experience.x0)))  # four groups in two updates


KINDS: Any = [
    CRD(critic=critics.Quadratic(), batch=16),
    DGPO(critic=critics.Quadratic(), batch=16),
    FPO(batch=8, times=3),
]


@pytest.mark.parametrize("algorithm", KINDS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("size", [1, 7, 64])
def test_passes_and_processes_add_up(algorithm: Matching, size: int) -> None:
    """A block is never cut, so that a pass may be larger than asked for."""

    def some(pass_size: int, rank: int, count: int) -> dict[str, Tensor]:
        world = algorithm.equip(tiny_world(moved(tiny_policy()), pass_size=pass_size))
        experience = algorithm.collect(world, 0)
        moved(world.policy, seed=1, size=0.1)
        return gradient(replace(world, processes=Processes(rank, count)), algorithm, experience)

    whole, parts = some(10**9, 0, 1), [some(size, rank, 2) for rank in (0, 1)]
    for name, g in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], g, rtol=1e-11, atol=1e-13)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer.batch is 3, and a group.* has 4 samples.*raise it"):
        CRD(batch=3).refuse(tiny_world())
    for kind in (CRD, DGPO):
        with pytest.raises(ValueError, match=r"beta is 0.0; it must be above 0"):
            kind(beta=0.0)
    with pytest.raises(ValueError, match=r"times is 0, clip 0.05; they must be"):
        FPO(times=0)
