"""Kernels for flows against their published steps in fp64, and the marginals that they keep or do not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.flow_scheduler import DiffusersFlow
from pgdlab.diffusion.kernels import CPS, DDIM, Chain, Dance, FlowSDE, Kernel, Noisy
from pgdlab.diffusion.schedules import Cosine, Flow, Schedule
from tests.tiny import tiny_schedule

EXACT = {"rtol": 1e-12, "atol": 1e-12}
Published = Callable[
    [Tensor, Tensor, Tensor, Tensor, float], Tensor
]  # x, velocity, noise, sigmas (now, next, second) -> next x


def flow_grpo(x: Tensor, v: Tensor, z: Tensor, sigmas: Tensor, level: float) -> Tensor:
    """As its program writes it: sigma_max is the grid's second sigma."""
    sigma, after, largest = sigmas
    dt = after - sigma
    std = (sigma / (1 - torch.where(sigma == 1, largest, sigma))).sqrt() * level
    mean = x * (1 + std**2 / (2 * sigma) * dt) + v * (1 + std**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean + std * (-dt).sqrt() * z


def dance(x: Tensor, v: Tensor, z: Tensor, sigmas: Tensor, level: float) -> Tensor:
    """By the score of the state given the estimate."""
    sigma, after, _ = sigmas
    dt = after - sigma
    score = -(x - (1 - sigma) * (x - sigma * v)) / sigma**2
    return x + dt * v - 0.5 * level**2 * score * dt + level * (-dt).sqrt() * z


def cps(x: Tensor, v: Tensor, z: Tensor, sigmas: Tensor, eta: float) -> Tensor:
    """Estimates of data and of noise, put together again."""
    sigma, after, _ = sigmas
    std = after * math.sin(eta * math.pi / 2)
    return (x - sigma * v) * (1 - after) + (x + v * (1 - sigma)) * (after**2 - std**2).sqrt() + std * z


PUBLISHED: dict[str, tuple[Callable[[float], Noisy], Published, tuple[float, ...]]] = {
    "flow_grpo": (lambda a: FlowSDE(level=a, quiet=0.0), flow_grpo, (0.0, 0.7, 1.4)),
    "dance": (lambda a: Dance(level=a, quiet=0.0), dance, (0.0, 0.3, 1.0)),
    "cps": (lambda a: CPS(eta=a, quiet=0.0), cps, (0.0, 0.7, 1.0)),
}
GRIDS = [Flow(), Flow(shift=3.0), Flow(sigmas=(1.0, 0.95, 0.6, 0.278, 0.009, 0.0)), Flow(sigmas=(0.99, 0.4, 0.0))]


def step(chain: Chain, h: int, x: Tensor, v: Tensor, z: Tensor) -> Tensor:
    x0 = x - chain.times[h] * v
    return chain.from_x[h] * x + chain.from_x0[h] * x0 + chain.std[h] * z


@pytest.mark.parametrize("grid", range(len(GRIDS)))
@pytest.mark.parametrize("name", PUBLISHED)
def test_steps_are_the_published_ones(name: str, grid: int) -> None:
    made, published, sizes = PUBLISHED[name]
    flow = GRIDS[grid]
    steps = 10 if flow.sigmas is None else len(flow.sigmas) - 1
    times, generator = flow.times(steps), torch.Generator().manual_seed(0)
    for size in sizes:
        chain = Chain.of(flow, made(size), steps)
        for h in range(steps):
            x, v, z = torch.randn(3, 7, generator=generator, dtype=torch.float64)
            now = torch.stack([times[h], times[h + 1], times[1]])
            torch.testing.assert_close(step(chain, h, x, v, z), published(x, v, z, now, size), **EXACT)


STEPS = {
    "cps": (CPS(quiet=0.0), 0.0), "ddim": (DDIM(quiet=0.0), 0.0), "ddim half": (DDIM(eta=0.5, quiet=0.0), 0.0),
    "flow": (FlowSDE(quiet=0.0), 1.0), "dance": (Dance(quiet=0.0), 1.0), "ode": (FlowSDE(level=0.0, quiet=0.0), 0.0),
}  # fmt: skip


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", STEPS)
def test_marginals_given_the_data(name: str, shift: float) -> None:
    """N((1 - sigma) x0, sigma^2) goes to the next of these: the mean exactly; the variance exactly for what is coupled, and with
    d^2 (q + q^2 / 4) too much for Euler-Maruyama, q = g^2 / sigma read off the std."""
    kernel, excess = STEPS[name]
    flow = Flow(shift=shift)
    t = flow.times(10)
    from_x, from_x0, std = kernel.coefficients(flow, t[:-1], t[1:])
    torch.testing.assert_close(from_x * (1 - t[:-1]) + from_x0, 1 - t[1:], **EXACT)
    d = t[:-1] - t[1:]
    q = std**2 / d / t[:-1]
    expected = t[1:] ** 2 + excess * d**2 * (q + q**2 / 4)
    torch.testing.assert_close(from_x**2 * t[:-1] ** 2 + std**2, expected, **EXACT)


def test_the_first_step_of_flow_grpo_has_the_level_as_std() -> None:
    """Also where a solver's grid begins a millionth below 1."""
    for first in (1.0, 1 - 1e-6):
        std = Chain.of(Flow(sigmas=(first, 0.8, 0.5, 0.0)), FlowSDE(level=0.7), 3).std
        assert std[0].item() == pytest.approx(0.7, rel=1e-5)
    # 1,000 even steps: the second begins at .999 in earnest
    assert Chain.of(Flow(), FlowSDE(level=0.7), 1000).std[1].item() == pytest.approx(0.7 * 0.999**0.5, rel=1e-9)


def test_small_steps_of_flow_grpo_are_ddims() -> None:
    """level = eta sqrt 2; to first order in the step."""
    t = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    ours = DDIM(eta=0.5, quiet=0.0).coefficients(Flow(), t, t - 1e-4)
    theirs = FlowSDE(level=0.5 * 2**0.5, quiet=0.0).coefficients(Flow(), t, t - 1e-4)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("kernel", [DDIM(), CPS(), FlowSDE(), Dance()])
def test_no_noise_near_the_data(kernel: Noisy) -> None:
    """On the end of Stable Diffusion 3's grid the last two steps, which are those of the ODE; the rest is as it was."""
    flow = Flow(sigmas=(1.0, 0.95, 0.6, 0.278, 0.009, 0.0))
    chain, loud = Chain.of(flow, kernel, 5), Chain.of(flow, type(kernel)(quiet=0.0), 5)
    ode = Chain.of(flow, DDIM(eta=0.0), 5)
    assert (chain.std > 0).tolist() == [True, True, True, False, False]
    for name in ("from_x", "from_x0", "std"):
        got = getattr(chain, name)
        assert torch.equal(got[:3], getattr(loud, name)[:3])
        assert torch.equal(got[3:], getattr(ode, name)[3:])
    assert loud.std[3] > 0


def test_a_sigma_of_a_tenth_is_noisy() -> None:
    """1 - 9 / 10 is a little less in floating point."""
    assert 1 - 0.9 < 0.1
    assert (Chain.of(Flow(sigmas=(1.0, 0.5, 1 - 0.9, 0.0)), DDIM(), 3).std > 0).tolist() == [True, True, False]
    assert (Chain.of(Flow(), DDIM(quiet=0.35), 10).std > 0).sum() == 6


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_other_schedules_keep_all_their_noise(eta: float) -> None:
    """Unless they are told otherwise."""
    for schedule, steps in ((Cosine(), 20), (tiny_schedule(10), 10)):
        chain, loud = (Chain.of(schedule, DDIM(eta=eta, quiet=quiet), steps) for quiet in (None, 0.0))
        assert schedule.sigma(chain.times)[-2] < 0.35
        assert (chain.std[:-1] > 0).all()
        assert all(torch.equal(getattr(chain, n), getattr(loud, n)) for n in ("from_x", "from_x0", "std"))
        assert (Chain.of(schedule, DDIM(eta=eta, quiet=0.35), steps).std[-2:] == 0).all()


def kl(kernel: Kernel, schedule: Schedule, steps: int) -> Tensor:
    """Of the noisy steps, where the network's output changes by as much at every step: |from_x0 sigma / std|^2."""
    chain = Chain.of(schedule, kernel, steps)
    return (chain.from_x0 * chain.times[:-1] / chain.std).square()[chain.std > 0]


@pytest.mark.parametrize(("steps", "share", "times"), [(10, 0.997, 500), (28, 0.97, 30)])
def test_the_trap_of_stable_diffusion_3s_grid(steps: int, share: float, times: float) -> None:
    """The step into .009 has 99.8 % of all KL with 10 steps, 97.5 % with 28. Without its noise all is 550, 39 times less."""
    flow = DiffusersFlow.read({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    for loud, calm in ((DDIM(quiet=0.0), DDIM()), (CPS(quiet=0.0), CPS())):
        all_of_it = kl(loud, flow, steps)
        assert all_of_it[-1] / all_of_it.sum() > share
        assert all_of_it.sum() / kl(calm, flow, steps).sum() > times


@pytest.mark.parametrize("kernel", [FlowSDE(), Dance()])
def test_an_sde_of_flows_is_refused_elsewhere(kernel: Noisy) -> None:
    for schedule in (Cosine(), tiny_schedule(4)):
        with pytest.raises(ValueError, match=r"the SDE of a flow, and the schedule \(.*\) is none: take .*DDIM or CPS"):
            Chain.of(schedule, kernel, 4)


def test_sizes_outside_are_refused() -> None:
    for value in (-0.1, 1.1, 1e-5, float("nan")):
        with pytest.raises(ValueError, match=f"eta is {value}; it must be 0 .*, or 0.001 to 1"):
            CPS(eta=value)
    for kind in (FlowSDE, Dance):
        for value in (-0.1, 1e-5, float("inf"), float("nan")):
            with pytest.raises(ValueError, match=f"level is {value}; it must be 0 .*, or 0.001 or more"):
                kind(level=value)
    for value in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=f"quiet is {value}; it must be a sigma"):
            DDIM(quiet=value)
