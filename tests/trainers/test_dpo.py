"""Learning from pairs: gradients and minimisers against closed forms, how pairs are made, and tables of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgdlab.penalties.path_kl import PathKL
from pgdlab.preferences.pairs import PairFile
from pgdlab.processes import Processes
from pgdlab.trainers.dpo import DPO
from pgdlab.trainers.paired import Paired, pairs_of
from pgdlab.world import World
from tests.tiny import Failing, Quadratic, TinyDomain, gradient, moved, tiny_policy, tiny_world

SLOPE = torch.tensor([1.5, -0.7], dtype=torch.float64)


def paired(count: int = 64, share: Tensor | None = None) -> Paired:
    """Data of condition 0, first and second halves side by side."""
    x, cond = TinyDomain().data("train")
    x = x[cond == 0][: 2 * count]
    share = torch.ones(count, dtype=torch.float64) if share is None else share
    return Paired(x[:count], torch.zeros(count, dtype=torch.long), share, 0, loser=x[count:], share=share)


def soft(count: int = 64) -> Paired:
    """With the exact odds of the reward SLOPE x as shares: no sampling noise, so that a minimiser is one pair by pair."""
    pairs = paired(count)
    return replace(pairs, share=((pairs.x0 - pairs.loser) @ SLOPE).sigmoid())


def explaining(world: World, weight: str) -> tuple[Tensor, Tensor]:
    """(w, 1 - k alpha) of every time: what a shift of the x0 estimate by d changes the log odds by is
    2 beta / (2 D) w (1 - k alpha) d (x_w - x_l), k the slope of the exact estimate, var alpha / (alpha^2 var + sigma^2)."""
    schedule, t = world.policy.denoiser.schedule, torch.arange(4)
    alpha, sigma, var = schedule.alpha(t), schedule.sigma(t), 0.25
    w = (alpha if weight == "eps" else torch.ones(4)) ** 2 / sigma**2
    return w, 1 - alpha * alpha * var / (alpha**2 * var + sigma**2)


def shifted(world: World, shift: Tensor) -> World:
    with torch.no_grad():
        world.policy.denoiser.shift.copy_(shift)  # type: ignore[operator, union-attr]
    return world


@pytest.mark.parametrize("weight", ["eps", "v"])
def test_one_time_alone_explains_the_whole_preference(weight: Any) -> None:
    """The shift d_t = b / (2 kappa w_t (1 - k_t alpha_t)), kappa = beta / (2 D), makes the log odds those of the reward at every
    pair, time and noise: the gradient is 0 there, and is not at half of it."""
    beta, world = 3.0, tiny_world()
    algorithm = DPO(beta=beta, weight=weight, batch=64, times=3)
    w, slope = explaining(world, weight)
    exact = SLOPE / (2 * beta / 4 * w * slope)[:, None]
    at = {part: gradient(shifted(world, part * exact), algorithm, soft()) for part in (1.0, 0.5)}
    assert max(g.abs().max() for g in at[1.0].values()) < 1e-12
    assert min(g.abs().max() for g in at[0.5].values()) > 1e-4


def test_summed_over_the_sampler_s_times_the_tilt_is_a_minimiser() -> None:
    """Every shift with sum_h 2 kappa w_h (1 - k_h alpha_h) d_h = b is one: that of the tilt exp(b x / lam), b P_h / lam, at the
    beta which this fixes; and so is one that moves the last time alone."""
    world = tiny_world()
    w, slope = explaining(world, "eps")
    schedule, t = world.policy.denoiser.schedule, torch.arange(4)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    post = 0.25 * sigma**2 / (alpha**2 * 0.25 + sigma**2)
    beta = 4 / (2 * (w * slope * post).sum().item())  # kappa = beta / 4, lam = 1
    tilt = post[:, None] * SLOPE
    alone = torch.zeros(4, 2, dtype=torch.float64)
    alone[0] = SLOPE / (2 * beta / 4 * w[0] * slope[0])
    for shift, zero in ((tilt, True), (alone, True), (tilt * 0.8, False)):
        found = gradient(shifted(world, shift), DPO(beta=beta, times="all"), soft())
        assert (max(g.abs().max() for g in found.values()) < 1e-12) == zero


def test_at_the_reference_it_is_log_two_and_antisymmetric() -> None:
    world, algorithm, pairs = tiny_world(), DPO(batch=64), paired()
    (piece,) = algorithm.micro_batches(pairs, 0, world)
    loss = algorithm.loss(pairs, piece, world)
    assert loss.value.item() == pytest.approx(math.log(2), rel=1e-14)
    there = gradient(world, algorithm, pairs)
    swapped = gradient(world, algorithm, replace(pairs, x0=pairs.loser, loser=pairs.x0))
    same = gradient(world, algorithm, replace(pairs, loser=pairs.x0))
    for name, g in there.items():
        torch.testing.assert_close(swapped[name], -g, rtol=1e-10, atol=1e-12)
        assert g.abs().max() > 1e-3
        assert same[name].abs().max() < 1e-10 * g.abs().max()


@pytest.mark.parametrize("times", [1, 2, "all"])
def test_the_loss_by_hand(times: Any) -> None:
    """-log sigmoid(beta / 2 (g_w - g_l)) a pair and a time, the mean outside the logarithm; g from the estimates of both."""
    world, algorithm = tiny_world(moved(tiny_policy()), tiny_policy()), DPO(beta=5.0, times=times, batch=8)
    pairs = paired(8, torch.tensor([1.0, 0.5] * 4, dtype=torch.float64))
    (piece,) = algorithm.micro_batches(pairs, 0, world)
    loss, total, right, decided = algorithm.loss(pairs, piece, world), 0.0, 0, 0
    count = len(piece.rows) // 8
    assert count == (4 if times == "all" else times)
    if times == "all":
        assert piece.t[:count].tolist() == world.policy.times[:4].tolist()
    schedule = world.policy.denoiser.schedule
    for i in range(8):
        odds = []
        for k in range(count):
            j = i * count + k
            row, t, noise = int(piece.rows[j]), piece.t[j : j + 1], piece.noise[j].double()
            alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
            off = []
            for x0 in (pairs.x0[row], pairs.loser[row]):
                x = (alpha * x0 + sigma * noise)[None]
                own, ref = (
                    p.denoiser(x, t, torch.zeros(1, dtype=torch.long))[0] for p in (world.policy, world.reference)
                )
                error = [
                    ((x - alpha * e)[0] / sigma - noise).square().mean().item() for e in (own, ref)
                ]  # of the noise
                off.append(error[1] - error[0])
            odds.append(5.0 / 2 * (off[0] - off[1]))
        share = pairs.share[row].item()
        odds = [sum(odds)] if times == "all" else odds
        total += (
            sum(share * math.log1p(math.exp(-o)) + (1 - share) * math.log1p(math.exp(o)) for o in odds) / len(odds) / 8
        )
        right, decided = right + (share == 1) * sum(o > 0 for o in odds) / len(odds), decided + (share == 1)
    assert loss.value.item() == pytest.approx(total, rel=1e-10)
    assert loss.logs["preference_accuracy"][0].item() == pytest.approx(right)
    assert loss.logs["preference_accuracy"][1] == decided == 4


def test_a_limit_ends_the_pull_of_a_decided_pair() -> None:
    """By finite differences: beyond the limit 0; below it, and on the wrong side, as without; a tie is pulled back."""
    odds = torch.tensor([-9.0, 0.5, 3.0, 3.0], dtype=torch.float64)
    share = torch.tensor([1.0, 1.0, 1.0, 0.5], dtype=torch.float64)

    def slopes(algorithm: DPO) -> list[float]:
        zero = torch.zeros(4, 1, dtype=torch.float64)
        each = [algorithm.contrast((odds + e)[:, None], zero, share)[0] for e in (-1e-5, 1e-5)]
        return ((each[1] - each[0]) / 2e-5).tolist()

    free, held = slopes(DPO(beta=2.0)), slopes(DPO(beta=2.0, limit=2.0))
    assert held == pytest.approx([free[0], free[1], 0.0, free[3]], abs=1e-9)
    assert min(abs(x) for x in free) > 1e-2
    with pytest.raises(ValueError, match=r"limit is 0.0; it must be above 0, in nats of log odds, or null"):
        DPO(limit=0.0)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_passes_and_processes_add_up(size: int) -> None:
    algorithm, pairs = DPO(batch=16, times=2), paired(16)
    whole = gradient(tiny_world(moved(tiny_policy()), tiny_policy()), algorithm, pairs)
    total = {name: torch.zeros_like(g) for name, g in whole.items()}
    for rank in (0, 1):
        world = tiny_world(moved(tiny_policy()), tiny_policy(), pass_size=size)
        for name, g in gradient(replace(world, processes=Processes(rank, 2)), algorithm, pairs).items():
            total[name] += g
    for name, g in whole.items():
        torch.testing.assert_close(total[name], g, rtol=1e-10, atol=1e-13)


def test_neighbours_of_a_group_are_compared_by_their_reward() -> None:
    """Groups of 5 of two conditions: 2 pairs each, of one condition; the one with the larger reward is preferred."""
    world = tiny_world(samples=40, group=5, train_conditions=(0, 1))
    pairs = DPO().collect(world, 0)
    assert len(pairs.x0) == 16
    reward = Quadratic()
    better, worse = (reward.score(x, pairs.cond).value for x in (pairs.x0, pairs.loser))
    assert bool((better > worse).all())
    assert pairs.queries == 40
    assert pairs.logs["pairs"] == 16
    assert sorted(pairs.cond.bincount().tolist()) == [8, 8]


def test_pairs_that_say_nothing_are_left_out() -> None:
    """Those with a sample that was not measured, and those worth the same; of none at all there is no update."""
    world = tiny_world(reward=Failing(Quadratic(), above=0.3), samples=64, max_failed=0.99)
    pairs = DPO().collect(world, 0)
    assert 0 < len(pairs.x0) < 32
    assert float(torch.cat([pairs.x0, pairs.loser])[:, 0].max()) <= 0.3
    world = tiny_world(reward=Quadratic(slope=(0.0, 0.0), curvature=(0.0, 0.0)))
    nothing = DPO().collect(world, 0)
    assert len(nothing.x0) == 0
    assert DPO().micro_batches(nothing, 0, world) == []


def test_a_temperature_draws_answers_with_the_odds_of_the_reward() -> None:
    """The share of answers against the reward is the mean of 1 - sigmoid(|r_1 - r_2| / T), within three standard errors."""
    world = tiny_world(samples=4000, group=2)
    certain, noisy = (DPO(temperature=t).collect(world, 0) for t in (0.0, 2.0))
    score = Quadratic().score
    gap = score(certain.x0, certain.cond).value - score(certain.loser, certain.cond).value
    against = (score(noisy.x0, noisy.cond).value < score(noisy.loser, noisy.cond).value).double().mean().item()
    p = 1 - (gap / 2).sigmoid()
    assert abs(against - p.mean().item()) < 3 * (p * (1 - p)).mean().sqrt().item() / len(gap) ** 0.5
    assert against > 0.2


def table(folder: Path, cond: Tensor) -> str:
    torch.save({"sample": torch.arange(8.0, dtype=torch.float64).reshape(4, 2), "cond": cond}, folder / "s.pt")
    file = PairFile(folder / "p.jsonl")
    for first, second, winner in ((0, 1, "second"), (2, 3, "first"), (0, 3, "tie")):
        file.append({"first": f"s.pt:{first}", "second": f"s.pt:{second}", "winner": winner})
    pairs_of.cache_clear()
    return str(file.path)


def test_a_table_is_learned_from_as_it_is(tmp_path: Path) -> None:
    algorithm, world = DPO(pairs=(table(tmp_path, torch.zeros(4)),)), tiny_world()
    algorithm.refuse(world)
    pairs = algorithm.collect(world, 0)
    assert pairs.x0[:, 0].tolist() == [2.0, 4.0, 0.0]
    assert pairs.loser[:, 0].tolist() == [0.0, 6.0, 6.0]
    assert pairs.share.tolist() == [1.0, 1.0, 0.5]
    assert pairs.queries == 0


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    rho: Any = tiny_policy(rho=True)
    for world in (tiny_world(rho), tiny_world(penalty=PathKL(coefficient=0.1))):
        with pytest.raises(ValueError, match=r"set initial=standard penalty=none"):
            DPO().refuse(world)
    with pytest.raises(ValueError, match=r"set plan.group to 2 or more"):
        DPO().refuse(tiny_world(group=1))
    with pytest.raises(ValueError, match=r"compares samples of different prompts"):
        DPO(pairs=(table(tmp_path, torch.tensor([0, 0, 0, 1])),)).refuse(tiny_world())
    with pytest.raises(ValueError, match=r"there is no file of pairs"):
        DPO(pairs=("nowhere.jsonl",)).refuse(tiny_world())
    for wrong, match in (
        ({"beta": 0.0}, "beta is 0.0"), ({"times": 0}, "times is 0; it must be at least 1, or all"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": 1.0, "pairs": ("a",)}, "pairs of a file have their answers"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            DPO(**wrong)
