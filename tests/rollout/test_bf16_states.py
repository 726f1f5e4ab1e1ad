"""States that are rounded to bf16 as they are drawn: what is kept is what was scored, half the memory, and what it costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.distributions import Normal

from pgdlab.config.compose import compose
from pgdlab.functional.gaussian import Gaussian
from pgdlab.rollout.sampler import Batch, Extras, rollout
from pgdlab.rollout.trajectory import Trajectory, replay
from pgdlab.training.build import build_module, build_world, steering
from pgdlab.training.checks import examine
from pgdlab.world import World
from tests.worlds import BRIGHT, POINTS, tiny

HALF = "plan.bf16_states=true"
ROWS = 6


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(compose(tiny(BRIGHT, "heldout=null", "penalty=path_kl", "plan.pass_size=18")))


def drawn(world: World, half: bool, trained: list[int] | None = None) -> Trajectory:
    cond = torch.arange(ROWS) % 2
    some = world.policy.stochastic_steps if trained is None else trained
    noise = world.noise.of(0, range(ROWS))
    return rollout(world.policy, world.reference, noise, cond, batch=ROWS, trained=some, extras=Extras(True, half=half))


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


def test_the_chain_is_that_of_rounded_states(world: World) -> None:
    """Step by step by hand: every state is rounded before anything is made of it. The sample, which the reference's last step
    makes and nobody scores, is not."""
    policy, found, cond = world.policy, drawn(world, True), torch.arange(ROWS) % 2
    noise = list(world.noise.of(0, range(ROWS)).steps(0, ROWS, policy.steps + 1, policy.space.shape))
    x = rounded(noise[0].float())
    with torch.no_grad():
        for h in range(policy.steps):
            assert torch.equal(found.states[:, h].float(), x), h
            who = policy if h in policy.stochastic_steps else world.reference
            g = who(x, torch.full((ROWS,), h), cond)
            x = g.mean + g.std * noise[h + 1].float()
            x = rounded(x) if h in policy.stochastic_steps else x
    assert torch.equal(found.sample, x)
    assert not torch.equal(found.sample, rounded(x))
    assert torch.equal(found.initial, found.states[:, 0].float())
    assert found.reference_mean.dtype == torch.float32


def test_the_states_take_half_the_memory(world: World) -> None:
    full, half = drawn(world, False), drawn(world, True)
    assert half.states.dtype == torch.bfloat16
    assert 2 * half.states.nbytes == full.states.nbytes


def test_the_ratio_is_one_and_the_density_is_that_of_what_is_kept(world: World) -> None:
    """In a pass of as many rows as sampling had: exactly; and the density is torch's at the rounded numbers, in fp64."""
    found = drawn(world, True)
    by_step = torch.arange(found.log_prob.numel()).reshape(ROWS, -1).T
    for h, some in zip(found.trained, by_step, strict=True):
        with torch.no_grad():
            g, score = replay(world.policy, found, found.pairs(some))
        assert torch.equal(score, found.log_prob[:, found.trained.index(h)])
        normal = Normal(g.mean.double(), g.std.double().expand_as(g.mean))
        kept = found.states[:, h + 1].double()
        torch.testing.assert_close(score, normal.log_prob(kept).flatten(1).sum(1), rtol=1e-9, atol=1e-6)
        assert torch.equal(kept, kept.bfloat16().double())


def test_states_that_nobody_reads_are_left_as_they_are(world: World) -> None:
    """One step is trained: its state and its action are rounded; the states after them are not."""
    found, policy = drawn(world, True, trained=[1]), world.policy
    state, action = (found.states[:, found.stored_at[h]].float() for h in (1, 2))
    noise = list(world.noise.of(0, range(ROWS)).steps(0, ROWS, policy.steps + 1, policy.space.shape))
    cond = torch.arange(ROWS) % 2
    assert not torch.equal(found.initial, rounded(found.initial))
    with torch.no_grad():
        x = found.initial
        for h in range(policy.steps):
            g = (policy if h < policy.steps - 1 else world.reference)(x, torch.full((ROWS,), h), cond)
            x = g.mean + g.std * noise[h + 1].float()
            x = rounded(x) if h in (0, 1) else x
            if h < 2:
                assert torch.equal(x, (state, action)[h])
    assert torch.equal(found.sample, x)


