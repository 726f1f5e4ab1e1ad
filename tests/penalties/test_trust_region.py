"""Trust regions: the mask pair by pair, and the multiplier at the oracle's."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Normal

from pgdlab.diffusion.policy import Policy
from pgdlab.oracle.linear_gaussian import Problem, affine_chain, optimum
from pgdlab.penalties.base import Penalties, Penalty
from pgdlab.penalties.constraint import KLConstraint
from pgdlab.penalties.path_kl import PathKL
from pgdlab.penalties.trust_region import TrustRegion
from pgdlab.trainers.ppo import PPO
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.world import World
from tests.tiny import every, gradient, moved, penalties, tiny_policy, tiny_world
from tests.worlds import POINTS, fitted

FREE = PPO(clip=100.0, epochs=2, minibatches=1)


def start() -> tuple[Policy, Policy]:
    policy = tiny_policy(0.7, rho=True)
    reference = policy.reference()
    return moved(policy), reference


def world_of(limit: float) -> World:
    both: dict[str, Penalty] = {"path_kl": PathKL(coefficient=0.5), "trust_region": TrustRegion(limit=limit)}
    return FREE.equip(tiny_world(*start(), penalty=both, samples=64))


def kl_to_old(world: World, experience: Any) -> torch.Tensor:
    """||mean - mean_old||^2 / (2 std^2) of every trained pair, from the policy and a copy of it as it sampled."""
    out = experience.trajectory
    row, step = every(64, 3)
    new = world.policy(out.states[row, step], step, out.cond[row]).mean
    old = start()[0](out.states[row, step], step, out.cond[row]).mean
    std = world.policy.std[step]
    return ((new - old).square().sum(1) / (2 * std**2)).reshape(64, 3).detach()


def test_steps_outside_the_region_are_left_out_and_no_others() -> None:
    """After a move: the gradient is that of the same experience with the advantage of exactly those pairs set to 0, the
    differentiated KL and rho unchanged."""
    world = world_of(0.05)
    experience = FREE.collect(world, 0)
    moved(world.policy, seed=5, size=0.3)
    outside = kl_to_old(world, experience) > 0.05
    assert 20 < int(outside.sum()) < 172
    assert len(set(outside.sum(0).tolist())) > 1
    got = gradient(world, FREE, experience)
    (piece,) = FREE.micro_batches(experience, 0, world)
    logs = FREE.loss(experience, piece, world).logs
    assert float(logs["untrusted"][0]) == int(outside.sum())
    assert float(logs["old_kl_nats"][0]) == pytest.approx(kl_to_old(world, experience).sum().item(), rel=1e-10)
    world = replace(world, penalties=penalties(PathKL(coefficient=0.5)))
    free = gradient(world, FREE, experience)
    experience.advantage[outside] = 0.0
    for name, g in gradient(world, FREE, experience).items():
        torch.testing.assert_close(got[name], g, rtol=1e-11, atol=1e-13)
    assert (free["denoiser.shift"] - got["denoiser.shift"]).abs().max() > 1e-2


def test_before_the_first_update_everything_is_inside() -> None:
    world = world_of(1e-9)
    experience = FREE.collect(world, 0)
    got = gradient(world, FREE, experience)
    world = replace(world, penalties=penalties(PathKL(coefficient=0.5)))
    for name, g in gradient(world, FREE, experience).items():
        torch.testing.assert_close(got[name], g, rtol=1e-12, atol=1e-14)


def test_the_old_policy_is_the_one_that_sampled_and_shares_what_is_frozen() -> None:
    world = world_of(0.1)
    assert world.old is not None
    moved(world.policy, seed=3)
    FREE.collect(world, 0)
    sampled = [p.detach().clone() for p in world.policy.parameters()]
    moved(world.policy, seed=4)
    for old, then, now in zip(world.old.parameters(), sampled, world.policy.parameters(), strict=True):
        assert torch.equal(old, then)
        assert not torch.equal(old, now)
        assert not old.requires_grad
    frozen = tiny_policy(0.7, denoiser=False, rho=True)
    twin = frozen.snapshot()
    shared = [a is b for a, b in zip(twin.denoiser.parameters(), frozen.denoiser.parameters(), strict=True)]
    assert all(shared)
    assert not any(a is b for a, b in zip(twin.initial.parameters(), frozen.initial.parameters(), strict=True))
    assert FREE.equip(tiny_world(*start(), penalty=PathKL(coefficient=0.5))).old is None


def test_penalties_add_up() -> None:
    """Costs are sums, trust is unanimous, names are kept; two KL terms would log one coefficient."""
    kl = torch.tensor([0.05, 0.1, 0.2, 0.4], dtype=torch.float64)
    several = Penalties({
        "constraint": KLConstraint(limit=2.0, multiplier=0.5, rate=0.1), "near": TrustRegion(limit=0.1),
        "far": TrustRegion(limit=0.3),
    })  # fmt: skip
    onward = torch.tensor([True, False, False, True])
    assert several.trusted(kl, onward).tolist() == [True, True, False, False]
    several.adapt(2.0 * (1 + math.log(1.02) / 0.1))
    assert several.logs() == {"penalty/coefficient": pytest.approx(0.51)}
    assert several.loss_term(kl).tolist() == pytest.approx((0.51 * kl).tolist())
    assert several.initial_loss_term(kl).tolist() == pytest.approx((0.51 * kl).tolist())
    assert list(several.state_dict()) == ["constraint.coefficient"]
    assert (len(several), several.needs_reference(), several.needs_old(), several.reference_samples()) == (
        3,
        True,
        True,
        0,
    )
    none = Penalties()
    assert (len(none), none.needs_reference(), none.needs_old(), none.logs()) == (0, False, False, {})
    assert none.loss_term(kl).tolist() == [0.0] * 4
    assert none.trusted(kl, onward).all()
    with pytest.raises(ValueError, match="penalty constraint does the same as path_kl"):
        Penalties({"path_kl": PathKL(), "constraint": KLConstraint()})
    with pytest.raises(ValueError, match=r"limit is 0\.0; it must be above 0"):
        TrustRegion(limit=0.0)


def test_an_asymmetric_region_leaves_the_way_back_open() -> None:
    """Of the pairs outside, those alone are left out that would move on: by hand from w, A and the KL, and as the gradient of the
    experience with the advantage of exactly those set to 0. Without the option the gradient is another."""
    kl = torch.tensor([0.01, 0.2, 0.2], dtype=torch.float64)
    onward = torch.tensor([True, True, False])
    assert TrustRegion(limit=0.1, asymmetric=True).trusted(kl, onward).tolist() == [True, False, True]
    both: dict[str, Penalty] = {"path_kl": PathKL(coefficient=0.5), "region": TrustRegion(limit=0.05, asymmetric=True)}
    world = FREE.equip(tiny_world(*start(), penalty=both, samples=64))
    experience = FREE.collect(world, 0)
    moved(world.policy, seed=5, size=0.3)
    out = experience.trajectory
    row, step = every(64, 3)
    g = world.policy(out.states[row, step], step, out.cond[row])
    now = Normal(g.mean, world.policy.std[step][:, None]).log_prob(out.states[row, step + 1]).sum(1).reshape(64, 3)
    away = ((now - out.log_prob) * experience.advantage > 0).detach()
    dropped = (kl_to_old(world, experience) > 0.05) & away
    assert 0 < int(dropped.sum()) < int((kl_to_old(world, experience) > 0.05).sum())
    got = gradient(world, FREE, experience)
    symmetric = gradient(replace(world, penalties=world_of(0.05).penalties), FREE, experience)
    world = replace(world, penalties=penalties(PathKL(coefficient=0.5)))
    experience.advantage[dropped] = 0.0
    for name, expected in gradient(world, FREE, experience).items():
        torch.testing.assert_close(got[name], expected, rtol=1e-11, atol=1e-13)
    assert (symmetric["denoiser.shift"] - got["denoiser.shift"]).abs().max() > 1e-2


def test_one_update_a_rollout_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="no step is outside a trust region"):
        Reinforce().refuse(world_of(0.1))


def farthest(region: bool) -> tuple[float, float]:
    """The mean KL of a step to the sampling policy after an iteration of many unclipped updates, and the largest."""
    algorithm = PPO(clip=100.0, epochs=40, minibatches=1)
    penalty = TrustRegion(limit=0.02) if region else None
    world = algorithm.equip(tiny_world(*start(), penalty=penalty, samples=64))
    experience = algorithm.collect(world, 0)
    optimizer = torch.optim.SGD(world.policy.parameters(), lr=0.02)
    for update in range(40):
        optimizer.zero_grad()
        (piece,) = algorithm.micro_batches(experience, update, world)
        algorithm.loss(experience, piece, world).value.backward()
        optimizer.step()
    kl = kl_to_old(world, experience)
    return kl.mean().item(), kl.max().item()


def test_it_bounds_what_an_iteration_does() -> None:
    """Without a clip forty updates on one rollout run away; with the region the steps stop near its limit."""
    (free, far), (bound, near) = farthest(False), farthest(True)
    assert bound < 0.03
    assert free > 4 * bound
    assert far > 4 * near


# ---- the multiplier


def test_dual_ascent_by_hand() -> None:
    """log lambda += rate (KL / limit - 1), at most 1; the coefficient is what a checkpoint carries."""
    penalty = KLConstraint(limit=2.0, multiplier=0.5, rate=0.1)
    log = math.log(0.5)
    for kl, step in ((3.0, 0.05), (2.0, 0.0), (0.0, -0.1), (1000.0, 1.0)):
        penalty.adapt(kl)
        log += step
        assert penalty.logs()["penalty/coefficient"] == pytest.approx(math.exp(log), rel=1e-12)
    assert list(penalty.state_dict()) == ["coefficient"]
    for wrong in ({"limit": 0.0}, {"multiplier": 0.0}, {"rate": -1.0}):
        with pytest.raises(ValueError, match="all three must be above 0"):
            KLConstraint(**wrong)


def bowl(lam: float) -> tuple[float, float]:
    """KL and reward of the exact optimum under a quadratic reward at this weight."""
    reference = affine_chain(start()[1], torch.tensor([0]))
    slope, curvature = torch.tensor([1.0, -0.5]).double(), torch.diag(torch.tensor([0.8, 0.3]).double())
    best = optimum(Problem(reference, slope, curvature, lam, lam)).value
    return best.path_kl.item(), best.reward.item()


def test_the_multiplier_goes_to_the_oracles() -> None:
    """The policy at its exact optimum for the current multiplier: the fixed point has KL = limit (found here by bisection),
    where the multiplier is what a nat is worth, dE[r] / dKL."""
    limit, low, high = 0.3, 1e-3, 10.0
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if bowl(middle)[0] > limit else (low, middle)
    penalty = KLConstraint(limit=limit, multiplier=2.0, rate=0.3)
    for _ in range(200):
        penalty.adapt(bowl(penalty.logs()["penalty/coefficient"])[0])
    found = penalty.logs()["penalty/coefficient"]
    assert found == pytest.approx(low, rel=1e-6)
    (kl_up, r_up), (kl_down, r_down) = bowl(found * 0.999), bowl(found * 1.001)
    assert (r_up - r_down) / (kl_up - kl_down) == pytest.approx(found, rel=1e-4)


def test_a_constraint_that_does_not_bind_costs_nothing_in_the_end() -> None:
    """A reward that the reference is near the best of: its KL at no weight is below the limit, and lambda falls to 0."""
    penalty = KLConstraint(limit=1000.0, multiplier=1.0, rate=0.3)
    for _ in range(60):
        penalty.adapt(bowl(max(penalty.logs()["penalty/coefficient"], 1e-3))[0])
    assert penalty.logs()["penalty/coefficient"] < 1e-6


def test_a_trained_policy_ends_on_the_constraint(tmp_path: Path) -> None:
    """A linear reward on a line, trained and not solved: at the end KL is the limit and lambda the exact multiplier.
    The KL of the optimum goes with lambda^-2, so lambda is half as far off as the KL, whose last 40 iterations of 256
    samples are known to about 2 %."""
    module = fitted(
        tmp_path, *POINTS, "trainer=reinforce", "penalty=constraint", "penalty.constraint.limit=1.0",
        "penalty.constraint.multiplier=1.5",
        "policy.steps=4", "plan.samples=256", "plan.group=256", "plan.iterations=300", "plan.checkpoint_every=300",
        "optimizer.lr=0.02", "optimizer.clip_norm=0", "plan.rollout_batch=256", "plan.pass_size=4096",
    )  # fmt: skip
    world = module.world
    one = torch.ones(1, dtype=torch.float64)
    best = optimum(Problem(affine_chain(world.reference, torch.tensor([0])), one, torch.zeros(1, 1).double(), 1.0, 1.0))
    exact = best.value.path_kl.item() ** 0.5  # KL(lambda) = KL(1) / lambda^2 = 1
    last = module.history[-40:]
    kl, lam = (sum(row[name] for row in last) / 40 for name in ("kl_nats", "penalty/coefficient"))
    assert kl == pytest.approx(1.0, rel=0.06)
    assert lam == pytest.approx(exact, rel=0.06)
