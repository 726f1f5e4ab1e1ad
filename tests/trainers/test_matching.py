"""Matching on final samples: the losses by hand, and their common gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.credit import critic as critics
from pgdlab.diffusion.values import QuadraticValue
from pgdlab.processes import Processes
from pgdlab.trainers.awm import AdvantageWeightedMatching
from pgdlab.trainers.crd import CRD
from pgdlab.trainers.dgpo import DGPO
from pgdlab.trainers.estimates import Estimates, step_of
from pgdlab.trainers.fpo import FPO
from pgdlab.trainers.matching import Matching
from pgdlab.trainers.nft import NegativeAwareFinetuning
from pgdlab.trainers.ram import ReinforceAdjointMatching
from tests.tiny import Failing, Quadratic, gradient, moved, tiny_policy, tiny_world

ALL: Any = (
    AdvantageWeightedMatching, NegativeAwareFinetuning, ReinforceAdjointMatching, CRD,
    DGPO, FPO,
)  # fmt: skip
PLAIN: dict[str, Any] = {"critic": None, "batch": 64, "updates": 2}


def plain(kind: Any, **more: Any) -> Matching:
    """Without a critic; FPO has none."""
    some = {k: v for k, v in PLAIN.items() if not (kind is FPO and k == "critic")}
    found: Matching = kind(**some, **more)
    return found


def squared(x: Tensor, y: Tensor) -> Tensor:
    """The mean over coordinates."""
    return (x - y).square().flatten(1).mean(1)


def points(seed: int = 0) -> Estimates:
    """Random estimates of five samples in the plane, and weights."""
    g = torch.Generator().manual_seed(seed)
    x0, now, old, pre = (torch.randn(5, 2, dtype=torch.float64, generator=g) for _ in range(4))
    return Estimates(
        x0, now.requires_grad_(), old, pre, torch.rand(5, dtype=torch.float64, generator=g), squared, torch.arange(5)
    )


ADVANTAGE = torch.tensor([1.5, -2.0, 0.3, 0.0, -0.1], dtype=torch.float64)


def slope(algorithm: Matching, at: Estimates) -> Tensor:
    (found,) = torch.autograd.grad(algorithm.match(at, ADVANTAGE, ADVANTAGE.abs().max()).sum(), at.now)
    return found


def pull(at: Estimates, quadratic: Tensor | float) -> Tensor:
    """The gradient of w [-2 A <x0 - old, now - old> + quadratic ||now - old||^2] / D, by hand."""
    rows = torch.as_tensor(quadratic, dtype=torch.float64).expand(5)[:, None]
    by_hand = -2 * ADVANTAGE[:, None] * (at.x0 - at.old) + 2 * rows * (at.now - at.old)
    return (at.weight[:, None] * by_hand / 2).detach()


def test_what_the_losses_add_to_one_pull() -> None:
    """Off the old policy: NFT holds with beta A_max, RAM with nothing; AWM, without its clip, has exp(l_old - l) before A."""
    at = points()
    nft, ram = NegativeAwareFinetuning(beta=0.7), ReinforceAdjointMatching(coefficient=0.3)
    torch.testing.assert_close(slope(nft, at), pull(at, 0.7 * 2.0), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(slope(ram, at), pull(at, 0.0), rtol=1e-12, atol=1e-14)
    rho = (at.weight * (squared(at.x0, at.old) - squared(at.x0, at.now))).exp().detach()
    direct = -2 * (at.weight * rho * ADVANTAGE)[:, None] * (at.x0 - at.now).detach() / 2
    torch.testing.assert_close(slope(AdvantageWeightedMatching(clip=50.0), at), direct, rtol=1e-12, atol=1e-14)


def test_the_full_solve_of_one_round_of_nft() -> None:
    """Without a KL its minimum is old + A (x0 - old) / (beta A_max), row by row."""
    at = points()
    best = at.old + ADVANTAGE[:, None] * (at.x0 - at.old) / (0.7 * 2.0)
    there = replace(at, now=best.detach().requires_grad_())
    assert slope(NegativeAwareFinetuning(beta=0.7), there).abs().max() < 1e-14


def test_awm_stops_where_the_ratio_is_clipped() -> None:
    """A good sample whose loss has fallen by more than the clip pulls no further, and a bad one whose loss has risen."""
    at = points()
    log_ratio = at.weight * (squared(at.x0, at.old) - squared(at.x0, at.now))
    over = ((log_ratio > 0.1) & (ADVANTAGE > 0)) | ((log_ratio < -0.1) & (ADVANTAGE < 0))
    assert 0 < int(over.sum()) < 4
    still = slope(AdvantageWeightedMatching(clip=0.1), at).abs().sum(1) == 0
    assert torch.equal(still, over | (ADVANTAGE == 0))


@pytest.mark.parametrize("kind", ALL)
def test_on_the_policy_that_sampled_all_have_one_gradient(kind: Any) -> None:
    """That of A w ||x0 - x0hat||^2 + coefficient w ||x0hat - x0hat_pre||^2, w = (alpha / sigma)^2 / D, by autograd here."""
    policy, base = moved(tiny_policy()), tiny_policy()
    world = tiny_world(policy, base.reference(), samples=32)
    algorithm = plain(kind, coefficient=0.3)
    world = algorithm.equip(world)
    experience = algorithm.collect(world, 0)
    (piece,) = algorithm.micro_batches(experience, 0, world)
    x0, a = experience.x0[piece.rows], experience.weight[piece.rows]
    schedule = policy.denoiser.schedule
    alpha, sigma = schedule.alpha(piece.t)[:, None], schedule.sigma(piece.t)[:, None]
    x = alpha * x0 + sigma * piece.noise.double()
    now, pre = (p.denoiser(x, piece.t, piece.cond) for p in (policy, base))
    each = a[:, None] * (x0 - now).square() + 0.3 * (now - pre.detach()).square()
    whole = ((alpha / sigma).square() * each / 2).sum() / len(piece.rows)
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    expected = dict(zip(trained, torch.autograd.grad(whole, list(trained.values())), strict=True))
    for name, found in gradient(world, algorithm, experience).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-10, atol=1e-12)
        assert found.abs().max() > 1e-3


@pytest.mark.parametrize("kind", ALL)
def test_equal_rewards_leave_the_base_as_it_is(kind: Any) -> None:
    """A gradient of 0, not of the size of the loss: of pulls that are centred nothing is left."""
    world = tiny_world(reward=Quadratic((0.0, 0.0), (0.0, 0.0)), samples=32)
    algorithm = plain(kind, coefficient=0.3)
    for found in gradient(algorithm.equip(world), algorithm).values():
        assert found.abs().max() < 1e-12


def test_advantages_are_those_of_the_group_and_failed_samples_are_left_out() -> None:
    """Leave-one-out by hand, over the measured samples."""
    world = tiny_world(reward=Failing(Quadratic(), above=0.4), samples=32, group=8, max_failed=0.99)
    algorithm = ReinforceAdjointMatching(**PLAIN)
    world = algorithm.equip(world)
    all_samples, measured = algorithm.drawn(world, 0)
    experience = algorithm.collect(world, 0)
    assert 0 < int((~measured).sum()) < 32
    rewards = Quadratic().score(all_samples.x0, all_samples.cond).value
    by_hand = []
    for i in range(32):
        others = [j for j in range(i - i % 8, i - i % 8 + 8) if j != i and measured[j]]
        by_hand += [float(rewards[i] - rewards[others].mean())] if measured[i] else []
    torch.testing.assert_close(experience.weight, torch.tensor(by_hand).double(), rtol=0, atol=2e-7)  # rewards are fp32
    assert torch.equal(experience.x0, all_samples.x0[measured])
    below = sum(a < -algorithm.coefficient for a in by_hand) / len(
        by_hand
    )  # where the loss has no minimum without a critic
    assert experience.logs["unheld"] == pytest.approx(below)
    assert 0 < below < 1
    assert "unheld" not in ReinforceAdjointMatching().collect(world, 0).logs


def test_the_critic_is_fitted_to_the_advantage_and_subtracted() -> None:
    """Its own gradient by hand, and the policy's: that of A - V."""
    world = tiny_world(moved(tiny_policy()), samples=32)
    algorithm = ReinforceAdjointMatching(coefficient=0.3, batch=64, updates=1, critic=critics.Quadratic())
    world = algorithm.equip(world)
    assert isinstance(world.critic, QuadraticValue)
    with torch.no_grad():
        world.critic.constant += 0.25
    experience = algorithm.collect(world, 0)
    (piece,) = algorithm.micro_batches(experience, 0, world)
    loss = algorithm.loss(experience, piece, world)
    (found,) = torch.autograd.grad(loss.value, world.critic.constant, retain_graph=True)
    a, h = experience.weight[piece.rows], step_of(world.policy, piece.t)
    assert torch.equal(world.policy.times[h], piece.t)
    for step in range(4):
        assert float(found[0, step]) == pytest.approx(float((0.25 - a)[h == step].sum()) / 64, rel=1e-9)
    plain = ReinforceAdjointMatching(coefficient=0.3, batch=64, updates=1, critic=None)
    less = replace(experience, weight=experience.weight - 0.25)
    expected = gradient(replace(world, critic=None), plain, less)
    for name, p in world.policy.named_parameters():
        (own,) = torch.autograd.grad(loss.value, p, retain_graph=True)
        torch.testing.assert_close(own, expected[name], rtol=1e-9, atol=1e-12)


