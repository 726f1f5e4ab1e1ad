"""The space of centred atoms against torch.distributions on an orthonormal basis, and the denoiser in it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pgdlab.diffusion.atoms import AtomDenoiser, Atoms
from pgdlab.diffusion.denoisers import ClassifierFreeGuidance
from pgdlab.diffusion.initial import Conditional, Diagonal, InitialDistribution, Shared
from pgdlab.diffusion.kernels import DDIM, Chain
from pgdlab.diffusion.schedules import Cosine
from pgdlab.diffusion.tuning import Network
from pgdlab.functional.gaussian import Gaussian, kl, log_prob

SPACE = Atoms(6, 2)
SIZES = torch.tensor([1, 2, 3, 4, 5, 6])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def helmert(n: int) -> Tensor:
    """n - 1 orthonormal rows, each orthogonal to (1, ..., 1): (1, ..., 1, -k, 0, ...) / sqrt(k (k + 1))."""
    rows = torch.zeros(n - 1, n, dtype=torch.float64)
    for k in range(1, n):
        rows[k - 1, :k], rows[k - 1, k] = 1, -k
        rows[k - 1] /= (k * (k + 1)) ** 0.5
    return rows


def free(x: Tensor, n: int) -> Tensor:
    """The degrees of freedom of one row, as independent numbers."""
    return torch.cat([x[:n, :2].flatten(), (helmert(n) @ x[:n, 2:]).flatten()])


def gaussian(seed: int) -> Gaussian:
    """A mean in the space; a std for each feature, and one for all coordinates."""
    std = torch.tensor([0.7, 1.9, *[0.4] * 3], dtype=torch.float64) * draw(6, 1, 1, seed=seed).exp()
    return Gaussian(SPACE.project(draw(6, 6, 5, seed=seed + 1), SIZES), std.expand(6, 6, 5))


def reduced(g: Gaussian, row: int, n: int) -> Normal:
    std = torch.cat([g.std[row, :n, :2].flatten(), g.std[row, 0, 2].expand(3 * (n - 1))])
    return Normal(free(g.mean[row], n), std)


@pytest.mark.parametrize("one", [True, False])
def test_log_probabilities_are_those_of_the_degrees_of_freedom(one: bool) -> None:
    """one: a std for a whole row, as a step of the sampler has."""
    g = gaussian(1)
    given = Gaussian(g.mean, draw(6, 1, 1, seed=7).exp()) if one else g
    g = Gaussian(g.mean, given.std.expand(6, 6, 5))
    x = g.sample(SPACE.project(draw(6, 6, 5, seed=5), SIZES))
    got = log_prob(given, x, SPACE, SIZES)
    for row, n in enumerate(SIZES.tolist()):
        exact = reduced(g, row, n).log_prob(free(x[row], n))
        assert len(exact) == 2 * n + 3 * (n - 1)
        torch.testing.assert_close(got[row], exact.sum(), rtol=1e-12, atol=1e-12)


def test_divergences_are_those_of_the_degrees_of_freedom() -> None:
    p, q = gaussian(1), gaussian(11)
    got = kl(p, q, SPACE, SIZES)
    for row, n in enumerate(SIZES.tolist()):
        exact = kl_divergence(reduced(p, row, n), reduced(q, row, n)).sum()
        torch.testing.assert_close(got[row], exact, rtol=1e-12, atol=1e-12)


def test_projected_noise_is_white_on_the_subspace() -> None:
    """It keeps every component of white noise along the basis, and has none beside it."""
    noise = draw(6, 6, 5)
    kept = SPACE.project(noise, SIZES)
    for row, n in enumerate(SIZES.tolist()):
        torch.testing.assert_close(free(kept[row], n), free(noise[row], n), rtol=1e-12, atol=1e-12)
        assert kept[row, :n, 2:].sum(0).abs().max() < 1e-14
        assert kept[row, n:].abs().sum() == 0
    torch.testing.assert_close(SPACE.project(kept, SIZES), kept, rtol=0, atol=1e-14)


def test_padding_does_not_count() -> None:
    g, x = gaussian(1), gaussian(3).mean
    wide = Atoms(9, 2)
    padded = Gaussian(*(torch.nn.functional.pad(a, (0, 0, 0, 3), value=7.0) for a in (g.mean, g.std)))
    junk = torch.nn.functional.pad(x, (0, 0, 0, 3), value=-3.0)
    a, b = log_prob(g, x, SPACE, SIZES), log_prob(padded, junk, wide, SIZES)
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    dirty = x + 50.0 * (torch.arange(6)[:, None] >= SIZES[:, None, None])
    torch.testing.assert_close(log_prob(g, dirty, SPACE, SIZES), a, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", [Shared, Diagonal, Conditional])
def test_initial_distributions_stay_in_the_space(kind: type[InitialDistribution]) -> None:
    """Samples are centred and masked whatever the parameters are; shared ones are the same for all atoms."""
    rho = kind(space=SPACE, num_conditions=7, std=1.0).double()
    with torch.no_grad():
        for number, p in enumerate(rho.parameters()):
            p += 0.3 * draw(*p.shape, seed=number)
        g = rho(SIZES)
        x = g.sample(SPACE.project(draw(6, 6, 5), SIZES))
    torch.testing.assert_close(SPACE.project(x, SIZES), x, rtol=0, atol=1e-13)
    assert (g.std[:, :, 2:] - g.std[:, :1, 2:3]).abs().max() < 1e-15, "one scale for all coordinates"
    assert (g.std[:, 0].std(1) > 1e-3).all()
    assert g.mean[5, 0, :2].abs().min() > 1e-3, "features have a mean"
    apart = max((g.std[5] - g.std[5, :1]).abs().max(), (g.mean[5] - g.mean[5, :1]).abs().max())
    assert (apart < 1e-15) == (kind is Shared)


# ---- the denoiser


def denoiser() -> AtomDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        d = AtomDenoiser(SPACE, Cosine(), hidden=16, layers=2).double()
        for layer in d.network.layers:
            torch.nn.init.normal_(layer.pull[-1].weight)  # type: ignore[union-attr,index]
    return d


X = SPACE.project(2 * draw(6, 6, 5, seed=9), SIZES)
T = torch.linspace(0.02, 0.98, 6, dtype=torch.float64)


@torch.no_grad()
def test_estimates_are_in_the_space_and_turn_with_the_state() -> None:
    turn, _ = torch.linalg.qr(draw(3, 3, seed=4))
    x0 = denoiser()(X, T, SIZES)
    assert x0[..., 2:].sum(1).abs().max() < 1e-12
    torch.testing.assert_close(SPACE.project(x0, SIZES), x0, rtol=1e-12, atol=1e-12)
    turned = denoiser()(torch.cat([X[..., :2], X[..., 2:] @ turn.T], 2), T, SIZES)
    torch.testing.assert_close(turned[..., :2], x0[..., :2], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(turned[..., 2:], x0[..., 2:] @ turn.T, rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_the_network_gives_v() -> None:
    """x = alpha x0 + sigma noise and v = alpha noise - sigma x0 turn back: x0 = alpha x - sigma v, noise = sigma x + alpha v.
    So the loss, whatever x0 is, is the mean squared error of v."""
    d, x0, noise = denoiser(), X, SPACE.project(draw(6, 6, 5, seed=6), SIZES)
    alpha, sigma = (f(T)[:, None, None] for f in (d.schedule.alpha, d.schedule.sigma))
    noisy = alpha * x0 + sigma * noise
    log_snr = (alpha**2 / sigma**2).log().flatten()
    v = SPACE.project(torch.cat(d.network(noisy[..., :2], noisy[..., 2:], log_snr, SPACE.real(SIZES)), 2), SIZES)
    expected = (v - (alpha * noise - sigma * x0)).square().flatten(1).mean(1)
    torch.testing.assert_close(d.loss(noisy, x0, T, SIZES), expected, rtol=1e-9, atol=1e-10)


def test_a_hidden_condition_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the size of a sample.*policy.guidance=1"):
        ClassifierFreeGuidance(denoiser(), 2.0, 7)


def test_a_frozen_copy_is_apart() -> None:
    d = denoiser()
    frozen = d.frozen()
    assert not any(p.requires_grad for p in frozen.parameters())
    with torch.no_grad():
        before = frozen(X, T, SIZES)
        next(d.network.parameters()).add_(1.0)
        assert torch.equal(frozen(X, T, SIZES), before)
        assert not torch.equal(d(X, T, SIZES), before)


def test_states_may_be_more_precise_than_the_network() -> None:
    """Under a correction, which is fp64, a network of fp32 sees them rounded."""
    d = denoiser()
    exact = d(X, T, SIZES)
    found = d.float()(X, T, SIZES)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)  # thousands of fp32 operations on numbers of size 1


def test_a_correction_stays_in_the_space() -> None:
    """policy=network adds a perceptron's output to the estimate, which knows nothing of centres and padding."""
    chain = Chain.of(Cosine(), DDIM(), 4)
    tuned = Network(hidden=8).apply(denoiser(), chain, SPACE, 7).double()
    with torch.no_grad():
        for number, p in enumerate(tuned.parameters()):
            p += 0.1 * draw(*p.shape, seed=number)
        x0, base = tuned(X, T, SIZES), tuned.frozen()(X, T, SIZES)
    assert (x0 - base).abs().max() > 1e-3
    torch.testing.assert_close(SPACE.project(x0, SIZES), x0, rtol=1e-12, atol=1e-12)
