"""The denoising loss, pretraining, and reward-weighted regression."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.config.compose import compose
from pgdlab.diffusion.conditioning import ClassLabels
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.penalties.path_kl import PathKL
from pgdlab.processes import Processes
from pgdlab.rewards.base import Score
from pgdlab.trainers.denoising import Pretrain, Samples
from pgdlab.trainers.rwr import RewardWeightedRegression
from pgdlab.training.build import build_module
from pgdlab.world import World
from tests.networks import config, unet
from tests.tiny import (
    Failing,
    GaussianDenoiser,
    Quadratic,
    TinyDomain,
    gradient,
    moved,
    tiny_policy,
    tiny_schedule,
    tiny_world,
)
from tests.worlds import graphs, tiny

NULL = 2


@torch.no_grad()
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_the_squared_error_of_v(kind: str) -> None:
    """v by diffusers' get_velocity, and what the network means by v, whatever it predicts."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(config(prediction_type=kind))
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    d = DiffusersDenoiser(unet().double(), DiffusersSchedule(config(prediction_type=kind)), ClassLabels(2))
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=g) for _ in range(2))
    t, cond = torch.tensor([0, 2, 5, 7, 9]), torch.tensor([0, 1, 2, 0, 1])
    noisy, target = scheduler.add_noise(x0, noise, t), scheduler.get_velocity(x0, noise, t)
    alpha, sigma = (
        v.reshape(-1, 1, 1, 1) for v in (scheduler.alphas_cumprod[t] ** 0.5, (1 - scheduler.alphas_cumprod[t]) ** 0.5)
    )
    out = d.network(noisy, t, class_labels=cond).sample
    if kind == "epsilon":  # v = alpha eps - sigma x0, with the x0 that goes with eps
        out = alpha * out - sigma * (noisy - sigma * out) / alpha
    if kind == "sample":
        out = alpha * (noisy - alpha * out) / sigma - sigma * out
    expected = (out - target).square().flatten(1).mean(1)
    torch.testing.assert_close(d.loss(noisy, x0, t, cond), expected, rtol=1e-9, atol=1e-10)


def optimum(schedule: DiffusersSchedule, std: float) -> float:
    """E||x0 - E[x0|x_t]||^2 / sigma^2 over uniform times; var[x0|x_t] = std^2 sigma^2 / (alpha^2 std^2 + sigma^2)."""
    t = torch.arange(schedule.train_times)
    return float((std**2 / (schedule.alpha(t) ** 2 * std**2 + schedule.sigma(t) ** 2)).mean())


def train(world: World, algorithm: Any, updates: int, lr: float) -> list[float]:
    """The losses of a plain Adam run."""
    optimizer = torch.optim.Adam([p for p in world.policy.parameters() if p.requires_grad], lr=lr, betas=(0.9, 0.95))
    experience, losses = algorithm.collect(world, 0), []
    for k in range(updates):
        optimizer.param_groups[0]["lr"] = lr * (1 - k / updates)
        optimizer.zero_grad()
        value = sum(
            algorithm.loss(experience, piece, world).value for piece in algorithm.micro_batches(experience, k, world)
        )
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def test_pretraining_reaches_the_exact_optimum() -> None:
    """The analytic family contains the exact denoiser of the data, so the loss must end at its posterior variance and
    the parameters at 0: 4096 samples of std .5 leave .5/64 = .01 on each mean, and a few per cent on gains."""
    world = tiny_world(moved(tiny_policy(), size=2.0))
    losses = train(world, Pretrain(updates=300, batch=512, drop=0.0), 300, lr=0.05)
    best = optimum(tiny_schedule(), 0.5)
    # 20 updates of 512 x 2 coordinates: the squared error's standard error is about 1.4 / sqrt(20480)
    assert sum(losses[-20:]) / 20 == pytest.approx(best, rel=0.05)
    assert losses[0] > 1.3 * best
    denoiser = world.policy.denoiser
    assert isinstance(denoiser, GaussianDenoiser)
    assert denoiser.shift.abs().max() < 0.05
    assert denoiser.gain.abs().max() < 0.05