# ---- samplers, the old policy, what is refused


def test_an_ode_is_sampled_with_the_tuned_network() -> None:
    """Eta 0: no step has noise, and the reference takes none of them; 4 steps of 16 samples are 64 rows."""
    policy, base = moved(tiny_policy(eta=0.0)), tiny_policy(eta=0.0)
    world = tiny_world(policy, base.reference())
    algorithm = ReinforceAdjointMatching(**PLAIN)
    algorithm.refuse(world)
    world = algorithm.equip(world)
    experience = algorithm.collect(world, 0)
    other = algorithm.collect(tiny_world(base, base.reference()), 0)
    assert (experience.x0 - other.x0).abs().min() > 1e-6
    assert experience.evaluations == 64
    assert experience.queries == 16


def test_the_old_policy_is_a_slow_copy_that_samples() -> None:
    """old <- decay old + (1 - decay) policy before an iteration's samples, by hand over two."""
    world = tiny_world(tiny_policy(), samples=16)
    algorithm = NegativeAwareFinetuning(decay=0.75, **PLAIN)
    world = algorithm.equip(world)
    assert world.old is not None
    first = algorithm.collect(world, 0)
    start = {name: p.detach().clone() for name, p in world.policy.named_parameters()}
    moved(world.policy)
    second = algorithm.collect(world, 0)  # the same noise
    for (name, old), now in zip(world.old.named_parameters(), world.policy.parameters(), strict=True):
        torch.testing.assert_close(old, 0.75 * start[name] + 0.25 * now, rtol=1e-12, atol=1e-14)
    assert sorted(algorithm.kept(world)) == sorted(name for name, _ in world.old.named_parameters())
    assert (second.x0 - first.x0).abs().max() > 1e-3
    assert not NegativeAwareFinetuning(**PLAIN).kept(world)  # it is the policy again in every iteration
    fast = NegativeAwareFinetuning(**PLAIN).collect(world, 0)
    assert (fast.x0 - second.x0).abs().max() > 1e-3


