"""A learned reward as a control variate: the gradient is J's whatever it has learned, less noisy where it has; what it keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pgdlab.certificates.cells import run
from pgdlab.certificates.certificate import queries_to
from pgdlab.credit.critic import Quadratic as Bowl
from pgdlab.credit.learned_reward import LearnedReward, explained
from pgdlab.diffusion.values import QuadraticValue
from pgdlab.penalties.path_kl import PathKL
from pgdlab.trainers.control_variate import ControlVariate
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.world import World
from tests.tiny import tiny_policy, tiny_world
from tests.trainers.test_gradient import FOUR_ERRORS, LAM, QUADRATIC, estimated, exact, start, world_of
from tests.worlds import POINTS, continued, distance, fitted

ONCE = ControlVariate(epochs=1, minibatches=1, clip=50.0, model=Bowl())
G = torch.Generator


def with_f(slope: tuple[float, float], curvature: tuple[float, float]) -> World:
    """A world off every optimum, with f set to a quadratic of the samples."""
    world = ONCE.equip(world_of(*start(1.0), PathKL(coefficient=LAM)))
    f = ONCE.learned(world)
    f.scale.fill_(1.0)
    with torch.no_grad():
        f.value.linear[:, 0] = torch.tensor(slope).double()
        f.value.square[:, 0] = -torch.tensor([curvature[0], 0.0, curvature[1]]).double()
    return world


@pytest.mark.parametrize("known", [False, True], ids=["a wrong f", "f = r"])
def test_the_gradient_is_exact_whatever_f_is(known: bool) -> None:
    """Against the derivative of J's closed form, 10^5 samples. Where f is the reward its error is below REINFORCE's, by half for
    shifts: the score then has nothing left to weigh, and what a gain is multiplied with varies by itself."""
    slope, curvature = (x.tolist() for x in QUADRATIC.values())
    world = with_f(slope, curvature) if known else with_f((-0.7, 0.4), (0.1, -0.2))
    found, expected = estimated(world, ONCE), exact(world.policy, 1.0, LAM, 0.0)  # type: ignore[arg-type]
    for name, (mean, error) in found.items():
        live = error > 0
        assert ((mean - expected[name]) / error)[live].abs().max() < FOUR_ERRORS
        assert int(live.sum()) == 6  # the last of four steps has no noise
    if known:
        plain = estimated(replace(world, critic=None), Reinforce())
        for name, (_, error) in found.items():
            bound = {"denoiser.shift": 0.5, "denoiser.gain": 0.9}[name]
            assert (error / plain[name][1]).nan_to_num(0.0).max() < bound


def test_an_iterations_own_rewards_are_not_in_its_f() -> None:
    """The advantages are those of r - f with the f of before, by hand; then f has heard them."""
    algorithm = replace(ONCE, fits=300, rate=0.05)
    world = algorithm.equip(tiny_world(samples=64, group=64, penalty=PathKL(coefficient=LAM)))
    f = algorithm.learned(world)
    assert algorithm.collect(world, 0).logs["reward_explained"] == 0.0
    before = f.state_dict()
    before = {name: x.clone() for name, x in before.items()}
    experience = algorithm.collect(world, 1)
    out = experience.trajectory
    reward = world.reward.score(out.sample, out.cond).value
    after = {name: x.clone() for name, x in f.state_dict().items()}
    f.load_state_dict(before)
    missed = (reward - f.at(out.sample, out.cond)).detach()
    expected = (missed - missed.mean()) * 64 / 63
    torch.testing.assert_close(experience.advantage, expected[:, None].expand(-1, 3), rtol=1e-6, atol=1e-8)
    assert 0.9 < experience.logs["reward_explained"] == pytest.approx(explained(reward, reward - missed))
    assert int(after["count"]) == int(before["count"]) + 64 == 128


def test_what_it_remembers() -> None:
    """The last rows, the oldest in their turn, each with its condition; equal rewards are no scale. A quadratic is fitted to its
    coefficients, and the slope is its derivative."""
    f = LearnedReward(QuadraticValue(2, 3, 1), torch.zeros(1, dtype=torch.float64), 5, 400, 5, 0.03)
    x = torch.tensor([9.0, 9.0, -1.5, 1.5, 0.0, -0.7, 0.8]).double()[:, None]
    zero = torch.zeros(2, dtype=torch.long)
    f.learn(x[:2], zero, torch.ones(2), G())
    assert float(f.at(x[:1], zero[:1])) == 1.0
    assert not f.slope(x[:2], zero).any()
    f.learn(x[2:4], zero, x[2:4, 0] ** 2, G())
    f.learn(x[4:], torch.zeros(3, dtype=torch.long), x[4:, 0] ** 2, G())
    assert sorted(f.sample[:, 0].tolist()) == pytest.approx(sorted(x[2:, 0].tolist()))
    at = torch.tensor([[-0.5], [1.2]]).double()
    torch.testing.assert_close(f.at(at, zero), at[:, 0] ** 2, rtol=0, atol=0.05)
    torch.testing.assert_close(f.slope(at, zero), 2 * at, rtol=0, atol=0.1)
    assert not any(p.requires_grad for p in f.parameters())


def test_a_resumed_run_is_the_undisturbed_one(tmp_path: Path) -> None:
    """f, its rows and their number are in the checkpoint; the optimizer has no part in f."""
    words = [
        *POINTS,
        "trainer=control_variate",
        "trainer.fits=3",
        "plan.iterations=3",
        "plan.samples=8",
        "plan.group=8",
    ]
    whole = fitted(tmp_path / "whole", *words, double=True)
    assert set(whole.algorithm.trained(whole.world)) == {"denoiser"}
    fitted(tmp_path / "cut", *[w.replace("iterations=3", "iterations=2") for w in words], double=True)
    resumed = continued(tmp_path / "cut", 2, *words)
    assert int(resumed.world.critic.count) == 24  # type: ignore[union-attr, arg-type]
    assert distance(dict(resumed.policy.named_parameters()), dict(whole.policy.named_parameters())) < 1e-12


def test_what_does_not_go_together_is_refused() -> None:
    for name in ("clip", "memory", "fits", "rate"):
        none = 0 if name in ("memory", "fits") else 0.0
        with pytest.raises(ValueError, match=f"{name} is {none}; it must be above 0"):
            ControlVariate(**{name: none})
    for policy in (tiny_policy(rho=True), tiny_policy(denoiser=False, rho=True)):
        with pytest.raises(ValueError, match="control variate is of the denoiser's steps"):
            ONCE.refuse(tiny_world(policy))
    with pytest.raises(ValueError, match="form A"):
        ONCE.refuse(tiny_world(penalty=PathKL(form="B")))


def test_half_of_ppos_queries_are_enough(tmp_path: Path) -> None:
    """Eight paired replicas of oracle/quadratic, 16 samples an iteration, the same learning rate: PPO's median queries to a gap
    of 5 % (exact J) are at least twice those of the control variate, whose f is a quadratic that it has learned."""
    base = ["experiment=oracle/quadratic", "plan.samples=128", "plan.group=16", "optimizer.lr=6e-2"]
    bowl = "trainer.model={_target_: pgdlab.credit.critic.Quadratic}"
    ways = {
        "ppo": (["trainer=ppo"], 5120),
        "control variate": (["trainer=control_variate", bowl, "trainer.rate=0.05"], 2560),
    }
    found = {}
    for name, (more, queries) in ways.items():
        rounds = queries // 128
        words = [*more, "trainer.baseline=group", f"budget.queries={queries}"]
        done = run(base, words, 0, rounds, tmp_path / name)
        asked = [q for q, _ in done.curve]
        gaps = torch.tensor([done.gaps(figures) for _, figures in done.curve], dtype=torch.float64)
        found[name] = queries_to(0.05, gaps, asked)
    (ppo, _), (ours, _) = found["ppo"], found["control variate"]
    assert ours is not None
    assert ppo is None or 2 * ours <= ppo