def test_probes_are_drawn_where_asked_and_disturb_nothing() -> None:
    """Every second iteration, not before the first; with a probe or without, minibatches are the same."""
    plain, probing = (tiny_world(tiny_policy(), samples=8) for _ in range(2))
    algorithm = Pretrain(probe=6, probe_every=2, batch=8)
    asked: list[int] = []

    class Counting(TinyDomain):
        def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
            asked.append(len(sample))
            return {"mean": float(sample.mean())}

    probing = replace(probing, domain=Counting())
    logs = [algorithm.collect(probing, i).logs for i in range(5)]
    both = ["probe/denoising_loss", "probe/mean"]
    assert [sorted(row) for row in logs] == [[], [], both, [], both]
    assert logs[2] == logs[4]  # the same noise, and nothing was trained
    assert asked == [6, 6]
    a, b = (
        alg.micro_batches(alg.collect(w, 2), 0, w)[0] for alg, w in ((algorithm, probing), (Pretrain(batch=8), plain))
    )
    assert torch.equal(a.noise, b.noise)
    assert torch.equal(a.rows, b.rows)


def test_the_held_out_loss_is_of_the_first_test_samples_alone() -> None:
    """A denoiser that says (1, 2) to everything: its loss on test samples (1, 2) is 0 at all times, whatever is in the training
    data and beyond the first six. On (1, 5) it is the mean of 9 / 2 over sigma squared, from above 9 / 2 at sigma 1."""
    point = torch.tensor([1.0, 2.0], dtype=torch.float64)

    class Recalling(GaussianDenoiser):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return point.expand_as(x)

    class Far(TinyDomain):
        shift = 0.0

        def data(self, split: str) -> tuple[Tensor, Tensor]:
            near = point + torch.tensor([0.0, self.shift])
            rows = torch.cat([near.repeat(6, 1), torch.full((4, 2), 9.0, dtype=torch.float64)])
            return (rows if split == "test" else rows + 7), torch.arange(10) % 2

    policy = tiny_policy()
    policy.denoiser = Recalling(policy.denoiser.schedule)
    domain = Far()
    world, algorithm = replace(tiny_world(policy), domain=domain), Pretrain(probe=6)
    assert algorithm.held_out(world) == 0
    object.__setattr__(domain, "shift", 3.0)
    assert algorithm.held_out(world) >= 4.5 * (1 - 1e-12)
    assert algorithm.held_out(world) == algorithm.held_out(world)


def test_times_noise_and_hidden_conditions() -> None:
    world, algorithm = tiny_world(), Pretrain(batch=400, drop=0.25)
    experience = algorithm.collect(world, 0)
    (piece,) = algorithm.micro_batches(experience, 0, world)
    assert torch.bincount(piece.t).tolist() == [100] * 4, "stratified: as many of each time"
    hidden = piece.cond == NULL
    assert 60 < int(hidden.sum()) < 140  # 100 expected, standard deviation 9
    assert torch.equal(piece.cond[~hidden], experience.cond[piece.rows][~hidden])
    assert not torch.equal(piece.noise, algorithm.micro_batches(experience, 1, world)[0].noise)
    assert torch.equal(piece.noise, algorithm.micro_batches(experience, 0, world)[0].noise)
    (later,) = algorithm.micro_batches(replace(experience, iteration=1), 0, world)
    assert not torch.equal(piece.rows, later.rows)


