"""REINFORCE with the path KL against the exact gradient of a linear-Gaussian chain, away from every optimum.

The reward is quadratic: a linear one cannot expose a missing state-distribution term.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.returns import reward_to_go
from pgdlab.penalties.base import Penalty
from pgdlab.penalties.path_kl import PathKL
from pgdlab.rewards.dense import EveryStep
from pgdlab.rollout.sampler import Extras, rollout
from pgdlab.rollout.trajectory import Trajectory
from pgdlab.trainers.experience import Experience, MicroBatch
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.world import World
from tests.exact import objective
from tests.tiny import FastNoise, Quadratic, gradient, moved, tiny_policy, tiny_world

SAMPLES, CHUNKS = 100_000, 50
LAM, LAM0 = 0.6, 0.25
FOUR_ERRORS = 4.5  # of at most 20 numbers: one in 7,000 seeds would fail by chance
QUADRATIC = {"slope": torch.tensor([1.0, -0.5]).double(), "curvature": torch.tensor([0.8, 0.3]).double()}


def start(eta: float, denoiser: bool = True, rho: bool = False) -> tuple[Policy, Policy]:
    policy = tiny_policy(eta, denoiser=denoiser, rho=rho)
    reference = policy.reference()
    return moved(policy), reference


def exact(
    policy: Policy, eta: float, lam: float, lam0: float, every: float | None = None, gamma: float = 1.0
) -> dict[str, Tensor]:
    """The gradient of J by autograd through its closed form, for what the policy trains."""
    zero = torch.zeros(2, dtype=torch.float64)
    rho = {name: getattr(policy.initial, name, zero) for name in ("mean", "log_scale")}
    j = objective(
        policy.denoiser.shift, policy.denoiser.gain, rho["mean"], rho["log_scale"], eta=eta, lam=lam, lam0=lam0,
        every=every, gamma=gamma, **QUADRATIC,
    )  # fmt: skip
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    return dict(zip(trained, torch.autograd.grad(j, list(trained.values()), allow_unused=True), strict=True))


def estimated(world: World, algorithm: Reinforce) -> dict[str, tuple[Tensor, Tensor]]:
    """Minus the gradient of the loss, and its standard error, from independent chunks of one huge batch."""
    experience = algorithm.collect(world, 0)
    (whole,) = algorithm.micro_batches(experience, 0, world)
    trained = {name: p for name, p in world.policy.named_parameters() if p.requires_grad}
    each: dict[str, list[Tensor]] = {name: [] for name in trained}
    for piece in cut(whole, experience):
        loss = algorithm.loss(experience, piece, world).value
        for name, g in zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True):
            each[name].append(-g)
    stacked = {name: torch.stack(g) for name, g in each.items()}
    return {name: (g.mean(0), g.std(0) / CHUNKS**0.5) for name, g in stacked.items()}


def cut(whole: MicroBatch, experience: Experience) -> list[MicroBatch]:
    """The pass over all rows as passes over parts of the rows."""
    trained, size = len(experience.trajectory.trained), SAMPLES // CHUNKS
    out = []
    for i in range(CHUNKS):
        pairs, rows = (slice(i * size * n, (i + 1) * size * n) for n in (trained, 1))
        part = None if whole.pairs is None else experience.trajectory.pairs(whole.pairs.index[pairs])
        out.append(MicroBatch(part, None if whole.rows is None else whole.rows[rows], size))
    return out


def errors(world: World, expected: dict[str, Tensor], **settings: Any) -> Tensor:
    """(estimate - expected) / standard error of every parameter that has a gradient; exact zeros must be exact."""
    out = []
    for name, (mean, error) in estimated(world, Reinforce(**settings)).items():
        dead = error == 0  # the last step's parameters: it is deterministic and the reference's
        assert torch.equal(mean[dead], torch.zeros_like(mean[dead]))
        assert torch.equal(expected[name][dead], torch.zeros_like(mean[dead]))
        out.append(((mean - expected[name]) / error)[~dead])
    return torch.cat(out)


def world_of(policy: Policy, reference: Policy, penalty: Penalty, **more: Any) -> World:
    return tiny_world(policy, reference, penalty=penalty, noise=FastNoise(3), samples=SAMPLES, **more)


class WithoutReturn(PathKL):
    """(a) The KL as a loss term only."""

    def return_cost(self, trajectory: Trajectory) -> Tensor:
        return torch.zeros_like(super().return_cost(trajectory))


class WithoutDerivative(PathKL):
    """(b) The exact KL in the return only: a step's own KL depends on its state alone and acts as a baseline."""

    def loss_term(self, kl: Tensor) -> Tensor:
        return 0 * kl


class OwnStepTwice(PathKL):
    """(c) Form A plus the own step's log-ratio in the return."""

    def return_cost(self, trajectory: Trajectory) -> Tensor:
        out = super().return_cost(trajectory)
        out[:, 1:] += self.coefficient * trajectory.log_ratio
        return out


