"""The sweep against autograd through the whole sampler, unrolled, and against the slope of exact values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.schedules import Cosine
from pgdlab.diffusion.space import Dense
from pgdlab.domains.points import Gaussian
from pgdlab.functional.gaussian import kl_same_std
from pgdlab.oracle import linear_gaussian
from pgdlab.rollout.memory import Capacity
from pgdlab.rollout.sampler import Extras, rollout
from pgdlab.rollout.sweep import Sweep
from pgdlab.rollout.trajectory import Trajectory
from tests.tiny import FastNoise

LAM = 0.3


class Bent(Denoiser):
    """A small network in fp64: nothing about its Jacobian is constant or symmetric."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.schedule = Cosine()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).double()

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.network(torch.cat([x, t[:, None].to(x)], 1))

    def frozen(self) -> Denoiser:
        raise AssertionError


def chain(seed: int, steps: int, quiet: float) -> Policy:
    space = Dense((2,))
    initial = Standard(space=space, num_conditions=1, std=1.0).double()
    return Policy(Bent(seed), space, initial, DDIM(eta=0.8, quiet=quiet), steps)


def sampled(policy: Policy, reference: Policy, rows: int = 5) -> Trajectory:
    noise = FastNoise(0).of(0, range(rows))
    trained = policy.stochastic_steps[1::2]  # some of them: the sweep goes through all
    return rollout(
        policy, reference, noise, torch.zeros(rows, dtype=torch.long), batch=3, trained=trained,
        extras=Extras(states=True),
    )  # fmt: skip


def reward(x: Tensor) -> Tensor:
    return (x[:, 0] * x[:, 1]).sin() + x[:, 0].square()


def unrolled(policy: Policy, reference: Policy, trajectory: Trajectory, cost: bool) -> list[Tensor]:
    """d J / d s_h of every state, J the reward minus LAM times the KLs, by autograd through the chain of one graph: the noise is
    what the stored states say that it was."""
    states = [trajectory.states[:, h].clone() for h in range(policy.steps + 1)]
    x, seen, total = states[0].requires_grad_(), [states[0]], torch.zeros(())
    for h in range(policy.steps):
        at = torch.full((len(x),), h)
        noisy = h in policy.stochastic_steps
        g, pre = policy(x, at, trajectory.cond), reference(x, at, trajectory.cond)
        mean = g.mean if noisy else pre.mean
        if noisy and cost:
            total = total - LAM * ((g.mean - pre.mean) / g.std).square().sum() / 2
        x = mean + (states[h + 1] - mean).detach()
        seen.append(x)
    return list(torch.autograd.grad(total + reward(x).sum(), seen))


@pytest.mark.parametrize("steps", range(1, 11))
@pytest.mark.parametrize("quiet", [0.0, 0.4])  # the last steps have no noise: they are the reference's
@pytest.mark.parametrize("cost", [True, False])
def test_the_full_adjoint_is_autograd_through_the_unrolled_chain(steps: int, quiet: float, cost: bool) -> None:
    policy, reference = chain(1, steps, quiet), chain(2, steps, quiet)
    trajectory = sampled(policy, reference)
    expected = unrolled(policy, reference, trajectory, cost)
    sweep = Sweep(policy=policy, reference=reference, lean=False, cost=(lambda kl: LAM * kl) if cost else None)
    found = sweep.carry(trajectory, expected[-1], down_to=0, capacity=Capacity(pass_size=2))
    torch.testing.assert_close(found.first, expected[0], rtol=1e-12, atol=1e-12)
    for k, h in enumerate(trajectory.trained):
        torch.testing.assert_close(found.after[:, k], expected[h + 1], rtol=1e-12, atol=1e-12)
    noisy = len(policy.stochastic_steps)
    assert found.rows == 5 * (steps + noisy * cost)


@pytest.mark.parametrize("steps", range(1, 11))
def test_the_lean_adjoint_is_autograd_through_the_reference_at_the_policys_states(steps: int) -> None:
    """With the reference as the policy of the unrolled chain, at states that another policy has sampled."""
    policy, reference = chain(1, steps, 0.0), chain(2, steps, 0.0)
    trajectory = sampled(policy, reference)
    expected = unrolled(reference, reference, trajectory, cost=False)
    found = Sweep(policy=policy, reference=reference, lean=True).carry(
        trajectory, expected[-1], down_to=0, capacity=Capacity(pass_size=9)
    )
    torch.testing.assert_close(found.first, expected[0], rtol=1e-12, atol=1e-12)
    for k, h in enumerate(trajectory.trained):
        torch.testing.assert_close(found.after[:, k], expected[h + 1], rtol=1e-12, atol=1e-12)
    assert found.rows == 5 * steps


def test_a_sweep_may_end_at_the_first_step_that_is_asked_for() -> None:
    policy, reference = chain(1, 6, 0.0), chain(2, 6, 0.0)
    trajectory = sampled(policy, reference)
    whole = unrolled(policy, reference, trajectory, cost=False)
    found = Sweep(policy=policy, reference=reference, lean=False).carry(
        trajectory, whole[-1], down_to=3, capacity=Capacity(pass_size=9)
    )
    torch.testing.assert_close(found.first, whole[3], rtol=1e-12, atol=1e-12)
    assert found.rows == 5 * 3