def test_an_epoch_sees_every_sample_once_where_batches_divide_the_data() -> None:
    world, algorithm = tiny_world(), Pretrain(batch=512)
    experience = algorithm.collect(world, 0)
    rows = [algorithm.micro_batches(experience, k, world)[0].rows for k in range(16)]
    first, second = torch.cat(rows[:8]), torch.cat(rows[8:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(4096))
    assert not torch.equal(first, second)


def test_a_batch_that_wraps_around_repeats_the_head_of_its_own_epoch() -> None:
    """Where they do not divide the data: 4096 = 4 * 1000 + 96, so the fifth batch sees 904 rows a second time; the next
    epoch begins 904 rows into its order and comes to 4000 of them in its four batches."""
    world, algorithm = tiny_world(), Pretrain(batch=1000)
    experience = algorithm.collect(world, 0)
    rows = [algorithm.micro_batches(experience, k, world)[0].rows for k in range(9)]
    assert sorted(torch.cat([*rows[:4], rows[4][:96]]).tolist()) == list(range(4096))
    assert torch.equal(rows[4][96:], rows[0][:904])
    assert len(torch.cat(rows[5:]).unique()) == 4000


@pytest.mark.parametrize("size", [7, 64])
def test_passes_and_processes_add_up(size: int) -> None:
    """One process in one pass, and two in many, see the same rows and give the same gradient."""
    algorithm = Pretrain(batch=64)
    whole = gradient(tiny_world(moved(tiny_policy())), algorithm)
    total = {name: torch.zeros_like(g) for name, g in whole.items()}
    for rank in (0, 1):
        world = tiny_world(moved(tiny_policy()), pass_size=size)
        world = replace(world, processes=Processes(rank, 2))
        for name, g in gradient(world, algorithm).items():
            total[name] += g
    for name, g in whole.items():
        torch.testing.assert_close(total[name], g, rtol=1e-11, atol=1e-13)


def test_weights_of_reward_weighted_regression_by_hand() -> None:
    """exp(r / T) over the measured samples, normalised to their mean 1 over all; nothing for a failed one."""
    world = tiny_world(reward=Failing(Quadratic(), above=0.4), samples=32, max_failed=0.99)
    experience = RewardWeightedRegression(temperature=0.5).collect(world, 0)
    x = experience.x0
    failed = x[:, 0] > 0.4
    assert 0 < int(failed.sum()) < 32
    raw = (Quadratic().score(x, experience.cond).value / 0.5).exp() * ~failed
    torch.testing.assert_close(experience.weight, 32 * raw / raw.sum(), rtol=1e-12, atol=1e-14)
    assert experience.logs["effective_samples"] == pytest.approx((raw.sum() ** 2 / raw.square().sum()).item())
    assert experience.queries == 32


def test_every_condition_has_a_softmax_of_its_own() -> None:
    """An offset of one condition's rewards changes nothing: within it the same samples are better than others."""

    class Offset(Quadratic):
        def score(self, sample: Any, cond: Tensor) -> Score:
            score = super().score(sample, cond)
            return replace(score, value=score.value - 9 * cond)

    worlds = [tiny_world(reward=kind(), samples=32, train_conditions=(0, 1)) for kind in (Quadratic, Offset)]
    plain, offset = (RewardWeightedRegression(temperature=0.5).collect(world, 0) for world in worlds)
    torch.testing.assert_close(offset.weight, plain.weight, rtol=1e-12, atol=1e-14)
    for c in (0, 1):
        rows = plain.cond == c
        raw = (Quadratic().score(plain.x0, plain.cond).value / 0.5).exp()[rows]
        torch.testing.assert_close(plain.weight[rows], int(rows.sum()) * raw / raw.sum(), rtol=1e-12, atol=1e-14)


def narrowed(steady: bool) -> float:
    """The loss of a full round's regression on own samples of equal reward, at the policy that sampled: its gradient's size."""
    world = tiny_world(reward=Quadratic((0.0, 0.0), (0.0, 0.0)), samples=4096)
    algorithm = RewardWeightedRegression(steady=steady, batch=4096)
    return max(float(g.abs().max()) for g in gradient(algorithm.equip(world), algorithm).values())


def test_equal_rewards_leave_a_steady_regression_as_it_is() -> None:
    """Four steps make samples that are narrower than the data: the plain regression moves toward them, the steady one not."""
    assert narrowed(steady=True) < 1e-12
    assert narrowed(steady=False) > 0.02


def test_the_steady_loss_by_hand() -> None:
    """(w - 1) ||x0 - x0hat||^2 + ||x0hat_old - x0hat||^2, over sigma^2 D, off the policy that sampled."""
    world, algorithm = tiny_world(samples=32), RewardWeightedRegression(temperature=0.5, batch=16, steady=True)
    world = algorithm.equip(world)
    experience = algorithm.collect(world, 0)
    (piece,) = algorithm.micro_batches(experience, 0, world)
    moved(world.policy)
    x0, w = experience.x0[piece.rows], experience.weight[piece.rows]
    schedule = world.policy.denoiser.schedule
    alpha, sigma = schedule.alpha(piece.t)[:, None], schedule.sigma(piece.t)[:, None]
    x = alpha * x0 + sigma * piece.noise.double()
    now, old = (p.denoiser(x, piece.t, piece.cond).detach() for p in (world.policy, tiny_policy()))
    each = (w - 1)[:, None] * (x0 - now).square() + (old - now).square()
    expected = float((each / sigma.square() / 2).sum() / 16)
    loss = algorithm.loss(experience, piece, world)
    assert loss.value.item() == pytest.approx(expected, rel=1e-10)
    assert loss.rows == 48


def test_a_sampler_without_noise_is_sampled_with_the_tuned_network() -> None:
    policy, base = moved(tiny_policy(eta=0.0)), tiny_policy(eta=0.0)
    world, algorithm = tiny_world(policy, base.reference()), RewardWeightedRegression()
    algorithm.refuse(world)
    tuned, untuned = (algorithm.collect(w, 0).x0 for w in (world, tiny_world(base, base.reference())))
    assert (tuned - untuned).abs().min() > 1e-6


def test_a_sample_alone_under_its_condition_is_refused() -> None:
    world = tiny_world(samples=2, group=1, train_conditions=(0, 1))
    with pytest.raises(ValueError, match=r"every sample is alone under its condition.*set plan.group to 2"):
        RewardWeightedRegression().refuse(world)
    RewardWeightedRegression().refuse(tiny_world(samples=3, group=1, train_conditions=(0, 1)))


def test_the_weighted_loss_by_hand() -> None:
    world, algorithm = tiny_world(moved(tiny_policy()), samples=32), RewardWeightedRegression(temperature=0.5, batch=16)
    experience = algorithm.collect(world, 0)
    (piece,) = algorithm.micro_batches(experience, 0, world)
    x0 = experience.x0[piece.rows]
    alpha, sigma = (
        f(piece.t)[:, None] for f in (world.policy.denoiser.schedule.alpha, world.policy.denoiser.schedule.sigma)
    )
    x = alpha * x0 + sigma * piece.noise.double()
    each = world.policy.denoiser.loss(x, x0, piece.t, piece.cond).detach()
    expected = sum(float(experience.weight[r]) * float(e) for r, e in zip(piece.rows, each, strict=True)) / 16
    assert algorithm.loss(experience, piece, world).value.item() == pytest.approx(expected, rel=1e-12)


def test_a_low_temperature_regresses_on_the_best_sample() -> None:
    world = tiny_world(samples=32)
    experience: Samples = RewardWeightedRegression(temperature=1e-4).collect(world, 0)
    best = Quadratic().score(experience.x0, experience.cond).value.argmax()
    assert experience.weight[best] == pytest.approx(32, rel=1e-6)


def test_what_it_cannot_do_is_refused() -> None:
    """No path KL, no initial distribution; a temperature that is not positive would prefer the worst or divide by 0."""
    policy: Any = tiny_policy(rho=True)
    for world in (tiny_world(policy), tiny_world(penalty=PathKL(coefficient=0.1))):
        with pytest.raises(ValueError, match=r"set initial=standard penalty=none"):
            RewardWeightedRegression().refuse(world)
    for temperature in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match=rf"temperature is {temperature}"):
            RewardWeightedRegression(temperature=temperature)


def test_the_samples_regressed_on_carry_no_gradient() -> None:
    x: Tensor = RewardWeightedRegression().collect(tiny_world(samples=16), 0).x0
    assert not x.requires_grad


@pytest.mark.parametrize("trainer", [Pretrain, RewardWeightedRegression])
@pytest.mark.parametrize("name", ["updates", "batch"])
def test_no_updates_and_empty_minibatches_are_refused(trainer: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        trainer(**{name: 0})


def test_a_condition_that_cannot_be_hidden_is_refused_before_the_run() -> None:
    """It is the number of atoms; classifier-free guidance would need an estimate without it."""
    words = (*graphs(), "reward={_target_: pgdlab.rewards.molecule.validity.Valid}")
    with pytest.raises(ValueError, match=r"the size of a sample.*policy.guidance=1"):
        build_module(compose(tiny(*words, "policy.guidance=2.0")))
    world = build_module(compose(tiny(*words))).world
    Pretrain(drop=0.0).refuse(world)
    with pytest.raises(ValueError, match=r"the size of a sample.*trainer.drop=0"):
        Pretrain(drop=0.1).refuse(world)