class OwnStepAsBaseline(PathKL):
    """The exact KL of the own step too, in the return: nothing is lost but variance."""

    def return_cost(self, trajectory: Trajectory) -> Tensor:
        out = super().return_cost(trajectory)
        out[:, 1:] = self.coefficient * reward_to_go(trajectory.kl)
        return out


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_both_forms_agree_with_the_exact_gradient_and_the_wrong_ones_do_not(eta: float) -> None:
    """A KL without gradient is wrong, and so is one that is a loss term alone, without its part in the return."""
    policy, reference = start(eta)
    expected = exact(policy, eta, LAM, LAM)
    right = [PathKL(coefficient=LAM), PathKL(coefficient=LAM, form="B"), OwnStepAsBaseline(coefficient=LAM)]
    for penalty in right:
        assert errors(world_of(policy, reference, penalty), expected).abs().max() < FOUR_ERRORS
    for wrong in (WithoutReturn, WithoutDerivative, OwnStepTwice):
        off = errors(world_of(policy, reference, wrong(coefficient=LAM)), expected).abs().max()
        assert off > 2 * FOUR_ERRORS, f"the test could not tell {wrong.__name__} from the truth"


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize(("denoiser", "eta"), [(False, 0.0), (False, 0.5), (True, 0.5)])
def test_the_initial_distribution(form: Any, denoiser: bool, eta: float) -> None:
    """Mean and scale of rho: alone under an ODE, alone under a stochastic sampler, jointly; lambda_0 of its own.
    Few steps and a small eta: there rho matters."""
    policy, reference = start(eta, denoiser=denoiser, rho=True)
    expected = exact(policy, eta, LAM, LAM0)
    penalty = PathKL(coefficient=LAM, initial_coefficient=LAM0, form=form)
    assert errors(world_of(policy, reference, penalty), expected).abs().max() < FOUR_ERRORS
    wrong = PathKL(coefficient=LAM, form=form)  # lambda_0 = lambda
    assert errors(world_of(policy, reference, wrong), expected).abs().max() > 2 * FOUR_ERRORS


def test_without_a_penalty() -> None:
    policy, reference = start(0.5, rho=True)
    expected = exact(policy, 0.5, 0.0, 0.0)
    assert errors(world_of(policy, reference, None), expected).abs().max() < FOUR_ERRORS


def test_rewards_of_intermediate_states() -> None:
    """Action h is paid for state h + 1, through the reference's estimate, and credited with what follows."""
    policy, reference = start(1.0, rho=True)
    expected = exact(policy, 1.0, LAM, LAM, every=0.5)
    world = world_of(policy, reference, PathKL(coefficient=LAM))
    world = replace(world, reward=EveryStep(reward=Quadratic(), weight=0.5))
    assert errors(world, expected).abs().max() < FOUR_ERRORS


@pytest.mark.parametrize("kind", ["none", "mean", "group"])
def test_baselines_do_not_change_the_expectation(kind: Any) -> None:
    """The batch mean shrinks by 1e-5 here, which is nothing; groups of 4 are leave-one-out."""
    policy, reference = start(1.0)
    expected = exact(policy, 1.0, LAM, LAM)
    assert (
        errors(world_of(policy, reference, PathKL(coefficient=LAM)), expected, baseline=kind).abs().max() < FOUR_ERRORS
    )


def test_the_exact_objective_itself_by_simulation() -> None:
    """J and its derivative by finite differences of a simulation with common random numbers: no gradient code."""
    eta, noise, n = 0.5, FastNoise(5), 100_000
    policy, reference = start(eta, rho=True)
    expected, trained = exact(policy, eta, LAM, LAM0), dict(policy.named_parameters())
    cond, reward = torch.zeros(n, dtype=torch.long), Quadratic()

    def paid() -> Tensor:
        out = rollout(policy, reference, noise.of(0, range(n)), cond, batch=n, extras=Extras(reference=True))
        return reward.score(out.sample, cond).value - LAM * out.kl.sum(1)

    for name, at in (
        ("denoiser.shift", (3, 0)),
        ("denoiser.gain", (2, 1)),
        ("initial.mean", (0,)),
        ("initial.log_scale", (1,)),
    ):
        p, step = trained[name].data, 1e-4
        p[at] += step
        up = paid()
        p[at] -= 2 * step
        each = (up - paid()) / (2 * step)  # quadratic in most: the error of the difference is 1e-8
        p[at] += step
        if name == "initial.mean":
            each = each - LAM0 * p[at]
        if name == "initial.log_scale":
            each = each - LAM0 * ((2 * p[at]).exp() - 1)
        assert (each.mean() - expected[name][at]).abs() < FOUR_ERRORS * each.std() / n**0.5 + 1e-6


def test_batch_std_multiplies_reward_and_kl_alike() -> None:
    """One scalar on the whole objective, rho's terms included, so the gradient keeps its direction."""
    policy, reference = start(0.5, rho=True)
    world = tiny_world(policy, reference, penalty=PathKL(coefficient=LAM, initial_coefficient=LAM0), samples=64)
    plain, algorithm = gradient(world, Reinforce()), Reinforce(scale="batch_std")
    scaled, scalar = gradient(world, algorithm), algorithm.collect(world, 0).objective_scale
    assert scalar != 1
    for name in plain:
        torch.testing.assert_close(scaled[name], scalar * plain[name], rtol=1e-12, atol=1e-14)
