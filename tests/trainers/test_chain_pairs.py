"""DPO on the densities of the chain: minimisers against closed forms, how pairs are made, and what the published clamp does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgdlab.penalties.path_kl import PathKL
from pgdlab.processes import Processes
from pgdlab.rollout.noise import Noise
from pgdlab.trainers.chain_pairs import Actions, ChainPairs
from pgdlab.trainers.d3po import D3PO, OneStart
from pgdlab.trainers.spo import SPO
from pgdlab.world import World
from tests.tiny import Failing, Quadratic, gradient, moved, tiny_policy, tiny_world
from tests.trainers.test_fixed_points import Line

SLOPE = torch.tensor([1.5, -0.7], dtype=torch.float64)
LINEAR = Quadratic(tuple(SLOPE.tolist()), (0.0, 0.0))


def chain(world: World) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the base of tiny_world: (v_h, std_h), the slopes k_h of its estimates (var .25), d s_H / d s_{h+1}."""
    policy, schedule = world.policy, world.policy.denoiser.schedule
    t = policy.times[:-1]
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    k = 0.25 * alpha / (alpha.square() * 0.25 + sigma.square())
    u, v, std = (x.double() for x in policy.coefficients)
    after = (u + v * k).flip(0).cumprod(0).flip(0)
    return v, std, k, torch.cat([after[1:], torch.ones(1, dtype=torch.float64)])


def at(world: World, mean: Tensor) -> World:
    """The policy whose step h has its mean moved by mean[h] (H, 2) off the base's."""
    v, std, _, _ = chain(world)
    with torch.no_grad():
        for h, t in enumerate(world.policy.times[:-1].long().tolist()):
            world.policy.denoiser.shift[t] = mean[h] / v[h] if std[h] > 0 else 0.0  # type: ignore[index, operator, union-attr]
    return world


def soft(pairs: Actions, odds: Tensor) -> Actions:
    """With exact odds as shares: no noise of answers, so that a minimiser is one pair by pair."""
    return replace(pairs, share=odds.sigmoid())


def ends(pairs: Actions) -> Tensor:
    """The final samples of the terms' pairs (T, 2, *D): five states a row."""
    return pairs.points[pairs.action[:, 0] // 5 * 5 + 4]


def largest(world: World, algorithm: ChainPairs, pairs: Actions) -> float:
    return max(float(g.abs().max()) for g in gradient(world, algorithm, pairs).values())


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.2])
def test_the_sum_over_the_steps_has_the_attainable_optimum(eta: float) -> None:
    """For r = b x the optimum moves step h by std_h^2 c_h b / lambda, c_h = d s_H / d s_{h+1}; with answers that have the odds
    of r / T and beta = lambda / T no pair pulls there, because both began at one s_0. At 0.8 of it they do."""
    world = tiny_world(tiny_policy(eta=eta), reward=LINEAR, samples=64)
    algorithm = D3PO(beta=0.25, temperature=2.0, batch=32)  # lambda .5
    pairs = algorithm.collect(world, 0)
    assert pairs.state.shape == (32, 3, 2)
    assert torch.equal(pairs.points[pairs.state[:, 0, 0]], pairs.points[pairs.state[:, 0, 1]])
    final = ends(pairs) @ SLOPE
    pairs = soft(pairs, (final[:, 0] - final[:, 1]) / 2.0)
    _, std, _, c = chain(world)
    best = (std.square() * c)[:, None] * SLOPE / 0.5
    assert largest(at(world, best), algorithm, pairs) < 1e-12
    assert largest(at(world, 0.8 * best), algorithm, pairs) > 1e-3


def alone(s: np.ndarray) -> np.ndarray:
    """What a step is moved by (in units of its std) if it explains a preference by itself whose log odds are sum_h s_h z_h, z_h
    ~ N(0, 2) apart: E[(sigmoid(a z) - sigmoid(s z + rest)) z] = 0, by Gauss-Hermite sums and bisection."""
    x, w = np.polynomial.hermite_e.hermegauss(60)
    w, z, found = w / w.sum(), math.sqrt(2) * x, []
    for h in range(len(s)):
        rest = math.sqrt(2 * (np.sum(s**2) - s[h] ** 2)) * x
        truth = (1 / (1 + np.exp(-(s[h] * z[:, None] + rest))) @ w) * z @ w
        low, high = 0.0, float(s[h])
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if (z / (1 + np.exp(-middle * z)) @ w) < truth else (low, middle)
        found.append(low)
    return np.array(found)


def test_each_step_alone_falls_short_of_it() -> None:
    """Ten steps of eta 1, r = x, lambda .5: four fifths of every step's move, the last one's too, and E[r] 1.10 where the optimum
    has 1.36. A step's own noise is a small part of what decides, and what the others add flattens its odds."""
    line = Line()
    after = (line.u + line.v * line.alpha).flip(0).cumprod(0).flip(0)
    odds = line.std * torch.cat(
        [after[1:], torch.ones(1, dtype=torch.float64)]
    )  # beta log w at the optimum, a unit of noise
    found = torch.from_numpy(alone(odds.numpy()))
    assert 0.78 < (found / odds).min() < (found / odds).max() < 0.82
    for move, mean in ((found, 1.100), (odds, 1.3611)):
        assert line.final(line.alpha, line.std * move / 0.5 / line.v)[0] == pytest.approx(mean, abs=1e-3)


