"""The policy's seams: initial distributions, references, samplers, what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pgdlab.diffusion.initial import Conditional, Diagonal, InitialDistribution, Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import ODE, Policy, build_policy
from pgdlab.diffusion.residual import AffineCorrection
from pgdlab.diffusion.space import Dense
from pgdlab.diffusion.tuning import Frozen, Full, LoRA, Tuning
from pgdlab.diffusion.values import QuadraticValue
from pgdlab.rollout.trajectory import initial_kl
from pgdlab.trainers.base import refuse_ode
from tests.networks import denoiser
from tests.tiny import moved, tiny_policy

SPACE = Dense((1, 8, 8))
COND = torch.tensor([0, 1, 2, 1])
KINDS: list[type[InitialDistribution]] = [Standard, Diagonal, Conditional]


def built(
    tuning: Tuning, eta: float = 1.0, initial: type[InitialDistribution] = Standard, guidance: float = 1.0
) -> Policy:
    rho = initial(space=SPACE, num_conditions=2, std=1.0)
    return build_policy(
        denoiser=denoiser(),
        space=SPACE,
        initial=rho,
        unconditional=2,
        kernel=DDIM(eta=eta),
        tuning=tuning,
        steps=5,
        guidance=guidance,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("std", [1.0, 80.0])
def test_initial_distributions_start_as_the_prior(kind: type[InitialDistribution], std: float) -> None:
    rho = kind(space=SPACE, num_conditions=2, std=std)
    g = rho(COND)
    assert g.mean.shape == (4, 1, 8, 8)
    assert torch.equal(g.mean, torch.zeros(4, 1, 8, 8))
    torch.testing.assert_close(g.std.expand_as(g.mean), torch.full((4, 1, 8, 8), std), rtol=1e-7, atol=0)
    assert not any(p.requires_grad for p in rho.prior().parameters())


def test_a_conditional_initial_distribution_tells_classes_apart() -> None:
    rho = Conditional(space=SPACE, num_conditions=2, std=1.0)
    with torch.no_grad():
        rho.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    g = rho(COND)
    assert torch.equal(g.mean[1], g.mean[3])
    assert (g.mean[0] - g.mean[1]).abs().max() > 1e-3
    assert (g.std[0] - g.std[1]).abs().max() > 1e-3


@pytest.mark.parametrize("std", [1.0, 3.0])
def test_the_initial_kl_against_torch(std: float) -> None:
    policy = tiny_policy(rho=True)
    policy.initial.std = std
    moved(policy)
    g = policy.initial(COND)
    exact = kl_divergence(Normal(g.mean, g.std), Normal(torch.zeros_like(g.mean), std)).sum(1)
    torch.testing.assert_close(initial_kl(policy, policy.reference(), COND), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tuning", [Full(), LoRA(rank=2)])
def test_training_a_denoiser_without_noise_is_refused(tuning: Tuning) -> None:
    """At eta 0 no step is stochastic: the denoiser has no policy gradient at all."""
    policy = built(tuning, eta=0.0)
    with pytest.raises(ValueError, match=r"no stochastic step .* policy\.kernel\.eta"):
        refuse_ode(policy)
    assert built(Frozen(), eta=0.0, initial=Diagonal).trains_initial


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("tuning", [Full(), LoRA(rank=2), Frozen()])
def test_the_reference_stays_where_the_policy_started(tuning: Tuning, guidance: float) -> None:
    policy = built(tuning, initial=Diagonal, guidance=guidance)
    reference, x, h = policy.reference(), torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    before = policy(x, h, COND).mean.detach()
    moved(policy)
    assert torch.equal(reference(x, h, COND).mean, before)
    assert not any(p.requires_grad for p in reference.initial.parameters())
    assert torch.equal(reference.initial(COND).mean, torch.zeros(4, 1, 8, 8))
    assert policy.trains_initial
    assert policy.trains_denoiser == (not isinstance(tuning, Frozen))
    own = {id(p) for p in policy.parameters()}
    extra = sum(p.numel() for p in reference.parameters() if id(p) not in own)
    assert (extra > 0) == isinstance(tuning, Full), "only full fine-tuning pays for a second model"


def test_a_policy_under_another_sampler_shares_its_weights() -> None:
    policy = moved(tiny_policy(eta=1.0, rho=True))
    ode = policy.with_kernel(ODE)
    assert ode.stochastic_steps == []
    assert policy.stochastic_steps == [0, 1, 2]
    assert ode.denoiser is policy.denoiser
    assert ode.initial is policy.initial


def test_scores_and_schedule_keep_their_precision_under_autocast() -> None:
    """The network may compute in bf16, the Gaussian is fp32 and its coefficients come from fp64."""
    policy = built(Full())
    x, h = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        g = policy(x, h, COND)
    assert g.mean.dtype == g.std.dtype == torch.float32
    assert policy.std.dtype == policy.from_x.dtype == policy.from_x0.dtype == torch.float64
    assert torch.equal(g.std.flatten(), policy.std[h].float())


TABLES: dict[str, tuple[Callable[[int], object], int, str]] = {
    # what is made for a number of conditions, how many of them fit in 1 GiB, and what else is advised
    "initial": (
        lambda n: Diagonal(space=Dense((4, 64, 64)), num_conditions=n, std=1.0, per_condition=True), 8191,
        "initial=conditional",
    ),
    "affine": (lambda n: AffineCorrection(n, 20, 256), 102, "policy=network"),
    "critic": (lambda n: QuadraticValue(n, 20, 256), 202, "Perceptron"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "most", "advice"), TABLES.values(), ids=TABLES)
def test_a_table_for_thousands_of_prompts_is_refused_with_its_size(
    make: Callable[[int], object], most: int, advice: str
) -> None:
    """Bytes by hand: 8192 (n + 1) 8 x 16384; 8 x 20 x 256 x 257 n; 8 x 20 x 257 x 258 / 2 n. Nothing is allocated before."""
    with torch.device("meta"):
        make(most)
        with pytest.raises(ValueError, match=rf"for each of [\d,]+ conditions are 1.0 GiB .*{advice}"):
            make(most + 1)
        with pytest.raises(ValueError, match=r"for each of 1,005,00[01] conditions"):
            make(1_005_000)
    Diagonal(space=Dense((4, 64, 64)), num_conditions=10**6, std=1.0)  # one for all is small
