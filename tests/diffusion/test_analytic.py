"""Exact denoisers against Tweedie's formula on torch.distributions, and corrections against what their units promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from pgdlab.diffusion.analytic import Mixture, Points
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.initial import Diagonal, Standard
from pgdlab.diffusion.kernels import DDIM, Chain
from pgdlab.diffusion.policy import Policy, build_policy
from pgdlab.diffusion.residual import Unit, units
from pgdlab.diffusion.schedules import Cosine
from pgdlab.diffusion.space import Dense
from pgdlab.diffusion.tuning import Affine, LoRA, Network, Tuning
from pgdlab.functional.gaussian import kl
from tests.tiny import tiny_schedule

G = torch.Generator().manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=G, dtype=torch.float64)


def covariances(count: int, size: int) -> Tensor:
    half = draw(count, size, size)
    return half @ half.mT + 0.1 * torch.eye(size)


def tweedie(weights: Tensor, means: Tensor, covariance: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """E[x0 | x_t] = (x_t + sigma^2 grad log p_t(x_t)) / alpha (Robbins 1956; Efron 2011), p_t from torch.distributions."""
    schedule, out = Cosine(), []
    for row, time in zip(x, t, strict=True):
        alpha, sigma = schedule.alpha(time[None]).item(), schedule.sigma(time[None]).item()
        noisy = alpha**2 * covariance + sigma**2 * torch.eye(x.shape[1], dtype=torch.float64)
        p = MixtureSameFamily(Categorical(weights), MultivariateNormal(alpha * means, noisy))
        at = row.clone().requires_grad_()
        (score,) = torch.autograd.grad(p.log_prob(at), at)
        out.append((row + sigma**2 * score) / alpha)
    return torch.stack(out)


@pytest.mark.parametrize(("components", "size"), [(1, 1), (1, 3), (3, 1), (4, 2), (2, 5)])
def test_mixtures_are_tweedies_formula(components: int, size: int) -> None:
    weights, means, cov = draw(components).exp(), draw(components, size), covariances(components, size)
    x, t = 2 * draw(6, size), torch.tensor([0.999, 0.8, 0.5, 0.3, 0.1, 0.01]).double()
    denoiser = Mixture(Cosine(), weights, means, cov)
    # two algebraically equal forms in fp64; sigma^2 / alpha amplifies rounding at both ends
    torch.testing.assert_close(denoiser(x, t, t), tweedie(weights, means, cov, x, t), rtol=1e-8, atol=1e-8)
    assert denoiser.frozen() is denoiser


def test_a_finite_set_is_a_mixture_of_points() -> None:
    points, x, t = draw(7, 2), draw(5, 2), torch.tensor([0.9, 0.7, 0.5, 0.2, 0.05]).double()
    mixture = Mixture(Cosine(), torch.ones(7), points, torch.zeros(7, 2, 2))
    torch.testing.assert_close(Points(Cosine(), points)(x, t, t), mixture(x, t, t), rtol=1e-9, atol=1e-9)
    near = Points(Cosine(), points)(points + 1e-4, torch.full((7,), 0.01).double(), t)
    torch.testing.assert_close(near, points, rtol=0, atol=1e-6)  # almost no noise: the nearest point


def test_images_may_be_points() -> None:
    points = draw(4, 1, 3, 3)
    out = Points(Cosine(), points)(draw(2, 1, 3, 3), torch.tensor([0.5, 0.1]).double(), torch.zeros(2))
    assert out.shape == (2, 1, 3, 3)


def test_what_is_no_mixture_is_refused() -> None:
    one = torch.ones(1)
    for weights, means, cov in (
        (-one, torch.zeros(1, 1), torch.ones(1, 1, 1)),
        (one, torch.zeros(1, 2), torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])),
        (one, torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])),
    ):
        with pytest.raises(ValueError, match=r"weights|covariance"):
            Mixture(Cosine(), weights, means, cov)
    with pytest.raises(ValueError, match="empty"):
        Points(Cosine(), torch.zeros(0, 2))


def base() -> Denoiser:
    return Mixture(Cosine(), torch.ones(2), torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.2 * torch.eye(2).expand(2, 2, 2))


def policy(tuning: Tuning, eta: float = 0.8) -> Policy:
    space = Dense((2,))
    return build_policy(
        denoiser=base(), space=space, initial=Standard(space=space, num_conditions=3, std=1.0), unconditional=3,
        kernel=DDIM(eta=eta), tuning=tuning, steps=6,
    )  # fmt: skip


TUNINGS = [Affine(), Network(), Network(separate=False), Affine(unit="x0"), Network(unit="noise")]


@pytest.mark.parametrize("tuning", TUNINGS, ids=repr)
def test_corrections_start_at_zero_and_only_they_train(tuning: Tuning) -> None:
    p = policy(tuning)
    x, h, cond = draw(12, 2), torch.arange(6).repeat(2), torch.arange(12) % 3
    torch.testing.assert_close(p(x, h, cond).mean, p.reference()(x, h, cond).mean, rtol=0, atol=0)
    assert {n.split(".")[1] for n, q in p.denoiser.named_parameters(prefix="d") if q.requires_grad} == {"correction"}
    p(x, h, cond).mean.sum().backward()
    assert any(q.grad is not None and q.grad.abs().sum() > 0 for q in p.parameters())


def test_in_units_of_std_a_correction_of_one_is_half_a_nat() -> None:
    p = policy(Affine())
    with torch.no_grad():
        p.denoiser.correction.bias.fill_(1.0)  # type: ignore[union-attr, operator]
    x, h, cond = draw(6, 2), torch.arange(6), torch.zeros(6, dtype=torch.long)
    nats = kl(p(x, h, cond), p.reference()(x, h, cond), p.space, cond)
    # ||f||^2 / 2 with two coordinates of 1, at every step
    torch.testing.assert_close(nats, torch.ones(6).double(), rtol=1e-10, atol=0)


@pytest.mark.parametrize(("unit", "expected"), [("x0", 1.0), ("noise", None), ("std", 0.0)])
def test_units_at_a_deterministic_step(unit: Unit, expected: float | None) -> None:
    denoiser = Mixture(tiny_schedule(), torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    chain = Chain.of(denoiser.schedule, DDIM(), 4)
    assert chain.std[-1] == 0
    got = units(unit, denoiser, chain)
    t = chain.times[-2:-1]
    wanted = (denoiser.schedule.sigma(t) / denoiser.schedule.alpha(t)).item() if expected is None else expected
    assert got[-1].item() == pytest.approx(wanted, abs=1e-12)
    assert got.isfinite().all()


def test_affine_corrections_are_of_their_own_step_and_condition() -> None:
    p = policy(Affine())
    correction = p.denoiser.correction
    with torch.no_grad():
        correction.weight[1, 4] = torch.tensor([[0.0, 2.0], [0.0, 0.0]])  # type: ignore[union-attr, index]
    x, h = draw(18, 2), torch.arange(6).repeat(3)
    cond = torch.arange(3).repeat_interleave(6)
    moved = (p(x, h, cond).mean - p.reference()(x, h, cond).mean) / p.std[h][:, None]
    wanted = torch.zeros(18, 2).double()
    wanted[10, 0] = 2 * x[10, 1]  # condition 1, step 4
    torch.testing.assert_close(moved, wanted, rtol=1e-8, atol=1e-9)


def test_adapters_are_for_networks() -> None:
    with pytest.raises(ValueError, match="policy=network"):
        policy(LoRA())


def test_a_diagonal_of_each_condition() -> None:
    rho = Diagonal(space=Dense((2,)), num_conditions=2, std=1.5, per_condition=True)
    with torch.no_grad():
        rho.mean[1] = torch.tensor([1.0, -1.0])
        rho.log_scale[0] = torch.tensor([0.0, 0.7])
    g = rho(torch.tensor([1, 0]))
    torch.testing.assert_close(g.mean, torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    torch.testing.assert_close(g.std, 1.5 * torch.tensor([[0.0, 0.0], [0.0, 0.7]]).exp())


def test_the_cosine_schedule() -> None:
    schedule = Cosine(alpha_min=0.01, sigma_min=0.1)
    times = schedule.times(5)
    assert (times.diff() < 0).all()
    assert schedule.alpha(times[:1]).item() == pytest.approx(0.01)
    assert schedule.sigma(times[-1:]).item() == pytest.approx(0.1)
    torch.testing.assert_close(schedule.alpha(times) ** 2 + schedule.sigma(times) ** 2, torch.ones(6).double())
    spread = schedule.spread(torch.tensor([0.0, 0.999]))
    assert times[-1] <= spread.min() < spread.max() <= times[0]
    with pytest.raises(ValueError, match="alpha_min"):
        Cosine(alpha_min=0.9, sigma_min=0.9)
    with pytest.raises(ValueError, match="steps"):
        schedule.times(0)