def test_the_published_form_is_still_where_each_step_explains_the_preference() -> None:
    """The mean gradient of 20 collections at the moves of `alone`, over its standard error, along b at every step; at the
    attainable optimum, which is larger, it is far from 0."""
    algorithm, world = (
        D3PO(beta=0.5, steps="each", temperature=1.0, batch=6000),
        tiny_world(reward=LINEAR, samples=4000),
    )
    _, std, _, c = chain(world)
    size, unit = SLOPE.norm(), SLOPE / SLOPE.norm()
    s = (std * c * size)[:3]
    base = [algorithm.collect(world, i) for i in range(20)]
    base = [soft(p, (ends(p) @ SLOPE) @ torch.tensor([1.0, -1.0], dtype=torch.float64)) for p in base]

    def deviation(move: Tensor) -> Tensor:
        mean = torch.zeros(4, 2, dtype=torch.float64)
        mean[:3] = (std[:3] * move / 0.5)[:, None] * unit
        each = torch.stack([gradient(at(world, mean), algorithm, p)["denoiser.shift"] @ unit for p in base])
        used = each[:, world.policy.times[:3].long()]
        return used.mean(0) / (used.std(0) / 20**0.5)

    assert deviation(torch.from_numpy(alone(s.numpy()))).abs().max() < 4.5
    assert deviation(s).abs().max() > 10


def test_the_published_clamp_stops_a_pair_almost_at_once() -> None:
    """Of w to 1 +- .1: the logit is at most beta log(1.1 / .9), .020 at the published beta .1, so that the loss is between .683
    and .703 whatever the policy does, and beyond it has no gradient at all."""
    world = tiny_world(moved(tiny_policy()), tiny_policy().reference(), samples=64)
    algorithm = D3PO(beta=0.1, steps="each", clamp=0.1, batch=96)
    pairs = algorithm.collect(world, 0)
    (piece,) = algorithm.micro_batches(pairs, 0, world)
    assert 0.683 < algorithm.loss(pairs, piece, world).value.item() < 0.7035
    assert largest(world, algorithm, pairs) < 0.2 * largest(world, replace(algorithm, clamp=None), pairs)
    far = tiny_world(moved(tiny_policy(), size=20.0), tiny_policy().reference(), samples=64)
    assert largest(far, algorithm, pairs) == 0.0
    assert largest(far, replace(algorithm, clamp=None), pairs) > 1e-3


def test_pairs_are_neighbours_that_begin_with_the_same_noise() -> None:
    """Whatever the batches are, and all other numbers are those of the samples alone."""
    own = Noise(3).of(2, range(4, 12))
    plain, paired = (torch.stack(list(x.steps(0, 8, 3, (2,)))) for x in (own, OneStart(own)))
    assert torch.equal(paired[0], plain[0, ::2].repeat_interleave(2, 0))
    assert torch.equal(paired[1:], plain[1:])
    parts = [torch.stack(list(OneStart(own).steps(a, b, 3, (2,)))) for a, b in ((0, 3), (3, 8))]
    assert torch.equal(torch.cat(parts, 1), paired)


def test_the_better_of_two_is_preferred_and_failed_ones_are_left_out() -> None:
    world = tiny_world(reward=Failing(Quadratic(), above=0.4), samples=64, max_failed=0.99)
    pairs = D3PO().collect(world, 0)
    reward = Quadratic().score(ends(pairs).flatten(0, 1), torch.zeros(2 * len(pairs.state))).value.reshape(-1, 2)
    assert 0 < len(reward) < 32
    assert (reward[:, 0] > reward[:, 1]).all()
    assert float(ends(pairs)[..., 0].max()) <= 0.4
    assert (pairs.logs["pairs"], pairs.queries, pairs.evaluations) == (len(reward), 64, 4 * 64)


def test_spo_s_minimum_is_each_step_s_tilt_by_the_reward_of_its_estimate() -> None:
    """r = b x of the estimate k' a of an action a: with the odds of r / T the step's mean moves by std^2 k' b / (beta T), the
    slope k' that of the reference's estimate a step later."""
    world = tiny_world(reward=LINEAR, samples=64)
    algorithm = SPO(beta=0.4, temperature=1.5, start=0, batch=96)
    pairs = algorithm.collect(world, 0)
    assert len(pairs.state) == 96  # 32 states a step, 3 steps with noise
    assert pairs.queries == 64 + 3 * 64
    assert pairs.evaluations == 4 * 64 + 3 * 64
    _, std, k, _ = chain(world)
    after = torch.cat([k[1:], torch.ones(1, dtype=torch.float64)])[pairs.step[:, 0]]
    action = pairs.points[pairs.action[:, 0]]
    pairs = soft(pairs, after * ((action[:, 0] - action[:, 1]) @ SLOPE) / 1.5)
    later = torch.cat([k[1:], torch.zeros(1, dtype=torch.float64)])
    best = (std.square() * later)[:, None] * SLOPE / (0.4 * 1.5)
    assert largest(at(world, best), algorithm, pairs) < 1e-12
    assert largest(at(world, 0.8 * best), algorithm, pairs) > 1e-3