def test_memory_that_runs_out_halves_the_rows_once() -> None:
    """The next sweep begins with the rows that were left."""
    policy, reference = chain(1, 4, 0.0), chain(2, 4, 0.0)
    trajectory, asked = sampled(policy, reference), []

    class Small(Sweep):
        def back(self, x: Tensor, h: int, cond: Tensor, a: Tensor) -> Any:
            asked.append(len(x))
            if len(x) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().back(x, h, cond, a)

    gradient, left = torch.ones(5, 2, dtype=torch.float64), Capacity(pass_size=9)
    sweep = Small(policy=policy, reference=reference, lean=True)
    with pytest.warns(UserWarning, match="memory has run out") as said:
        small = sweep.carry(trajectory, gradient, down_to=0, capacity=left)
    large = Sweep(policy=policy, reference=reference, lean=True).carry(
        trajectory, gradient, down_to=0, capacity=Capacity(pass_size=9)
    )
    torch.testing.assert_close(small.after, large.after, rtol=1e-12, atol=1e-12)
    assert [str(one.message).partition(":")[0] for one in said] == [
        f"memory has run out in a pass of {rows} rows" for rows in (5, 3)
    ]
    assert asked == [5, 3, *[2] * 8, *[1] * 4]  # of 4 steps each
    assert left.pass_size == 2
    asked.clear()
    sweep.carry(trajectory, gradient, down_to=0, capacity=left)
    assert max(asked) == 2


def test_what_is_not_finite_is_said() -> None:
    policy = chain(1, 4, 0.0)
    gradient = torch.full((5, 2), torch.inf, dtype=torch.float64)
    with pytest.raises(ValueError, match="not finite once it is carried back"):
        Sweep(policy=policy, reference=policy, lean=True).carry(
            sampled(policy, policy), gradient, down_to=0, capacity=Capacity(pass_size=9)
        )


class Affine(Denoiser):
    """Estimates gain_h x + shift_h at the h-th of some times."""

    def __init__(self, base: Denoiser, times: Tensor, gain: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.schedule, self.times = base.schedule, times
        self.gain, self.shift = nn.Parameter(gain, requires_grad=False), nn.Parameter(shift, requires_grad=False)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        h = (self.times[None] - t[:, None]).abs().argmin(1)
        return torch.einsum("pij,pj->pi", self.gain[h], x) + self.shift[h]

    def frozen(self) -> Denoiser:
        raise AssertionError


@pytest.mark.parametrize("eta", [1.0, 0.5])
@pytest.mark.parametrize("lean", [True, False])
def test_at_the_optimum_the_mean_adjoint_is_the_slope_of_the_value(eta: float, lean: bool) -> None:
    """V_h is quadratic, so that its slope is known at every state: 2 P x + q. The residual's mean is 0, by its standard error."""
    domain = Gaussian(mean=(0.5, -0.5), covariance=((1.0, 0.6), (0.6, 0.8)))
    space, rows = Dense((2,)), 20_000
    initial = Standard(space=space, num_conditions=1, std=1.0).double()
    reference = Policy(domain.base(), space, initial, DDIM(eta=eta), 6)
    cond = torch.zeros(1, dtype=torch.long)
    slope, curvature = torch.tensor([1.0, 0.5]).double(), torch.tensor([0.8, 0.3]).double().diag()
    problem = linear_gaussian.Problem(linear_gaussian.affine_chain(reference, cond), slope, curvature, LAM, LAM)
    best = linear_gaussian.optimum(problem)
    from_x, from_x0 = reference.from_x[:, None, None], reference.from_x0[:, None, None]
    gain = (best.chain.gain[0] - from_x * torch.eye(2).double()) / from_x0
    tuned = Affine(domain.base(), reference.times[:-1], gain, best.chain.shift[0] / from_x0[:, 0])
    policy = Policy(tuned, space, initial, DDIM(eta=eta), 6)
    trajectory = rollout(
        policy, reference, FastNoise(1).of(0, range(rows)), torch.zeros(rows, dtype=torch.long), batch=rows,
        trained=policy.stochastic_steps, extras=Extras(states=True),
    )  # fmt: skip
    gradient = slope - 2 * trajectory.sample @ curvature
    sweep = Sweep(policy=policy, reference=reference, lean=lean, cost=None if lean else lambda kl: LAM * kl)
    found = sweep.carry(trajectory, gradient, down_to=0, capacity=Capacity(pass_size=rows))
    for k, h in enumerate(trajectory.trained):
        value, x = best.functions[h + 1], trajectory.states[:, h + 1]
        off = found.after[:, k] - (2 * x @ value.p[0] + value.q[0])
        for weight in (torch.ones(rows, 1).double(), x[:, :1], x[:, 1:]):  # given the state, not only on average
            each = off * weight
            assert (each.mean(0).abs() < 4.5 * each.std(0) / rows**0.5 + 1e-12).all(), h


def test_the_kl_of_the_unrolled_chain_is_the_packages() -> None:
    """The test's own KL above, against kl_same_std."""
    policy, reference = chain(1, 3, 0.0), chain(2, 3, 0.0)
    x, at, cond = torch.randn(4, 2).double(), torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long)
    g, pre = policy(x, at, cond), reference(x, at, cond)
    own = ((g.mean - pre.mean) / g.std).square().sum(1) / 2
    torch.testing.assert_close(own, kl_same_std(g.mean, pre.mean, g.std, policy.space, cond), rtol=1e-12, atol=0)
