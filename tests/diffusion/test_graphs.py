"""Graphs as one-hot vectors: degrees of freedom, symmetry, the single posteriors, the loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from pgdlab.diffusion.graphs import GraphDenoiser, Graphs
from pgdlab.diffusion.initial import Shared
from pgdlab.diffusion.schedules import Cosine
from pgdlab.functional.gaussian import Gaussian, kl, log_prob

SPACE = Graphs(9, 4, 4)
SHARES, BOND_SHARES = (0.7, 0.15, 0.1, 0.05), (0.7, 0.2, 0.07, 0.03)
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # sums of at most 180 fp64 terms
# thousands of fp64 operations in a network whose activations are of size 1
NETWORK = {"rtol": 1e-9, "atol": 1e-9}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def small(seed: int = 0, moved: bool = True, space: Graphs = SPACE) -> GraphDenoiser:
    """A small network in fp64; moved: its last layers are not 0."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        d = GraphDenoiser(
            space, Cosine(), shares=SHARES, bond_shares=BOND_SHARES, valence=(4, 3, 2, 1), width=24, pair_width=12,
            heads=3, layers=2,
        ).double()  # fmt: skip
        if moved:
            for p in d.parameters():
                torch.nn.init.normal_(p, std=0.3)
    return d


def coordinates(n: int) -> Tensor:
    """Which packed coordinates a graph of n nodes has, from the definition: loops over nodes and pairs."""
    nodes = [node < n for node in range(9) for _ in range(4)]
    pairs = [j < n for i in range(9) for j in range(i + 1, 9) for _ in range(4)]
    return torch.tensor(nodes + pairs)


@pytest.mark.parametrize("n", range(1, 10))
@pytest.mark.parametrize("stds", [1, 180])
def test_densities_count_every_atom_and_every_pair_once(n: int, stds: int) -> None:
    """stds: one a row, as a step of the sampler has, or one a coordinate."""
    own, cond = coordinates(n), torch.full((3,), n)
    assert int(own.sum()) == 4 * n + 4 * n * (n - 1) // 2
    mean, one, x = draw(3, 180, seed=1), draw(3, stds, seed=2).exp(), draw(3, 180, seed=3)
    std = one.expand(3, 180)
    packed = Independent(Normal(mean[:, own], std[:, own]), 1)
    torch.testing.assert_close(log_prob(Gaussian(mean, one), x, SPACE, cond), packed.log_prob(x[:, own]), **EXACT)
    other = Gaussian(draw(3, 180, seed=4), draw(3, 180, seed=5).exp())
    expected = kl_divergence(packed, Independent(Normal(other.mean[:, own], other.std[:, own]), 1))
    torch.testing.assert_close(kl(Gaussian(mean, std), other, SPACE, cond), expected, **EXACT)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_noise_is_white_on_the_degrees_of_freedom_and_0_elsewhere(n: int) -> None:
    noise = draw(2, 180)
    out = SPACE.project(noise, torch.tensor([n, n]))
    assert torch.equal(out[:, coordinates(n)], noise[:, coordinates(n)])
    assert not out[:, ~coordinates(n)].any()


def test_what_is_past_the_last_node_is_not_read() -> None:
    d, cond, t = small(), torch.tensor([1, 5, 8]), torch.tensor([0.2, 0.5, 0.9]).double()
    x = SPACE.project(draw(3, 180), cond)
    dirty = x + (draw(3, 180, seed=7) - SPACE.project(draw(3, 180, seed=7), cond))
    assert not torch.equal(x, dirty)
    torch.testing.assert_close(d(dirty, t, cond), d(x, t, cond), **NETWORK)
    assert not d(x, t, cond)[~SPACE.mask(cond, x).bool()].any()


