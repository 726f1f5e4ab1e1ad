"""PPO: REINFORCE at ratio 1, clipped beyond it."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields

import pytest
import torch

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.gaussian import log_prob
from pgdlab.penalties.path_kl import PathKL
from pgdlab.rollout.plan import Plan
from pgdlab.rollout.trajectory import replay
from pgdlab.trainers.eager import Eager
from pgdlab.trainers.ppo import PPO
from pgdlab.trainers.reinforce import Reinforce
from tests.tiny import FastNoise, gradient, moved, tiny_policy, tiny_world


def start(rho: bool = True) -> tuple[Policy, Policy]:
    policy = tiny_policy(0.7, rho=rho)
    reference = policy.reference()
    return moved(policy), reference


def test_at_ratio_one_it_is_reinforce() -> None:
    """The same gradient, penalty and rho included, for the first update of a rollout."""
    policy, reference = start()
    world = tiny_world(policy, reference, penalty=PathKL(coefficient=0.5), samples=64)
    one, two = gradient(world, Reinforce()), gradient(world, PPO(epochs=2, minibatches=1))
    for name in one:
        # replay rounds the log-ratio to 1e-15 instead of 0
        torch.testing.assert_close(two[name], one[name], rtol=1e-11, atol=1e-13)
    assert max(g.abs().max() for g in one.values()) > 0.01


def test_off_policy_ratios_average_to_one() -> None:
    """E_old[pi / pi_old] = 1, for a step, and for rho: the weight is a density's, no mean over dimensions."""
    policy, reference = start()
    n = 40_000
    world = tiny_world(policy, reference, noise=FastNoise(1), samples=n)
    out = PPO().collect(world, 0).trajectory
    moved(policy, seed=9, size=0.3)
    with torch.no_grad():
        steps = replay(policy, out, out.pairs(torch.arange(3 * n)))[1].reshape(n, 3) - out.log_prob
        first = log_prob(policy.initial(out.cond), out.initial, policy.space, out.cond) - out.initial_log_prob
        ratio = torch.cat([steps, first[:, None]], 1).exp()
    assert ratio.std(0).min() > 0.05, "the policy has not moved"
    assert ((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / n**0.5).all()


def test_clip_fractions_by_hand() -> None:
    c = 0.2
    log_ratio = torch.tensor([0.3, 0.21, 0.19, 0.0, -0.19, -0.21])
    logs = {name: float(total) / count for name, (total, count) in PPO(clip=c).diagnostics(log_ratio).items()}
    assert logs["clip_fraction_high"] == pytest.approx(2 / 6)
    assert logs["clip_fraction_low"] == pytest.approx(1 / 6)
    assert logs["log_ratio_abs"] == pytest.approx(log_ratio.abs().mean().item())


def test_beyond_the_clip_there_is_no_gradient() -> None:
    """After a large move every good sample that became likelier by more than c, and every bad one that became less
    likely, has no surrogate gradient; the others have."""
    trainer = PPO(clip=0.2)
    log_ratio = torch.tensor([0.5, 0.5, -0.5, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    (slope,) = torch.autograd.grad(trainer.surrogate(log_ratio, advantage).sum(), log_ratio)
    assert slope.tolist() == pytest.approx([0, -math.exp(0.5), math.exp(-0.5), 0, math.exp(0.1)])


def test_updates_after_the_first_use_the_moved_ratio() -> None:
    """The old log-probabilities stay those of the rollout while the policy moves: the loss changes accordingly."""
    policy, reference = start(rho=False)
    world, trainer = tiny_world(policy, reference, samples=64), PPO(clip=0.05)
    experience = trainer.collect(world, 0)
    old = experience.trajectory.log_prob.clone()
    first = gradient(world, trainer, experience)
    moved(policy, seed=3, size=0.5)
    second = gradient(world, trainer, experience)
    assert torch.equal(experience.trajectory.log_prob, old)
    assert not torch.allclose(first["denoiser.shift"], second["denoiser.shift"])
    (piece,) = trainer.micro_batches(experience, 0, world)[:1]
    logs = trainer.loss(experience, piece, world).logs
    assert logs["clip_fraction_high"][0] > 0
    assert logs["clip_fraction_low"][0] > 0


@pytest.mark.parametrize("clip", [0.0, -0.1])
def test_a_clip_that_is_not_positive_is_refused(clip: float) -> None:
    with pytest.raises(ValueError, match=r"it must be above 0"):
        PPO(clip=clip)


def test_one_update_a_rollout_is_warned_about() -> None:
    """After one update from the rollout's own policy nothing has moved yet."""
    with pytest.warns(UserWarning, match=r"ratio is identically 1 and the clip does nothing"):
        PPO(epochs=1, minibatches=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PPO(epochs=1, minibatches=2)


def test_reinforce_and_the_eager_gradient_have_no_updates_to_choose() -> None:
    """One a rollout: an option that could only be 1 is no option."""
    for algorithm in (Reinforce, Eager):
        assert not {field.name for field in fields(algorithm)} & {"epochs", "minibatches"}
        assert algorithm().updates_per_iteration(Plan()) == 1
    assert "ratio" not in {field.name for field in fields(Eager)}


def test_schulmans_bounds_by_hand() -> None:
    """[1 - .2, 1 + .2] is [log .8, log 1.2] in nats, not [-.2, .2]: .19 is outside above, -.21 inside below."""
    trainer = PPO(clip=0.2, bounds="schulman")
    log_ratio = torch.tensor([0.19, 0.18, -0.21, -0.23], dtype=torch.float64)
    one = torch.ones(4, dtype=torch.float64)
    # min(w A, clipped w A) by hand, for an advantage of 1 and of -1
    expected = torch.tensor([1.2, math.exp(0.18), math.exp(-0.21), math.exp(-0.23)], dtype=torch.float64)
    torch.testing.assert_close(trainer.surrogate(log_ratio, one), expected, rtol=1e-14, atol=0)
    expected = -torch.tensor([math.exp(0.19), math.exp(0.18), math.exp(-0.21), 0.8], dtype=torch.float64)
    torch.testing.assert_close(trainer.surrogate(log_ratio, -one), expected, rtol=1e-14, atol=0)
    logs = {name: float(total) / count for name, (total, count) in trainer.diagnostics(log_ratio).items()}
    assert (logs["clip_fraction_high"], logs["clip_fraction_low"]) == (0.25, 0.25)


@pytest.mark.parametrize("rho", [False, True])
def test_the_ratio_per_dimension_by_hand(rho: bool) -> None:
    """Log-ratios of a plane are halved, those of rho too: the first update's gradient is half of the density's, and the
    logged log-ratio of a policy that moved half of it."""
    policy, reference = start(rho)
    world = tiny_world(policy, reference, samples=64)
    density, mean = PPO(epochs=2, minibatches=1), PPO(epochs=2, minibatches=1, ratio="per_dimension")
    experience = density.collect(world, 0)
    whole, half = gradient(world, density, experience), gradient(world, mean, experience)
    for name in whole:
        torch.testing.assert_close(half[name], whole[name] / 2, rtol=1e-11, atol=1e-13)
    moved(policy, seed=3, size=0.1)
    (piece,) = density.micro_batches(experience, 0, world)
    logs = [trainer.loss(experience, piece, world).logs for trainer in (density, mean)]
    for name in ("log_ratio_abs", "initial_log_ratio_abs")[: 1 + rho]:
        assert logs[1][name][0] == pytest.approx(float(logs[0][name][0]) / 2, rel=1e-12)
        assert logs[1][name][0] > 0.01


def test_the_peers_ratio_is_below_one_on_average() -> None:
    """E_old[w^(1/D)] < 1 where E_old[w] = 1 (Jensen), so that it weighs nothing correctly."""
    policy, reference = start(rho=False)
    world = tiny_world(policy, reference, noise=FastNoise(1), samples=20_000)
    trainer = PPO(ratio="per_dimension")
    out = trainer.collect(world, 0).trajectory
    moved(policy, seed=9, size=0.3)
    pairs = out.pairs(torch.arange(60_000))
    with torch.no_grad():
        log_ratio = replay(policy, out, pairs)[1] - out.log_prob.flatten()
        weight = trainer.reduced(log_ratio, world, pairs.cond).exp()
    assert weight.mean() < 1 - 5 * weight.std() / len(weight) ** 0.5


def test_the_peers_clip_stalls() -> None:
    """After a move of a hundredth of the clip of .2 nats, their 1e-4 a dimension has no gradient left where the
    advantage agrees with the move; the density's has all of it."""
    log_ratio = torch.full((4,), 0.002, dtype=torch.float64, requires_grad=True)
    slopes = {}
    for name, trainer, dimensions in (
        ("density", PPO(), 1),
        ("peers", PPO(ratio="per_dimension", bounds="schulman", clip=1e-4), 8),
    ):
        gain = trainer.surrogate(log_ratio / dimensions, torch.ones_like(log_ratio)).sum()
        (slopes[name],) = torch.autograd.grad(gain, log_ratio)
    assert slopes["density"].tolist() == pytest.approx([math.exp(0.002)] * 4)
    assert slopes["peers"].tolist() == [0.0] * 4


@pytest.mark.parametrize("clip", [0.0, 1.0, 1.5])
def test_schulmans_clip_is_between_0_and_1(clip: float) -> None:
    with pytest.raises(ValueError, match=rf"clip is {clip}; .*below 1 where bounds is schulman"):
        PPO(clip=clip, bounds="schulman")


@pytest.mark.parametrize("clip", [1e-30, 0.0, float("inf")])
def test_a_clip_that_lets_nothing_or_everything_through_is_refused(clip: float) -> None:
    with pytest.raises(ValueError, match=rf"clip is {clip}; it must be above 0, at least 1e-06 nats"):
        PPO(clip=clip)
