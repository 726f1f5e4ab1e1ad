"""lambda by a target: the KL, the effective share and the mean reward of the tilt, where they are known."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pgdlab import cli
from pgdlab.guidance.base import Tilt
from pgdlab.guidance.gradient import Gradient
from pgdlab.guidance.metropolis import Metropolis
from pgdlab.guidance.multiplier import Multiplier
from pgdlab.guidance.smc import SMC
from pgdlab.guidance.soft_best_of_n import SoftBestOfN
from pgdlab.guidance.svdd import SVDD
from pgdlab.guidance.temperature import Target
from pgdlab.guidance.weights import normalised
from pgdlab.oracle.grid import law as laws
from tests.guidance.lines import PROBLEMS, Exact, source_of
from tests.worlds import tiny

VAR = 0.680566  # of the samples of N(0, 1) by 10 steps
# KL(T_full || base) at the lambda of the problem, computed elsewhere on another grid
KL = {"GL": 1.3611, "GQ": 1.8633, "GI": 2.4008, "ML": 1.1389, "MQ": 1.4066, "MI": 2.3906}


def exact_sample(name: str, count: int) -> Tensor:
    """So many evenly spread quantiles of the law of the chain's samples, from its masses on the grid."""
    source = source_of(name, 2)
    base = laws.chain_law(source.world.reference, lambda x: x[:, 0])
    half = float(base.nodes[1] - base.nodes[0]) / 2
    at = np.interp((np.arange(count) + 0.5) / count, base.mass.cumsum(0).numpy(), base.nodes.numpy() + half)
    return torch.from_numpy(at)[:, None]


@functools.cache
def rewards(name: str, count: int = 50_000) -> tuple[Tensor, Tensor]:
    x = exact_sample(name, count)
    cond = torch.zeros(count, dtype=torch.long)
    return source_of(name, 2).world.reward.score(x, cond).value, cond


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_kl_and_the_reward_that_a_lambda_has_give_it_back(name: str) -> None:
    """50,000 quantiles cut the tails, and an indicator jumps within a cell: 2 %."""
    found = rewards(name)
    line = PROBLEMS[name]
    assert Target(kl=KL[name]).solve(*found) == pytest.approx(line.lam, rel=0.02)
    assert Target(reward=line.tilted).solve(*found) == pytest.approx(line.lam, rel=0.02)


@pytest.mark.parametrize("name", ["MQ"])
def test_other_targets_by_the_grid(name: str) -> None:
    """At a lambda that no table has: KL of the grid's tilted law to the base, and E[w]^2 / E[w^2] of its masses."""
    source = source_of(name, 2)
    score = lambda x: source.world.reward.score(x, torch.zeros(len(x), dtype=torch.long)).value  # noqa: E731
    base = laws.chain_law(source.world.reference, score)
    for lam in (0.3, 1.7):
        law, log_z = laws.tilted(base, score, lam)
        _, log_z2 = laws.tilted(base, score, lam / 2)
        found = rewards(name)
        assert Target(kl=law.expected / lam - log_z).solve(*found) == pytest.approx(lam, rel=0.02)
        assert Target(ess=math.exp(2 * log_z - log_z2)).solve(*found) == pytest.approx(lam, rel=0.02)


@pytest.mark.parametrize("lam", [1.0, 2.0])
def test_closed_forms_of_a_linear_reward(lam: float) -> None:
    """r = x on N(0, VAR): KL VAR / 2 lam^2, share exp(-VAR / lam^2), E[r] VAR / lam."""
    found = rewards("GL")
    assert Target(kl=VAR / (2 * lam**2)).solve(*found) == pytest.approx(lam, rel=0.02)
    assert Target(ess=math.exp(-VAR / lam**2)).solve(*found) == pytest.approx(lam, rel=0.02)
    assert Target(reward=VAR / lam).solve(*found) == pytest.approx(lam, rel=0.02)


