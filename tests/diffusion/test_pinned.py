"""Coordinates that are given: the space against torch.distributions of the free ones, and the denoiser that puts them in."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Int
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pgdlab.diffusion.conditioning import ClassLabels, Conditioning
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.initial import Diagonal, Informed
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.pinned import PinnedDenoiser
from pgdlab.diffusion.policy import build_policy
from pgdlab.diffusion.schedules import Cosine, DiffusersSchedule
from pgdlab.diffusion.space import Pinned
from pgdlab.diffusion.tuning import Full, LoRA, Network
from pgdlab.functional.gaussian import Gaussian, kl, log_prob
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.sampler import rollout

SPACE = Pinned((5, 2), (0, 4))
COND = torch.tensor([0, 1, 2])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Told(Conditioning):
    """Ends, and two facts, of three conditions and none."""

    pinned: Tensor
    facts: Tensor

    def __init__(self) -> None:
        super().__init__(3)
        self.register_buffer("pinned", draw(4, 2, 2, seed=11))
        self.register_buffer("facts", draw(4, 3, seed=12))

    def forward(self, cond: Int[Tensor, " P"]) -> dict[str, Tensor]:
        return {"pinned": self.pinned[cond], "facts": self.facts[cond], "number": cond}


class Average(Denoiser):
    """x0 = weight times the mean of the state's rows, in every row: sees what is pinned."""

    supports_unconditional = False

    def __init__(self, schedule: Cosine | DiffusersSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.weight = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return (self.weight * x.mean(1, keepdim=True)).expand_as(x)

    def frozen(self) -> Denoiser:
        other = Average(self.schedule)
        other.load_state_dict(self.state_dict())
        return other.requires_grad_(False)


@pytest.mark.parametrize("one", [True, False])
def test_log_probabilities_and_kl_are_those_of_the_free_rows(one: bool) -> None:
    std = draw(3, 1, 1, seed=1).exp() if one else draw(3, 5, 2, seed=1).exp()
    g = Gaussian(draw(3, 5, 2, seed=2), std)
    other = Gaussian(draw(3, 5, 2, seed=3), std * 1.3)
    x = draw(3, 5, 2, seed=4)
    p, q = (Normal(h.mean[:, 1:4], h.std.expand(3, 5, 2)[:, 1:4]) for h in (g, other))
    exact = p.log_prob(x[:, 1:4]).sum((1, 2)), kl_divergence(p, q).sum((1, 2))
    torch.testing.assert_close(log_prob(g, x, SPACE, COND), exact[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(kl(g, other, SPACE, COND), exact[1], rtol=1e-12, atol=1e-12)
    assert SPACE.dof(COND).tolist() == [6, 6, 6]


def test_noise_leaves_given_rows_alone() -> None:
    noise = draw(3, 5, 2)
    kept = SPACE.project(noise, COND)
    assert not kept[:, [0, 4]].any()
    assert torch.equal(kept[:, 1:4], noise[:, 1:4])


def test_a_denoiser_sees_and_gives_what_is_given() -> None:
    told, inner = Told(), Average(Cosine())
    x = draw(3, 5, 2, seed=5)
    got = PinnedDenoiser(inner, SPACE, told)(x, torch.full((3,), 0.5), COND)
    ends = told.pinned[COND]
    expected = 0.5 * (x[:, 1:4].sum(1) + ends.sum(1)) / 5
    torch.testing.assert_close(got[:, [0, 4]], ends, rtol=0, atol=0)
    torch.testing.assert_close(got[:, 1:4], expected[:, None].expand(3, 3, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tuning", [Full(), Network(hidden=8)])
def test_samples_have_exact_ends_whatever_is_tuned(tuning: Full | Network) -> None:
    """The last step of a diffusers schedule gives out the estimate itself, so that the ends are to the bit what was told."""
    from pgdlab.domains.maze import SCHEDULER

    told = Told()
    base = PinnedDenoiser(Average(DiffusersSchedule(SCHEDULER)), SPACE, told)
    rho = Diagonal(space=SPACE, num_conditions=3, std=1.0).double()
    policy = build_policy(
        denoiser=base, space=SPACE, initial=rho, unconditional=3, kernel=DDIM(eta=1.0), tuning=tuning, steps=6
    ).double()  # fmt: skip
    with torch.no_grad():
        for p in policy.parameters():
            if p.requires_grad:
                p.add_(0.3)
    drawn = rollout(policy, policy.reference(), Noise(0).of(0, range(3)), COND, batch=3)
    torch.testing.assert_close(drawn.sample[:, [0, 4]].double(), told.pinned[COND], rtol=0, atol=1e-6)
    assert not drawn.initial[:, [0, 4]].any()


def test_adapters_are_refused() -> None:
    base = PinnedDenoiser(Average(Cosine()), SPACE, Told())
    with pytest.raises(ValueError, match="a PinnedDenoiser has none; set policy=network"):
        build_policy(
            denoiser=base, space=SPACE, initial=Diagonal(space=SPACE, num_conditions=3, std=1.0), unconditional=3,
            kernel=DDIM(), tuning=LoRA(), steps=4,
        )  # fmt: skip


def informed(conditioning: Conditioning) -> Informed:
    torch.manual_seed(0)
    rho = Informed(space=SPACE, num_conditions=3, std=1.5, hidden=8, layers=2)
    rho.meet(conditioning)
    return rho.double()


def test_an_informed_distribution_reads_what_is_told() -> None:
    """It starts as the prior, and then depends on the facts and the ends of a condition and on nothing else."""
    with torch.random.fork_rng():
        told = Told()
        told.facts[1], told.pinned[1] = told.facts[0], told.pinned[0]  # the same task under another number
        rho = informed(told)
        assert torch.equal(rho(COND).mean, torch.zeros(3, 5, 2, dtype=torch.float64))
        assert torch.equal(rho(COND).std, torch.full((3, 5, 2), 1.5, dtype=torch.float64))
        torch.nn.init.normal_(rho.head.last.weight)
        g = rho(COND)
        torch.testing.assert_close(g.mean[0], g.mean[1], rtol=0, atol=1e-12)
        assert not torch.allclose(g.mean[0, 1:4], g.mean[2, 1:4])
        assert not g.mean[:, [0, 4]].any()
        told.facts[2, 0] += 1
        assert not torch.allclose(rho(COND).mean[2, 1:4], g.mean[2, 1:4])


def test_an_informed_distribution_needs_something_to_read() -> None:
    with torch.random.fork_rng(), pytest.raises(ValueError, match="initial=informed reads what is told"):
        informed(ClassLabels(3))
    with pytest.raises(ValueError, match="layers is 0"):
        Informed(space=SPACE, num_conditions=3, std=1.0, layers=0)