def test_the_gradient_of_an_update_is_that_at_the_rounded_states() -> None:
    """REINFORCE on points, in fp64 but for what is kept: -1/N sum A (a - m) / std^2 dm/dtheta, with the rounded a and the mean
    at the rounded s."""
    words = ("trainer=reinforce", "penalty=none", "plan.samples=8", "plan.group=4", "plan.pass_size=3", HALF)
    module = build_module(compose(tiny(*POINTS, *words)))
    module.double()
    world, policy = module.world, module.policy
    experience: Any = module.algorithm.collect(world, 0)
    trajectory, trained = experience.trajectory, [p for p in policy.parameters() if p.requires_grad]
    assert trajectory.states.dtype == torch.bfloat16
    assert trajectory.sample.dtype == torch.float64
    total = sum(
        module.algorithm.loss(experience, p, world).value for p in module.algorithm.micro_batches(experience, 0, world)
    )
    found = torch.autograd.grad(total, trained)
    expected = [torch.zeros_like(p) for p in trained]
    for k, h in enumerate(trajectory.trained):
        s, a = (trajectory.states[:, trajectory.stored_at[i]].double() for i in (h, h + 1))
        m, std = policy(s, torch.full((8,), h), trajectory.cond).mean, policy.std[h]
        weight = -experience.advantage[:, k, None] * (a - m.detach()) / std**2 * experience.step_scale / 8
        for total, one in zip(expected, torch.autograd.grad(m, trained, weight), strict=True):
            total += one
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def grid(low: float, high: float) -> torch.Tensor:
    """All bf16 numbers in a range above 0."""
    bits = torch.arange(2**15 - 2**7, dtype=torch.int16)
    x = bits.view(torch.bfloat16).double()
    return x[(x >= low) & (x <= high)]


@pytest.mark.parametrize(("std", "mean"), [(0.05, 1.5), (0.02, 1.499), (0.01, 1.1)])
def test_what_rounding_does_to_scores_and_gradients(std: float, mean: float) -> None:
    """Summed over all bf16 numbers, of which each has the mass of what is rounded to it. With c the number, the score of the
    Gaussian's density at it: E[(c - m)^2] / std^2 and the estimated gradient of E[c], E[c (c - m)] / std^2, are
    1 + gap^2 / (12 std^2), where the true gradient, of the masses, is 1; the score's mean is 0. A gap is 2^-7 from 1 to 2."""
    numbers = grid(mean - 9 * std, mean + 9 * std)
    assert torch.equal(numbers.diff(), torch.full_like(numbers[1:], 2.0**-7))
    law, half = Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)), 2.0**-8
    mass = law.cdf(numbers + half) - law.cdf(numbers - half)
    slope = law.log_prob(numbers - half).exp() - law.log_prob(numbers + half).exp()  # of the mass in the mean
    expected = 1 + (2.0**-7) ** 2 / (12 * std**2)
    assert float((mass * (numbers - mean)).sum()) / std == pytest.approx(0, abs=1e-6)
    assert float((numbers * slope).sum()) == pytest.approx(1, abs=1e-6)
    assert float((mass * (numbers - mean) ** 2).sum()) / std**2 == pytest.approx(expected, abs=1e-6)
    assert float((mass * numbers * (numbers - mean)).sum()) / std**2 == pytest.approx(expected, abs=1e-6)
    count = 400_000
    z = torch.randn(count, generator=torch.Generator().manual_seed(0))
    batch = Batch.__new__(Batch)
    batch.extras, batch.trained = Extras(half=True), [0]
    x = batch.as_kept(Gaussian(torch.full((count,), mean), torch.full((count,), std)).sample(z), 1)
    assert set(x.double().unique().tolist()) <= set(numbers.tolist())
    spread = float(((x.double() - mean) / std).square().mean())
    assert spread == pytest.approx(expected, abs=5 * math.sqrt(2 / count))


def test_the_doctor_measures_it(world: World) -> None:
    """The noise that was taken, of the rounded actions; and the ratio of a replay at them."""
    module = build_module(compose(tiny(BRIGHT, "heldout=null", HALF)))
    found = {check.name: check for check in examine(module)}
    assert found["ratio"].message.startswith("log-ratio mean 0.0e+00, worst 0.0e+00")
    assert {found[name].verdict for name in ("ratio", "density", "noise size")} == {"ok"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("trainer=rwr", "penalty=none"), "this trainer keeps final samples alone"),
        (("trainer=dpo", "penalty=none"), "this trainer keeps final samples alone"),
        (("trainer=draft",), "this trainer carries gradients back through the steps"),
        (("policy=frozen", "initial=diagonal"), "the denoiser is not trained"),
    ],
)
def test_where_nothing_would_be_rounded_it_is_refused(words: tuple[str, ...], why: str) -> None:
    cfg = compose(tiny(BRIGHT, *words, HALF, "plan.pass_size=4", "plan.rollout_batch=4"))
    with pytest.raises(ValueError, match=f"plan.bf16_states is true, but {why}"):
        steering(cfg).refuse(build_world(cfg))