def test_figures_are_means_over_conditions() -> None:
    """Rewards 0, 1 under one condition, 0, 3 under another: E_w[r] is the mean of two such shares."""
    reward, cond = torch.tensor([0.0, 1.0, 0.0, 3.0]), torch.tensor([0, 0, 1, 1])
    aim = 0.5 * (1 / (1 + math.exp(-1 / 0.8)) + 3 / (1 + math.exp(-3 / 0.8)))
    assert Target(reward=aim).solve(reward, cond) == pytest.approx(0.8, rel=1e-9)


@pytest.mark.parametrize("make", [SMC, SoftBestOfN, Metropolis, SVDD, Gradient])
def test_every_tilt_is_settled_by_its_pilot(make: type[Tilt]) -> None:
    """20,000 samples of the base: GL at 1 nat has lambda sqrt(VAR / 2) = .583; the error of their KL there is some 2 %."""
    source = source_of("GL", 4)
    before = make(lam=Target(kl=1.0, samples=20_000))
    assert before.asks_before() == 20_000
    after, costs = before.settled(source)
    assert isinstance(after, make)
    assert after.lam == costs.lam == pytest.approx(math.sqrt(VAR / 2), rel=0.06)
    assert (costs.queries, costs.evaluations) == (20_000, 200_000)
    assert source.world.reward.asked == 20_000
    assert after.asks_before() == 0
    assert after.settled(source)[0] is after


def test_particles_reach_the_target() -> None:
    """GL, 1 nat: E[r] = VAR / lam = sqrt(2 VAR) = 1.167 of 2,000 particles, and their own estimate of the KL."""
    source = source_of("GL", 2000)
    settled, _ = Multiplier(particles=SMC(lam=Target(kl=1.0, samples=20_000), scored="all")).settled(source)
    assert isinstance(settled, Multiplier)
    population = settled.particles.population(source, 2000, 1)
    figures = population.figures(normalised(population.log_weight))
    assert figures["weighted_reward"] == pytest.approx(math.sqrt(2 * VAR), abs=0.1)
    assert figures["kl_estimate_nats"] == pytest.approx(1.0, abs=0.1)


def test_refusals() -> None:
    for wrong, said in (
        ({}, "none is given"), ({"kl": 1.0, "ess": 0.5}, "kl and ess is given"), ({"kl": 0.0}, "kl is 0.0"),
        ({"ess": 1.0}, "ess is 1.0"), ({"reward": 1.0, "samples": 1}, "samples is 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            Target(**wrong)  # type: ignore[arg-type]
    same = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="4 rewards of the base are all equal"):
        Target(kl=1.0).solve(torch.ones(4), same)
    with pytest.raises(
        ValueError, match=r"guidance.lam.kl is 5, and the rewards of 4 samples of the base have .* to 1.39"
    ):
        Target(kl=5.0).solve(torch.arange(4.0), same)
    soft = replace(SVDD(lam=Target(kl=1.0), potential=Fitted(name="GL")))
    with pytest.raises(ValueError, match=r"that of one lambda, 0\.5: guidance.lam=0\.5"):
        soft.refuse(source_of("GL", 2))


class Fitted(Exact):
    """Right at lambda .5 alone."""

    def temperature(self) -> float | None:
        return 0.5


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The pilot's queries are part of the budget: 48 - 16 left are 16 particles, asked about twice."""
    monkeypatch.chdir(tmp_path)
    aim = "guidance.lam={_target_: pgdlab.guidance.temperature.Target, ess: 0.5, samples: 16}"
    assert cli.main(tiny("task=steer", "guidance=smc", "plan.iterations=6", aim, "name=a")) == 0
    found = json.loads((tmp_path / "runs" / "steer-a" / "summary.json").read_text())
    assert (found["pilot_queries"], found["particles"], found["reward_queries"]) == (16, 16, 48)
    assert found["network_evaluations"] == (16 + 16) * 4
    assert f"exp(r(x) / {found['lam']:g})" in capsys.readouterr().out