def test_a_row_does_not_see_the_others() -> None:
    d, cond, t = small(), torch.tensor([9, 3, 7]), torch.tensor([0.3, 0.5, 0.7]).double()
    x = SPACE.project(draw(3, 180), cond)
    alone = torch.cat([d(x[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, d(x, t, cond), **NETWORK)


def test_states_may_be_more_precise_than_the_network() -> None:
    """Under a correction, which is fp64, a network of fp32 sees them rounded."""
    d, x, t, n = small(), draw(3, 180), torch.tensor([0.2, 0.5, 0.9]), torch.tensor([2, 5, 9])
    exact = d(x, t, n)
    d.network.float()
    found = d(x, t, n)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)  # thousands of fp32 operations on numbers of size 1


def permuted(x: Tensor, order: Tensor) -> Tensor:
    """The packed graphs with node order[i] at place i."""
    nodes, pairs = SPACE.unpack(x)
    square = torch.zeros(len(x), 9, 9, 4, dtype=x.dtype)
    first, second = torch.triu_indices(9, 9, 1)
    square[:, first, second] = square[:, second, first] = pairs
    square = square[:, order][:, :, order]
    return SPACE.pack(nodes[:, order], square[:, first, second])


def test_the_estimate_moves_with_the_atoms() -> None:
    d, cond, t = small(), torch.tensor([6, 6]), torch.tensor([0.4, 0.8]).double()
    x = SPACE.project(draw(2, 180), cond)
    order = torch.tensor([3, 0, 5, 1, 4, 2, 6, 7, 8])
    assert not torch.allclose(permuted(x, order), x)
    torch.testing.assert_close(d(permuted(x, order), t, cond), permuted(d(x, t, cond), order), **NETWORK)


def test_without_a_network_the_estimate_is_the_posterior_of_every_part_by_itself() -> None:
    """Bayes' rule with torch's densities: p(k | x_t) ~ share_k prod_c N(x_t[c]; alpha (1[c = k] - 1/2), sigma)."""
    d, t, cond = small(moved=False), torch.tensor([0.1, 0.5, 0.9]).double(), torch.tensor([9, 9, 9])
    x = draw(3, 180)
    nodes, pairs = SPACE.unpack(d(x, t, cond))
    noisy = SPACE.unpack(x)
    alpha, sigma = d.schedule.alpha(t)[:, None, None, None], d.schedule.sigma(t)[:, None, None, None]
    for found, seen, shares in ((nodes, noisy[0], SHARES), (pairs, noisy[1], BOND_SHARES)):
        means = alpha * (torch.eye(4, dtype=torch.float64) - 0.5)  # (3, 1, class, coordinate)
        density = Normal(means, sigma).log_prob(seen[:, :, None, :]).sum(-1)
        # class shares are kept in fp32
        expected = (density + torch.tensor(shares).double().log()).softmax(-1) - 0.5
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_the_loss_is_the_cross_entropy_of_every_part() -> None:
    d, cond, t = small(), torch.tensor([2, 9]), torch.tensor([0.3, 0.6]).double()
    types, bonds = torch.arange(18).reshape(2, 9) % 4, torch.arange(72).reshape(2, 36) % 4
    x0, noise = SPACE.one_hot(types, bonds, cond).double(), SPACE.project(draw(2, 180), cond)
    x = d.schedule.alpha(t)[:, None] * x0 + d.schedule.sigma(t)[:, None] * noise
    nodes, pairs = d.logits(x, t, cond)
    for row, n in enumerate(cond.tolist()):
        parts = [F.cross_entropy(nodes[row, i], types[row, i]) for i in range(n)]
        places = [(i, j) for i in range(9) for j in range(i + 1, 9)]
        parts += [F.cross_entropy(pairs[row, p], bonds[row, p]) for p, (i, j) in enumerate(places) if j < n]
        assert d.loss(x, x0, t, cond)[row].item() == pytest.approx(sum(parts).item() / n, rel=1e-10)


def test_one_hot_and_its_parts() -> None:
    types, bonds = torch.tensor([[1, 3, 0, 0, 0, 0, 0, 0, 0]]), torch.zeros(1, 36, dtype=torch.long)
    bonds[0, 0] = 2
    x = SPACE.one_hot(types, bonds, torch.tensor([2]))
    nodes, pairs = SPACE.unpack(x)
    assert nodes[0, :2].tolist() == [[-0.5, 0.5, -0.5, -0.5], [-0.5, -0.5, -0.5, 0.5]]
    assert pairs[0, 0].tolist() == [-0.5, -0.5, 0.5, -0.5]
    assert x.ne(0).sum() == 12
    assert torch.equal(SPACE.pack(nodes, pairs), x)


def test_atoms_share_the_parameters_of_the_initial_noise() -> None:
    """8 means and 8 scales for the 180 coordinates; the KL by hand: every atom and pair adds its own."""
    rho = Shared(space=SPACE, num_conditions=10, std=1.0).double()
    assert sum(p.numel() for p in rho.parameters()) == 16
    with torch.no_grad():
        rho.mean[1], rho.log_scale[4] = 0.7, 0.2
    cond = torch.tensor([3, 9])
    g, prior = rho(cond), rho.prior()(cond)
    assert g.mean[0, :12].tolist() == [0, 0.7, 0, 0] * 3
    assert not g.mean[0, 12:].any()
    spread = (math.exp(0.4) - 1) / 2 - 0.2
    expected = torch.tensor([3 * 0.245 + 3 * spread, 9 * 0.245 + 36 * spread]).double()
    torch.testing.assert_close(kl(g, prior, SPACE, cond), expected, rtol=1e-6, atol=0)  # .7 and .2 as given, in fp64


def test_noise_of_a_regression_is_that_of_the_space() -> None:
    from dataclasses import replace

    from pgdlab.domains.qm9 import QM9
    from pgdlab.trainers.denoising import Pretrain, Samples
    from tests.tiny import tiny_world

    world = replace(tiny_world(), domain=QM9())
    world.policy.space = SPACE
    cond = torch.tensor([2, 7, 9, 5])
    samples = Samples(torch.zeros(4, 180).double(), cond, torch.ones(4), 0)
    (piece,) = replace(Pretrain(drop=0.0), batch=4).micro_batches(samples, 0, world)
    assert not piece.noise[~SPACE.mask(piece.cond, piece.noise).bool()].any()
    assert piece.noise.ne(0).sum() == SPACE.masks[cond].sum()
