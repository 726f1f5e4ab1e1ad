"""DDIM's Gaussian against generic conditioning of the joint distribution, for three kinds of schedule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.schedules import Schedule
from tests.exact import steps_of
from tests.tiny import tiny_schedule

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # fp64, numbers of size one


class Table(Schedule):
    """A schedule given by its numbers; time t is the t-th."""

    def __init__(self, alpha: list[float], sigma: list[float]) -> None:
        self.alphas, self.sigmas = (torch.tensor(x, dtype=torch.float64) for x in (alpha, sigma))

    def alpha(self, t: Tensor) -> Tensor:
        return self.alphas[t]

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigmas[t]

    def times(self, steps: int) -> Tensor:
        return torch.arange(steps, -1, -1)

    def spread(self, u: Tensor) -> Tensor:
        return (u * len(self.alphas)).long()

    @property
    def initial_std(self) -> float:
        return float(self.sigmas[-1])


PRESERVING = Table([0.999, 0.9, 0.7, 0.2], [(1 - a * a) ** 0.5 for a in (0.999, 0.9, 0.7, 0.2)])
EXPLODING = Table([1.0, 1.0, 1.0, 1.0], [0.01, 0.5, 3.0, 80.0])
FLOW = Table([0.99, 0.8, 0.5, 0.1], [0.01, 0.2, 0.5, 0.9])
SCHEDULES = {"vp": PRESERVING, "ve": EXPLODING, "flow": FLOW}


def posterior(schedule: Table, t: int, s: int) -> tuple[Tensor, Tensor]:
    """(coefficients of x_t and x_0, variance) of x_s | x_t, x_0, from the covariance of (x_s, x_t, x_0) alone.

    x_0 ~ N(0, 1), x_s = alpha_s x_0 + sigma_s e, and x_t = (alpha_t / alpha_s) x_s + fresh noise: cov(x_s, x_t) =
    (alpha_t / alpha_s) var x_s.
    """
    a, g = schedule.alphas, schedule.sigmas
    keep, var_s, var_t = a[t] / a[s], a[s] ** 2 + g[s] ** 2, a[t] ** 2 + g[t] ** 2
    given = torch.stack([torch.stack([var_t, a[t]]), torch.stack([a[t], torch.ones_like(var_t)])])
    cross = torch.stack([keep * var_s, a[s]])
    weights = torch.linalg.solve(given, cross)
    return weights, var_s - cross @ weights


@pytest.mark.parametrize("name", SCHEDULES)
def test_eta_one_is_the_posterior(name: str) -> None:
    schedule, t = SCHEDULES[name], torch.tensor([3, 2, 1])
    from_x, from_x0, std = DDIM(eta=1.0).coefficients(schedule, t, t - 1)
    for row, i in enumerate(t.tolist()):
        weights, var = posterior(schedule, i, i - 1)
        # VE: 1 - (.01/80)^2 ... is solved from numbers of size 6400
        torch.testing.assert_close(torch.stack([from_x[row], from_x0[row]]), weights, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(std[row] ** 2, var, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_marginals_are_kept_for_any_eta(name: str, eta: float) -> None:
    """x_t ~ N(alpha_t x_0, sigma_t^2) goes to x_s ~ N(alpha_s x_0, sigma_s^2)."""
    schedule, t = SCHEDULES[name], torch.tensor([3, 2, 1, 3])
    s = torch.tensor([2, 1, 0, 0])
    from_x, from_x0, std = DDIM(eta=eta).coefficients(schedule, t, s)
    torch.testing.assert_close(from_x * schedule.alpha(t) + from_x0, schedule.alpha(s), **EXACT)
    torch.testing.assert_close(from_x**2 * schedule.sigma(t) ** 2 + std**2, schedule.sigma(s) ** 2, **EXACT)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_std_is_eta_times_the_posteriors(eta: float) -> None:
    for schedule in SCHEDULES.values():
        t = torch.tensor([3, 2, 1])
        std = DDIM(eta=eta).coefficients(schedule, t, t - 1)[2]
        torch.testing.assert_close(std, eta * DDIM(eta=1.0).coefficients(schedule, t, t - 1)[2], **EXACT)
        assert std.dtype == torch.float64


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_against_the_papers_formula(eta: float) -> None:
    """tests.exact writes Song et al.'s equations in alpha-bar; diffusers' betas are fp32, hence 1e-6."""
    schedule = tiny_schedule(4)
    times = schedule.times(4)
    got = torch.stack(DDIM(eta=eta).coefficients(schedule, times[:-1], times[1:]), 1)
    expected = [[c.from_x, c.from_x0, c.std] for c in steps_of(4, eta, torch.zeros(1), 0.5)]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_the_last_step_is_exactly_deterministic() -> None:
    """No floor: a step to the noise-free time has std 0, and one that stays where it is does nothing."""
    schedule = tiny_schedule(4)
    times = schedule.times(4)
    from_x, from_x0, std = DDIM(eta=1.0).coefficients(schedule, times[:-1], times[1:])
    assert std[-1] == 0
    assert from_x[-1] == 0
    assert from_x0[-1] == 1
    from_x, from_x0, std = DDIM(eta=1.0).coefficients(schedule, torch.tensor([2]), torch.tensor([2]))
    assert (from_x.item(), from_x0.item(), std.item()) == (1, 0, 0)


@pytest.mark.parametrize("eta", [-0.1, 1.1, 5e-324, 1e-5, float("nan")])
def test_eta_outside_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=f"eta is {eta}; it must be 0 .*, or 0.001 to 1"):
        DDIM(eta=eta)
