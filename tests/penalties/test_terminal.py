"""The terminal penalty against the closed form of MMD^2 for a linear-Gaussian chain, and its bookkeeping."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.credit.actor_critic import ActorCritic
from pgdlab.credit.critic import Quadratic
from pgdlab.functional.divergences import energy, mmd, rbf, witness_advantage
from pgdlab.oracle.linear_gaussian import affine_chain
from pgdlab.penalties.path_kl import PathKL
from pgdlab.penalties.terminal import Terminal
from pgdlab.penalties.trust_region import TrustRegion
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.sampler import rollout
from pgdlab.trainers.interaction import reference_samples
from pgdlab.trainers.ppo import PPO
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.world import World
from tests.exact import steps_of
from tests.functional.test_divergences import closed
from tests.tiny import Failing, FastNoise, gradient, moved, penalties, tiny_policy, tiny_world
from tests.tiny import Quadratic as Bowl
from tests.trainers.test_policy_gradient import Share
from tests.worlds import POINTS, distance, equal, fitted

ETA, WIDTH, WEIGHT = 0.7, 0.9, 0.7
NOTHING = Bowl((0.0, 0.0), (0.0, 0.0))


def world_of(penalty: Any = None, train_conditions: tuple[int, ...] = (0,), **more: Any) -> World:
    policy = tiny_policy(ETA, rho=True)
    reference = policy.reference()
    penalty = Terminal(weight=WEIGHT, kernel="rbf", bandwidth=WIDTH, samples=64) if penalty is None else penalty
    return tiny_world(
        moved(policy), reference, penalty=penalty, train_conditions=train_conditions, **({"samples": 24} | more)
    )


def final_moments(policy: Any) -> tuple[Tensor, Tensor]:
    """Mean and variance of the samples, with gradient, from the betas up; the last step is the pretrained one."""
    denoiser, rho = policy.denoiser, policy.initial
    mean, variance = rho.mean, (2 * rho.log_scale).exp()
    for h, c in enumerate(steps_of(4, ETA, torch.zeros(2).double(), 0.5)):
        moves = float(c.std > 0)
        gain = c.from_x + c.from_x0 * (c.a0 + moves * denoiser.gain[3 - h])
        mean = gain * mean + c.from_x0 * (c.b0 + moves * denoiser.shift[3 - h])
        variance = gain.square() * variance + c.std**2
    return mean, variance


def mean_kernel(shift: Tensor, variance: Tensor) -> Tensor:
    """E exp(-||d||^2 / (2 w^2)), d ~ N(shift, diag(variance))."""
    total = variance + WIDTH**2
    return (WIDTH / total.sqrt() * torch.exp(-(shift**2) / (2 * total))).prod(-1)


@pytest.mark.parametrize("credit", [None, ActorCritic(critic=Quadratic())])
def test_the_gradient_is_that_of_the_closed_form(credit: Any) -> None:
    """-weight grad MMD^2 to the drawn reference samples, for the denoiser and rho, from 60 iterations of 200 samples that
    earn nothing else."""
    settings = {} if credit is None else {"credit": credit}
    algorithm, world = Reinforce(**settings), world_of(samples=200, reward=NOTHING)
    world = replace(world, noise=FastNoise(0))
    world = algorithm.equip(world)
    each: dict[str, list[Tensor]] = {}
    for k in range(60):
        for name, g in gradient(world, algorithm, algorithm.collect(world, k)).items():
            each.setdefault(name, []).append(-g)
    (penalty,) = world.penalties.each()
    y = penalty.drawn[0]
    mean, variance = final_moments(world.policy)
    distance_ = mean_kernel(torch.zeros(2).double(), 2 * variance) - 2 * mean_kernel(mean - y, variance).mean()
    trained = dict(world.policy.named_parameters())
    exact = torch.autograd.grad(-WEIGHT * distance_, list(trained.values()))
    for (name, parts), e in zip(each.items(), exact, strict=True):
        table = torch.stack(parts)
        error = table.std(0) / 60**0.5
        live = error > 0
        assert torch.equal(e[~live], torch.zeros_like(e[~live])), "the deterministic last step"
        assert (((table.mean(0) - e) / error)[live].abs() < 4.5).all(), name
    assert max(float(e.abs().max()) for e in exact) > 0.02


def test_conditions_are_compared_with_their_own() -> None:
    """Energy distance, two conditions: the cost of a row is the witness among its condition's rows and reference samples."""
    inner = PathKL(coefficient=0.5)
    world = world_of(
        {"path_kl": inner, "terminal": Terminal(weight=WEIGHT, samples=10)}, train_conditions=(0, 1), group=4
    )
    experience = Reinforce(baseline="none").collect(world, 0)
    out = experience.trajectory
    y, cond = reference_samples(world, 10)
    expected, total = torch.zeros(24).double(), 0.0
    assert len(out.cond.unique()) == 2
    for c in (0, 1):
        a, b = out.sample[out.cond == c].double(), y[cond == c].double()
        assert len(b) == 5
        expected[out.cond == c] = WEIGHT * witness_advantage(energy(a, a), energy(a, b))
        total += len(a) * mmd(energy(a, a), energy(a, b), energy(b, b)).item() / 24
    assert experience.logs["penalty/terminal"] == pytest.approx(total, rel=1e-10)
    assert experience.logs["penalty/coefficient"] == 0.5
    world = replace(world, penalties=penalties(inner))
    plain = Reinforce(baseline="none").collect(world, 0)
    for got, before in (
        (experience.initial_advantage, plain.initial_advantage),
        *zip(experience.advantage.T, plain.advantage.T, strict=True),
    ):
        torch.testing.assert_close(got, before - expected, rtol=1e-10, atol=1e-12)


