"""Noise at a window of steps, the rest by the ODE of the tuned network: where it lies, what is sampled, the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from pgdlab.diffusion.kernels import DDIM, Chain, NoiseAt
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.schedules import Flow
from pgdlab.penalties.path_kl import PathKL
from pgdlab.rewards.dense import EveryStep
from pgdlab.rollout.plan import AllSteps, NoiseWindow
from pgdlab.trainers.ppo import PPO
from pgdlab.trainers.reinforce import Reinforce
from tests.exact import quadratic, steps_of
from tests.tiny import FastNoise, Quadratic, moved, planned, tiny_policy, tiny_world
from tests.trainers.test_gradient import FOUR_ERRORS, QUADRATIC, SAMPLES, estimated

T, ETA, LAM = 5, 0.7, 0.6
WINDOW = NoiseWindow(size=2, start=1, stop=3)  # of the stochastic steps 0 to 3; there is one place for it
G = torch.Generator


def start() -> tuple[Policy, Policy]:
    """A policy whose every step is moved, the deterministic last one too, and its reference."""
    policy = tiny_policy(ETA, times=T)
    reference = policy.reference()
    return moved(policy), reference


def test_a_window_lies_anywhere_in_its_range() -> None:
    g, stochastic = G().manual_seed(0), [0, 1, 2, 4, 5, 6]
    window = NoiseWindow(size=2, start=1, stop=6)
    drawn = {tuple(window.of(i, stochastic, g)) for i in range(200)}
    assert drawn == {(1, 2), (2, 4), (4, 5)}
    assert NoiseWindow(size=6).of(3, stochastic, g) == stochastic
    assert window.scale(6, 2) == 1.0


def test_a_window_moves_on() -> None:
    """By its stride, after every so many iterations, and from the start again."""
    g, stochastic = G().manual_seed(0), [0, 1, 2, 3, 4, 5]
    window = NoiseWindow(size=3, every=2, stride=2)
    assert [window.of(i, stochastic, g)[0] for i in range(8)] == [0, 0, 2, 2, 0, 0, 2, 2]
    assert window.of(2, stochastic, g) == [2, 3, 4]
    assert [NoiseWindow(size=5, every=1).of(i, stochastic, g)[0] for i in range(3)] == [0, 1, 0]


def test_windows_that_hold_nothing_are_refused() -> None:
    for name, value in {"size": 0, "start": -1, "every": -1, "stride": 0}.items():
        with pytest.raises(ValueError, match=f"{name} is {value}; it must be at least"):
            NoiseWindow(**{name: value})
    with pytest.raises(ValueError, match=r"size is 3, and from 2 to 4 are 2 of the stochastic steps \[0, 1, 2, 3\]"):
        NoiseWindow(size=3, start=2, stop=4).of(0, [0, 1, 2, 3], G())
    with pytest.raises(ValueError, match=r"steps are \[1, 4\]; they must be among 0 to 3"):
        Chain.of(Flow(), NoiseAt(kernel=DDIM(), steps=(1, 4)), 4)


def test_the_steps_between_are_those_of_the_ode() -> None:
    flow = Flow()
    mixed, loud, ode = (
        Chain.of(flow, kernel, 5)
        for kernel in (NoiseAt(kernel=DDIM(eta=0.5), steps=(1, 2)), DDIM(eta=0.5), DDIM(eta=0.0))
    )
    for h in range(5):
        for name in ("from_x", "from_x0", "std"):
            assert getattr(mixed, name)[h] == getattr(loud if h in (1, 2) else ode, name)[h]


def tuned_step(h: int, x: Tensor, policy: Policy, eta: float) -> tuple[Tensor, float]:
    """Mean and std of a step of the policy by the paper's formula, at states x."""
    c, t = steps_of(T, eta, torch.zeros(2, dtype=torch.float64), 0.5)[h], T - 1 - h
    shift, gain = policy.denoiser.shift[t].detach(), policy.denoiser.gain[t].detach()
    return c.from_x * x + c.from_x0 * (c.a0 * x + c.b0 + shift + gain * x), c.std


def test_the_other_steps_are_the_tuned_networks() -> None:
    """By the paper's formula from the initial state to the sample, with the moved weights at every step; and scored exactly."""
    policy, reference = start()
    world = tiny_world(policy, reference, penalty=PathKL(coefficient=LAM), trained_steps=WINDOW)
    trajectory = Reinforce().collect(world, 0).trajectory
    assert trajectory.trained == (1, 2)
    close = {"rtol": 1e-5, "atol": 1e-5}  # diffusers' betas are fp32
    x = tuned_step(0, trajectory.initial, policy, 0.0)[0]
    for k, h in enumerate(trajectory.trained):
        stored = trajectory.states[:, trajectory.stored_at[h]]
        torch.testing.assert_close(stored, x, **close)
        mean, std = tuned_step(h, stored, policy, ETA)
        x = trajectory.states[:, trajectory.stored_at[h + 1]]
        expected = Independent(Normal(mean, std), 1).log_prob(x)
        torch.testing.assert_close(trajectory.log_prob[:, k].detach(), expected, rtol=1e-4, atol=1e-4)
    for h in (3, 4):
        x = tuned_step(h, x, policy, 0.0)[0]
    torch.testing.assert_close(trajectory.sample, x, **close)
    assert (trajectory.kl.detach()[:, [1, 2]] > 0).all()
    assert (trajectory.kl.detach()[:, [0, 3, 4]] == 0).all()