def test_spo_compares_actions_of_one_state_by_their_estimates() -> None:
    """Best and worst of four by the reward of the reference's estimate; a later step's state is one of the actions before it."""
    reward = Quadratic((1.0, -0.5), (3.0, 1.0))
    world = tiny_world(moved(tiny_policy()), tiny_policy().reference(), reward=reward, samples=400, group=4)
    pairs = SPO(actions=4, start=1).collect(world, 0)
    assert pairs.step.unique().tolist() == [1, 2]
    value = torch.empty(len(pairs.state), 2, dtype=torch.float64)
    for i in (0, 1):
        action = pairs.points[pairs.action[:, 0, i]]
        estimate = world.reference.estimate(action, pairs.step[:, 0] + 1, pairs.cond)
        value[:, i] = reward.score(estimate, pairs.cond).value
    assert (value[:, 0] > value[:, 1]).all()
    assert torch.equal(pairs.state[..., 0], pairs.state[..., 1])
    again = SPO(actions=4, start=1).collect(
        replace(world, capacity=type(world.capacity)(4, 10**9)), 0
    )  # a slot a batch
    torch.testing.assert_close(again.points, pairs.points)


def test_answers_at_a_temperature_have_the_odds_of_the_reward() -> None:
    """The share that goes against the reward, mean of 1 - sigmoid(gap / T), within four standard errors."""
    for algorithm in (D3PO(temperature=2.0), SPO(temperature=0.5, start=0)):
        world = tiny_world(reward=LINEAR, samples=4000)
        pairs, certain = algorithm.collect(world, 0), replace(algorithm, temperature=0.0).collect(world, 0)
        if isinstance(algorithm, D3PO):
            gap, sure = ((ends(p) @ SLOPE) @ torch.tensor([1.0, -1.0]).double() for p in (pairs, certain))
        else:
            _, _, k, _ = chain(world)
            slope = torch.cat([k[1:], k[:1]])
            moved_by = [p.points[p.action[:, 0, 0]] - p.points[p.action[:, 0, 1]] for p in (pairs, certain)]
            gap, sure = (slope[p.step[:, 0]] * (x @ SLOPE) for p, x in zip((pairs, certain), moved_by, strict=True))
        p = 1 - (sure / algorithm.temperature).sigmoid()
        assert abs((gap < 0).double().mean() - p.mean()) < 4 * ((p * (1 - p)).mean() / len(gap)).sqrt()
        assert 0.1 < p.mean() < 0.45


@pytest.mark.parametrize("algorithm", [D3PO(batch=12), D3PO(steps="each", batch=12), SPO(start=0, batch=12)], ids=str)
@pytest.mark.parametrize("size", [1, 7, 64])
def test_passes_and_processes_add_up(algorithm: ChainPairs, size: int) -> None:
    """Two processes have the terms of two halves of the samples."""
    world = tiny_world(moved(tiny_policy()), tiny_policy().reference(), samples=32)
    pairs = algorithm.collect(world, 0)
    whole, cut = gradient(world, algorithm, pairs), len(pairs.state) // 3
    total = {name: torch.zeros_like(g) for name, g in whole.items()}
    for rank, (first, last) in enumerate(((0, cut), (cut, len(pairs.state)))):
        some = {x: getattr(pairs, x)[first:last] for x in ("state", "action", "step", "cond", "share")}
        small = tiny_world(world.policy, world.reference, samples=32, pass_size=size)
        here = replace(small, processes=Processes(rank, 2))
        for name, g in gradient(here, algorithm, replace(pairs, first=first, **some)).items():
            total[name] += g
    for name, g in whole.items():
        torch.testing.assert_close(total[name], g, rtol=1e-10, atol=1e-13)


def test_what_cannot_be_is_refused() -> None:
    rho: Any = tiny_policy(rho=True)
    for algorithm in (D3PO(), SPO(start=0)):
        for world in (tiny_world(rho), tiny_world(penalty=PathKL(coefficient=0.1))):
            with pytest.raises(ValueError, match=r"set initial=standard penalty=none"):
                algorithm.refuse(world)
        with pytest.raises(ValueError, match=r"plan.group is 3.* must be multiples of 2"):
            algorithm.refuse(tiny_world(group=3, samples=12))
        with pytest.raises(ValueError, match=r"set policy.kernel.eta above 0"):
            algorithm.refuse(tiny_world(tiny_policy(eta=0.0)))
    with pytest.raises(ValueError, match=r"trainer.start is 4, and no step from there on has noise: lower it"):
        SPO().refuse(tiny_world())
    for kind, wrong, match in (
        (D3PO, {"beta": 0.0}, "beta is 0.0"), (D3PO, {"clamp": 1.0}, "clamp is 1.0"), (D3PO, {"batch": 0}, "batch is 0"),
        (SPO, {"actions": 1}, "actions is 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            kind(**wrong)  # type: ignore[arg-type]