def test_the_reference_is_drawn_once_with_noise_of_its_own() -> None:
    """Its samples are the reference's on the stream REFERENCE, a run draws them once, and its rows are counted once."""
    world = world_of()
    first, second = (Reinforce().collect(world, k) for k in (0, 1))
    (penalty,) = world.penalties.each()
    y = penalty.drawn[0]
    noise = Noise(0, Stream.REFERENCE)
    alone = rollout(
        world.reference, world.reference, noise.of(0, range(64)), torch.zeros(64, dtype=torch.long), batch=64
    )
    torch.testing.assert_close(y, alone.sample.double(), rtol=1e-12, atol=1e-12)
    assert first.evaluations - second.evaluations == 64 * 4
    assert not dict(world.penalties.state_dict()), "nothing that a checkpoint needs"
    again = world_of()
    Reinforce().collect(again, 3)
    assert torch.equal(next(again.penalties.each()).drawn[0], y), "a resumed run has the same ones"


def test_the_median_bandwidth() -> None:
    """Of three points 0, 2, 9 the distances are 2, 7, 9: the median is 7, their mean 6."""
    y = torch.tensor([[0.0], [2.0], [9.0]]).double()
    x = torch.tensor([[0.5], [1.5], [2.5], [9.0]]).double()
    got, _ = Terminal(kernel="rbf").compare(x, y)
    expected, _ = Terminal(kernel="rbf", bandwidth=7.0).compare(x, y)
    torch.testing.assert_close(got, expected)
    assert rbf(x, y, 2.0)[0, 0] == pytest.approx(torch.tensor(-0.5 * 0.25**2).exp().item())


def test_what_failed_costs_nothing_and_two_processes_agree() -> None:
    def make() -> World:
        penalty = {
            "path_kl": PathKL(coefficient=0.5), "terminal": Terminal(weight=WEIGHT, samples=16),
            "trust_region": TrustRegion(limit=0.1),
        }  # fmt: skip
        world = world_of(penalty, train_conditions=(0, 1), reward=Failing(Bowl(), above=-0.4), max_failed=0.99)
        return PPO().equip(world)

    algorithm, alone = PPO(), make()
    experience = algorithm.collect(alone, 0)
    failed = ~experience.measured
    assert 0 < int(failed.sum()) < 20
    assert torch.equal(experience.advantage[failed], torch.zeros_like(experience.advantage[failed]))
    one, two = Share().run(make, algorithm, 1)
    for name, g in gradient(alone, algorithm, experience).items():
        torch.testing.assert_close(one[f"0/{name}"] + two[f"0/{name}"], g, rtol=1e-10, atol=1e-12)


def test_what_it_cannot_do_is_refused() -> None:
    for wrong in ({"weight": 0.0}, {"samples": 1}, {"bandwidth": 1.0}, {"kernel": "rbf", "bandwidth": 0.0}):
        with pytest.raises(ValueError, match="a bandwidth, above 0, goes with kernel=rbf"):
            Terminal(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"set plan\.group to 3 or more"):
        Reinforce().collect(world_of(train_conditions=(0, 1), samples=4, group=2), 0)


def test_a_trained_policy_ends_at_the_optimum_of_the_closed_form(tmp_path: Path) -> None:
    """A linear reward on a line: max over m and s of m - D(N(m, s^2), N(0, t^2)), t^2 the reference chain's variance, by
    gradient ascent on the closed form of the energy distance. Samples' mean of the last 30 iterations: known to .02, the
    1024 reference samples to .03."""
    module = fitted(
        tmp_path, *POINTS, "trainer=reinforce", "penalty=[path_kl,terminal]", "penalty.path_kl.coefficient=0",
        "penalty.terminal.samples=1024", "policy.steps=3", "plan.samples=128", "plan.group=128", "plan.iterations=150",
        "plan.checkpoint_every=150", "optimizer.lr=0.04", "optimizer.final_lr=0.0", "optimizer.clip_norm=0",
        "plan.pass_size=4096",
    )  # fmt: skip
    chain, variance = affine_chain(module.world.reference, torch.tensor([0])), 1.0
    for h, std in enumerate(chain.std.tolist()):
        variance = chain.gain[0, h, 0, 0].item() ** 2 * variance + std**2
    best = torch.tensor([0.5, 0.0], dtype=torch.float64, requires_grad=True)  # m, log s
    for _ in range(500):
        (slope,) = torch.autograd.grad(best[0] - closed("energy", best[0], best[1].exp(), (0.0, variance**0.5)), best)
        best = (best + 0.1 * slope).detach().requires_grad_()
    rows = module.history[-30:]
    assert sum(row["reward"] for row in rows) / 30 == pytest.approx(best[0].item(), abs=0.08)


def test_resuming_is_bitwise(tmp_path: Path) -> None:
    small = (
        *POINTS,
        "penalty=mmd",
        "plan.samples=16",
        "plan.group=4",
        "plan.iterations=3",
        "penalty.terminal.samples=8",
    )
    whole = fitted(tmp_path / "whole", *small)
    fitted(tmp_path / "cut", *small, "plan.iterations=2")
    resumed = fitted(tmp_path / "cut", *small, f"resume={tmp_path / 'cut'}")
    assert equal(dict(resumed.policy.named_parameters()), dict(whole.policy.named_parameters()))
    assert int(resumed.evaluations) == int(whole.evaluations)
    assert resumed.history[-1]["penalty/terminal"] == whole.history[-1]["penalty/terminal"]
    assert distance(whole.weights[-1], whole.weights[0]) > 0
