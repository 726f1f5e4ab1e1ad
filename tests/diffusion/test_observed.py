"""What sees an observation (conditioning, denoiser, initial distribution), a floor under the noise, and steps tuned in part."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from pgdlab.control.linear import LinearQuadratic
from pgdlab.diffusion.conditioning import ClassLabels, Observations
from pgdlab.diffusion.initial import Informed, Standard
from pgdlab.diffusion.kernels import DDIM, AtLeast
from pgdlab.diffusion.policy import build_policy
from pgdlab.diffusion.schedules import Cosine
from pgdlab.diffusion.space import Dense
from pgdlab.diffusion.tuning import LastSteps
from pgdlab.domains.control import Control

START = Standard(space=Dense((1, 1)), num_conditions=1, std=1.0)


def test_a_table_keeps_what_is_given_and_is_shared_by_copies() -> None:
    """Mean 2 and spread 1 of the given rows (1, 3) normalise a rollout's rows too, which replace those of the last rollout."""
    told = Observations(torch.tensor([[1.0], [3.0]]))
    other = copy.deepcopy(told)
    cond = other.reserve(3)
    other.write(cond[1:], torch.tensor([[5.0], [2.0]], dtype=torch.float64))
    assert cond.tolist() == [2, 3, 4]
    assert told(torch.tensor([0, 1, 3, 4]))["observation"].flatten().tolist() == [-1, 1, 3, 0]
    assert told.reserve(1).tolist() == [2]
    assert len(told.table) == 3
    assert told(torch.tensor([2]))["observation"].item() == -2  # zeros, not what was there


def test_rho_begins_as_the_prior_and_sees_the_observation() -> None:
    told = Observations(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))
    rho = Informed(space=Dense((2, 1)), num_conditions=20, std=1.5)
    rho.meet(told)
    cond = torch.arange(20)
    assert torch.equal(rho(cond).mean, torch.zeros(20, 2, 1))
    assert rho(cond).std.eq(1.5).all()
    with torch.no_grad():
        rho.head.last.weight.fill_(0.1)
    assert rho(cond).mean.std(0).min() > 0
    assert rho(cond).std.std(0).min() > 0
    fixed = Informed(space=Dense((2, 1)), num_conditions=20, std=1.5, scaled=False)
    fixed.meet(told)
    with torch.no_grad():
        fixed.head.last.weight.fill_(0.1)
    assert fixed(cond).mean.std(0).min() > 0
    assert fixed(cond).std.eq(1.5).all()
    with pytest.raises(ValueError, match="initial=conditional"):
        Informed(space=Dense((1,)), num_conditions=3, std=1.0).meet(ClassLabels(3))


def test_a_floor_is_under_the_noise_and_not_under_the_mean() -> None:
    """Five steps of DDIM, whose last ones are quieter than 0.2: their means are the same."""
    schedule = Cosine(sigma_min=0.05)
    times = schedule.times(5)
    plain, floored = (k.coefficients(schedule, times[:-1], times[1:]) for k in (DDIM(), AtLeast(std=0.2)))
    for a, b in zip(plain[:2], floored[:2], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(floored[2], torch.where(plain[2] < 0.2, 0.2, plain[2]))
    assert plain[2][-1] < 0.2 < plain[2][0]
    with pytest.raises(ValueError, match=r"must be 0\.001 or more"):
        AtLeast(std=0.0)


def test_what_is_saved_is_read_back_with_its_normalisers(tmp_path: Path) -> None:
    """A base cloned from other demonstrations brings its own: they are what its network has learnt with."""
    cloned = Control(environment=LinearQuadratic(start=3.0, expert_noise=1.0), demonstrations=10, hidden=8)
    denoiser = cloned.fresh(torch.Generator().manual_seed(0))
    denoiser.save(tmp_path)
    used = Control(environment=LinearQuadratic(), demonstrations=10, weights=str(tmp_path))
    x, t, o = torch.randn(4, 1, 1), torch.full((4,), 0.5), torch.randn(4, 3)
    for domain in (cloned, used):
        domain.conditioning.write(domain.conditioning.reserve(4), o)
    read = used.base()
    numbers = [torch.arange(4) + domain.conditioning.size for domain in (cloned, used)]
    torch.testing.assert_close(read(x, t, numbers[1]), denoiser(x, t, numbers[0]), rtol=0, atol=0)
    assert torch.equal(used.decoder(x), cloned.decoder(x))
    with pytest.raises(ValueError, match="of 1 numbers an action chunk, and here are 2"):
        Control(environment=LinearQuadratic(), demonstrations=10, chunk=2, weights=str(tmp_path)).base()


def test_the_first_steps_stay_the_pretrained_ones() -> None:
    """Four steps of which the last two are tuned: a change of the weights moves their means and no other."""
    domain = Control(environment=LinearQuadratic(), demonstrations=5, hidden=8)
    policy = build_policy(
        denoiser=domain.fresh(torch.Generator().manual_seed(0)), space=domain.space, initial=START,
        unconditional=0, kernel=DDIM(), tuning=LastSteps(count=2), steps=4,
    )  # fmt: skip
    x, h, cond = torch.randn(4, 1, 1, generator=torch.Generator().manual_seed(1)), torch.arange(4), torch.arange(4)
    before = policy(x, h, cond).mean.detach()
    with torch.no_grad():
        for p in policy.parameters():
            if p.requires_grad:
                p += 0.1
    moved = (policy(x, h, cond).mean - before).flatten().abs()
    assert moved[:2].eq(0).all()
    assert moved[2:].gt(0).all()
    assert torch.equal(
        policy.denoiser.frozen()(x, policy.times[h], cond), policy.denoiser.early(x, policy.times[h], cond)
    )
    with pytest.raises(ValueError, match="from 1 to the 4 steps"):
        build_policy(
            denoiser=domain.build(), space=domain.space, initial=START, unconditional=0, kernel=DDIM(),
            tuning=LastSteps(count=5), steps=4,
        )  # fmt: skip