def closed_form(policy: Policy) -> Tensor:
    """J of the mixed sampler: moments through all steps, the deterministic ones with the tuned weights, KL of the window."""
    zero = torch.zeros(2, dtype=torch.float64)
    noisy, ode = steps_of(T, ETA, zero, 0.5), steps_of(T, 0.0, zero, 0.5)
    m, v, total = zero, torch.ones(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for h in range(T):
        c, off, slant = (
            (noisy if h in (1, 2) else ode)[h],
            policy.denoiser.shift[T - 1 - h],
            policy.denoiser.gain[T - 1 - h],
        )
        if c.std > 0:
            total = total - LAM * c.from_x0**2 * ((off + slant * m).square() + slant.square() * v).sum() / (
                2 * c.std**2
            )
        k = c.from_x + c.from_x0 * (c.a0 + slant)
        m, v = k * m + c.from_x0 * (c.b0 + off), k.square() * v + c.std**2
    return total + quadratic(m, v, **QUADRATIC)


@pytest.mark.parametrize("form", ["A", "B"])
def test_the_gradient_of_the_windows_steps_is_exact(form: str) -> None:
    """Against the derivative of the closed form; the others' steps move J too, and are not differentiated."""
    policy, reference = start()
    world = tiny_world(
        policy, reference, penalty=PathKL(coefficient=LAM, form=form), noise=FastNoise(3), samples=SAMPLES,  # type: ignore[arg-type]
        trained_steps=WINDOW,
    )  # fmt: skip
    names = ["denoiser.shift", "denoiser.gain"]
    parameters = [dict(policy.named_parameters())[name] for name in names]
    expected = dict(zip(names, torch.autograd.grad(closed_form(policy), parameters), strict=True))
    inside, outside = [T - 1 - h for h in (1, 2)], [T - 1 - h for h in (0, 3, 4)]
    for name, (mean, error) in estimated(world, Reinforce()).items():
        off = (mean - expected[name]) / error
        assert off[inside].abs().max() < FOUR_ERRORS
        assert torch.equal(mean[outside], torch.zeros(3, 2, dtype=torch.float64))
        assert expected[name][outside].abs().max() > 0.05


def test_ppo_replays_what_the_window_scored() -> None:
    """The full kernel's coefficients at those steps are the window's: the ratio of the untouched policy is 1."""
    policy, reference = start()
    world = tiny_world(policy, reference, trained_steps=WINDOW)
    algorithm = PPO(epochs=2, minibatches=1)
    experience = algorithm.collect(world, 0)
    (piece,) = algorithm.micro_batches(experience, 0, world)
    total, count = algorithm.loss(experience, piece, world).logs["log_ratio_abs"]
    assert count == 2 * world.plan.samples
    assert float(total) < 1e-12 * count


def test_what_a_window_costs() -> None:
    """The policy at every step, the reference at those of the window where a penalty compares, at all where a reward looks at
    estimates; and that is what is counted."""
    for penalty, reward, referred in (
        (None, None, 0),
        (PathKL(coefficient=LAM), None, 2),
        (None, EveryStep(reward=Quadratic()), T),
    ):
        policy, reference = start()
        world = tiny_world(policy, reference, penalty=penalty, reward=reward, trained_steps=WINDOW)
        counted = Reinforce().collect(world, 0).evaluations
        assert policy.denoiser.rows == T * world.plan.samples
        assert reference.denoiser.rows == referred * world.plan.samples
        assert counted == (T + referred) * world.plan.samples


def test_the_initial_distribution_alone_keeps_all_noise() -> None:
    """Where the denoiser is frozen there is no window to train."""
    policy = tiny_policy(ETA, times=T, denoiser=False, rho=True)
    world = tiny_world(policy, noise=FastNoise(0), trained_steps=WINDOW)
    alone = Reinforce().collect(world, 0).trajectory.sample
    assert torch.equal(alone, Reinforce().collect(planned(world, trained_steps=AllSteps()), 0).trajectory.sample)


def test_a_window_that_does_not_fit_is_refused_before_sampling() -> None:
    world = tiny_world(tiny_policy(ETA, times=T), trained_steps=NoiseWindow(size=5))
    with pytest.raises(ValueError, match=r"size is 5, and from 0 to the end are 4 of the stochastic steps"):
        Reinforce().refuse(world)