@pytest.mark.parametrize("size", [7, 64])
def test_passes_and_processes_add_up(size: int) -> None:
    """One process in one pass, and two in many, see the same rows and give the same gradient."""
    algorithm = AdvantageWeightedMatching(critic=critics.Quadratic(), batch=64)

    def some(pass_size: int, rank: int, count: int) -> dict[str, Tensor]:
        world = algorithm.equip(tiny_world(moved(tiny_policy()), pass_size=pass_size))
        experience = algorithm.collect(world, 0)
        return gradient(replace(world, processes=Processes(rank, count)), algorithm, experience)

    whole, parts = some(10**9, 0, 1), [some(size, rank, 2) for rank in (0, 1)]
    for name, g in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], g, rtol=1e-11, atol=1e-13)


def test_what_cannot_be_is_refused() -> None:
    for kind in ALL:
        with pytest.raises(ValueError, match=r"set initial=standard penalty=none"):
            kind().refuse(tiny_world(tiny_policy(rho=True)))
        with pytest.raises(ValueError, match=r"plan.group is 1.*set plan.group to 2"):
            kind().refuse(tiny_world(group=1))
        for wrong in ({"coefficient": -1.0}, {"decay": 1.0}, {"decay": -0.1}):
            with pytest.raises(ValueError, match=r"they must be at least 0, and decay below 1"):
                kind(**wrong)
    with pytest.raises(ValueError, match=r"clip is 0.0; it must be above 0"):
        AdvantageWeightedMatching(clip=0.0)
    with pytest.raises(ValueError, match=r"beta is 0.0; it must be above 0"):
        NegativeAwareFinetuning(beta=0.0)
    with pytest.raises(ValueError, match=r"trainer.coefficient is 0.*set it above 0"):
        ReinforceAdjointMatching(coefficient=0.0).refuse(tiny_world())
