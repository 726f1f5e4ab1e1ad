"""Straight lines from noise to data: their schedule, and what a network for them gives out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pgdlab.certificates.cells import run
from pgdlab.certificates.certificate import Cell, row
from pgdlab.diffusion.analytic import Mixture
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM, Chain
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.predictions import estimate_of
from pgdlab.diffusion.residual import units
from pgdlab.diffusion.schedules import Flow
from pgdlab.diffusion.space import Dense
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import rollout
from pgdlab.trainers.denoising import noisy
from pgdlab.training.checks import examine
from tests.worlds import recorder

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # fp64, numbers of size one
GRID = (1.0, 0.8, 0.3, 0.0)


def test_states_are_on_the_line() -> None:
    """The derivative with respect to sigma is what the network gives out, noise - x0; so the way back is exact in one step."""
    flow, x0 = Flow(sigmas=GRID), torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    noise = torch.tensor([[0.5, 3.0]], dtype=torch.float64)
    t = flow.times(3)[1:2]
    mix = Mixture(flow, torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    x = noisy(mix, x0, t, noise)
    torch.testing.assert_close(x, 0.2 * x0 + 0.8 * noise, **EXACT)
    alpha, sigma = flow.alpha(t)[:, None], flow.sigma(t)[:, None]
    torch.testing.assert_close(estimate_of(flow.prediction_type, x, noise - x0, alpha, sigma), x0, **EXACT)


def test_each_prediction_is_undone() -> None:
    """x0 comes back from what a perfect network would give out."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    angle = torch.linspace(0.2, 1.3, 5, dtype=torch.float64)[:, None]
    alpha, sigma = angle.cos(), angle.sin()
    x = alpha * x0 + sigma * noise
    for kind, out in {"epsilon": noise, "v_prediction": alpha * noise - sigma * x0, "sample": x0}.items():
        torch.testing.assert_close(estimate_of(kind, x, out, alpha, sigma), x0, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r"predicts 'velocity'; it must be one of epsilon, .*flow_prediction"):
        estimate_of("velocity", x, x0, alpha, sigma)


def test_a_grid_that_is_handed_over_is_kept() -> None:
    assert tuple(Flow(sigmas=GRID).times(3).tolist()) == GRID
    with pytest.raises(ValueError, match=r"steps is 4; the grid of sigmas that was handed over has 3"):
        Flow(sigmas=GRID).times(4)
    assert Flow(sigmas=list(GRID)) == Flow(sigmas=GRID)


def test_an_even_grid_is_shifted() -> None:
    """By 3: 1/2 -> 1.5 / 2, 1/4 -> .75 / 1.5; the ends stay."""
    assert Flow().times(4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    torch.testing.assert_close(
        Flow(shift=3.0).times(4)[1:4], torch.tensor([0.9, 0.75, 0.5], dtype=torch.float64), **EXACT
    )
    assert Flow(shift=3.0).times(4)[[0, -1]].tolist() == [1, 0]


@pytest.mark.parametrize("grid", [(1.0,), (1.0, 0.5), (1.2, 0.0), (1.0, 0.3, 0.5, 0.0), (1.0, float("nan"), 0.0), ()])
def test_what_is_no_grid_is_refused(grid: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"sigmas are .*must fall from 1 at most to 0"):
        Flow(sigmas=grid)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("inf"), float("nan")])
def test_a_shift_of_nothing_is_refused(shift: float) -> None:
    with pytest.raises(ValueError, match=f"shift is {shift}; it must be above 0"):
        Flow(shift=shift)


def test_times_of_training_have_noise() -> None:
    """The loss is divided by sigma^2; and its expectation weighs all of (0, 1), shifted as the sampler's grid is."""
    u = torch.linspace(0, 1 - 2**-24, 10_001, dtype=torch.float64)
    for shift in (1.0, 3.0):
        t = Flow(shift=shift).spread(u)
        assert 0 < t.min() < 4e-3
        assert 1 - 1e-6 < t.max() <= 1
        # half of them are above the shifted half
        assert t.median().item() == pytest.approx(shift / 2 / (1 + (shift - 1) / 2), abs=1e-3)


def test_the_loss_is_the_error_of_the_velocity() -> None:
    """(x0 - x0hat) / sigma is the difference of the two velocities."""
    flow, generator = Flow(), torch.Generator().manual_seed(0)
    mix = Mixture(flow, torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    x0, noise = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)
    t, cond = flow.spread(torch.rand(6, generator=generator)), torch.zeros(6).long()
    x = noisy(mix, x0, t, noise)
    velocity = (x - mix(x, t, cond)) / t[:, None]
    expected = (velocity - (noise - x0)).square().mean(1)
    torch.testing.assert_close(mix.loss(x, x0, t, cond), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_ode_of_a_gaussian(shift: float) -> None:
    """Data N(m, s^2): the map of the ODE is x -> m + s x whatever the path between; 400 steps of first order are 1 % off."""
    mean, spread, steps = 1.3, 0.5, 400
    flow, space = Flow(shift=shift), Dense((1,))
    covariance = torch.full((1, 1, 1), spread**2)
    policy = Policy(
        Mixture(flow, torch.ones(1), torch.full((1, 1), mean), covariance), space,
        Standard(space=space, num_conditions=1, std=flow.initial_std), DDIM(eta=0.0), steps,
    )  # fmt: skip
    got = rollout(policy, policy, Noise(0).of(0, range(64)), torch.zeros(64).long(), batch=64)
    torch.testing.assert_close(got.sample, mean + spread * got.initial, rtol=0, atol=0.02)


def test_the_doctor_finds_a_flow_in_order() -> None:
    """Ratio, densities and KL of the whole program, on a grid that was handed over."""
    schedule = "domain.schedule={_target_: pgdlab.diffusion.schedules.Flow, sigmas: [1, 0.8, 0.3, 0]}"
    made = recorder("experiment=oracle/quadratic", schedule, "policy.steps=3", "plan.samples=32", "plan.group=4")[0]
    assert {c.verdict for c in examine(made)} == {"ok"}


def test_training_on_a_flow_reaches_the_optimum(tmp_path: Path) -> None:
    """Of the chain as Flow-GRPO's SDE samples it, in closed form. Measured: .010."""
    words = [
        "experiment=oracle/flow",
        "plan.iterations=150",
        "plan.checkpoint_every=150",
        "policy.steps=6",
        "optimizer.lr=4e-2",
    ]
    done = run(words, ["trainer=reinforce", "trainer.baseline=group"], 0, 10, tmp_path)
    gap = row("flow", "", Cell([done], 0.0)).gap
    assert gap is not None
    assert -1e-9 < gap.mean < 0.03, gap


def test_the_noise_unit_of_a_flow_is_its_velocitys() -> None:
    """A correction of 1 is a change of the network's output by 1: x0 = x - sigma v. sigma / alpha has no value at sigma 1."""
    flow = Flow(sigmas=GRID)
    mix = Mixture(flow, torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    got = units("noise", mix, Chain.of(flow, DDIM(), 3))
    torch.testing.assert_close(got, torch.tensor(GRID[:3], dtype=torch.float64), **EXACT)
