"""The diffusion loss as a penalty: the law that each utility has as its optimum, the loss in nats, and a chain's optimum."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.oracle.linear_gaussian import Problem, affine_chain, optimum
from pgdlab.penalties.base import Known, Penalties
from pgdlab.penalties.data_loss import DataLoss
from pgdlab.trainers.data import own_loss, valued
from pgdlab.trainers.reinforce import Reinforce
from pgdlab.world import World
from tests.tiny import FastNoise, Quadratic, gradient, penalties, tiny_policy, tiny_world
from tests.worlds import POINTS, fitted

LAM = 0.5
REWARD = torch.tensor([0.0, 0.4, 1.0, -0.7, 0.2], dtype=torch.float64)
DATA = torch.tensor([2, 3, 1, 3, 1])  # how often each point is in the data


def informed(**settings: object) -> DataLoss:
    """A penalty that has heard of ten samples of five points."""
    penalty, rows = DataLoss(coefficient=LAM, **settings), torch.arange(5).repeat_interleave(DATA)  # type: ignore[arg-type]
    penalty.learn(Known(rows[:, None].double(), torch.zeros(10, dtype=torch.long), REWARD[rows]))
    return penalty


def best(penalty: DataLoss) -> Tensor:
    """The law of five points that maximises E[f(r)] - lambda KL(data || p), by Newton's method of torch in its logits."""
    data, logits = DATA / 10.0, torch.zeros(5, dtype=torch.float64, requires_grad=True)
    paid = penalty.utility(REWARD, torch.zeros(5, dtype=torch.long))
    solver = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        log_p = logits.log_softmax(0)
        loss = -(log_p.exp() * paid).sum() - LAM * (data * log_p).sum()
        loss.backward()
        return loss

    solver.step(closure)
    return logits.detach().softmax(0)


def test_the_optimum_is_the_tilt_of_the_data() -> None:
    """p_data exp(r / lambda), normalised, of a finite set; with f = r lambda p_data / (nu - r), nu by bisection."""
    data = DATA / 10.0
    tilt = data * (REWARD / LAM).exp()
    torch.testing.assert_close(best(informed()), tilt / tilt.sum(), rtol=1e-5, atol=1e-7)
    low, high = REWARD.max(), REWARD.max() + 10
    for _ in range(100):
        nu = (low + high) / 2
        low, high = (nu, high) if (LAM * data / (nu - REWARD)).sum() > 1 else (low, nu)
    published = LAM * data / (low - REWARD)
    torch.testing.assert_close(best(informed(utility="reward")), published, rtol=1e-5, atol=1e-7)
    assert (published - tilt / tilt.sum()).abs().max() > 0.05


def test_each_condition_has_its_own_normaliser() -> None:
    """-lambda exp(-(r - Z) / lambda) is -lambda on average over the tilt: under every condition by itself."""
    penalty, cond = DataLoss(coefficient=LAM), torch.tensor([0, 0, 1, 1])
    reward = torch.tensor([0.0, 1.0, 5.0, 5.5], dtype=torch.float64)
    penalty.learn(Known(reward[:, None], cond, reward))
    paid = penalty.utility(reward, cond)
    for c in (0, 1):
        p = (reward[cond == c] / LAM).softmax(0)
        assert float((p * paid[cond == c]).sum()) == pytest.approx(-LAM, rel=1e-12)


def shifted(by: float = 0.0) -> tuple[Policy, Policy]:
    policy = tiny_policy()
    reference = policy.reference()
    with torch.no_grad():
        policy.denoiser.shift += by
    return policy, reference


def test_the_loss_is_the_path_kl_from_the_data_in_nats() -> None:
    """Estimates moved by .1: v_h^2 .01 D / (2 std_h^2) a step, whatever the samples, and 0 for the base itself, with its
    gradient. The parts of two processes add up to that of one."""
    for by in (0.0, 0.1):
        policy, reference = shifted(by)
        penalty = DataLoss(coefficient=LAM, samples=8, batch=30)
        penalty.learn(Known(torch.randn(8, 2, dtype=torch.float64), torch.zeros(8, dtype=torch.long), torch.zeros(8)))
        steps = policy.stochastic_steps
        expected = LAM * sum(float(policy.from_x0[h] ** 2 * by**2 * 2 / (2 * policy.std[h] ** 2)) for h in steps)
        generator = torch.Generator().manual_seed(0)
        loss, rows = penalty.own_loss(policy, reference, generator, 0, 1)
        assert (float(loss.detach()), rows) == (pytest.approx(expected, rel=1e-9, abs=1e-12), 60)
        assert penalty.logs()["penalty/data_nats"] == pytest.approx(expected / LAM, abs=1e-12)
        halves = [penalty.own_loss(policy, reference, torch.Generator().manual_seed(0), r, 2)[0] for r in (0, 1)]
        assert float(sum(halves).detach()) == pytest.approx(float(loss.detach()), rel=1e-12, abs=1e-14)
        (slope,) = torch.autograd.grad(loss, policy.denoiser.shift)
        assert bool(slope.any()) == bool(by)


def test_of_the_training_data_it_is_the_error_of_the_clean_samples() -> None:
    """At the exact denoiser sum_h v_h^2 D P_h / (2 std_h^2), P_h the variance that x_h leaves of x_0 (std .5): to 5 % of a large
    batch. The data of the trained condition alone is used, and scored; the trajectories' returns are then the utility's."""
    policy, reference = shifted()
    penalty = DataLoss(coefficient=LAM, data="train", samples=1000, batch=20_000)
    world = tiny_world(policy, reference, penalty=penalty)
    collected = Reinforce().interaction.collect(world, request(world))
    counted, paid = valued(world, collected, first=True)
    assert paid == {"queries": 1000, "evaluations": 0}
    assert valued(world, collected, first=False)[1] == {"queries": 0, "evaluations": 0}
    reward, known = collected.rewards.total, penalty.known.reward / LAM  # type: ignore[union-attr]
    z = LAM * (known.exp().mean()).log()
    torch.testing.assert_close(counted.rewards.values[:, -1], -LAM * ((z - reward) / LAM).exp())
    assert not counted.rewards.values[:, :-1].any()
    assert not penalty.known.cond.any()  # type: ignore[union-attr]
    schedule, expected = policy.denoiser.schedule, 0.0
    for h in policy.stochastic_steps:
        t = policy.times[h : h + 1]
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        left = 0.25 * sigma**2 / (alpha**2 * 0.25 + sigma**2)
        expected += float(policy.from_x0[h] ** 2 / (2 * policy.std[h] ** 2)) * 2 * left
    assert own_loss(world, torch.Generator().manual_seed(0))[0].item() == pytest.approx(LAM * expected, rel=0.05)


def request(world: World):  # type: ignore[no-untyped-def]
    from pgdlab.rollout.sampler import Extras
    from pgdlab.trainers.interaction import training_request

    return training_request(world, 0, [0, 1, 2], Extras())


@pytest.mark.parametrize("utility", ["tilt", "reward"])
def test_the_chain_rests_at_the_attainable_optimum(utility: str) -> None:
    """On a linear reward, of which the tilt of the path moves means alone: there the gradient of a large batch falls to an eighth
    of the base's. Both utilities have it, since a chain can only move its means and the slope of f = r is 1, as that of the
    tilt's on average over the tilt."""
    policy, reference = shifted()
    penalty = DataLoss(coefficient=2.0, utility=utility, samples=20_000, batch=600)  # type: ignore[arg-type]
    reward = Quadratic((1.0, -0.5), (0.0, 0.0))
    world = tiny_world(policy, reference, reward, penalty, FastNoise(1), samples=20_000, group=20_000)
    zero = torch.zeros(2, 2, dtype=torch.float64)
    problem = Problem(affine_chain(reference, torch.tensor([0])), reward.slope, zero, 2.0, 2.0)
    base = gradient(world, Reinforce())["denoiser.shift"].abs().max().item()
    best = optimum(problem).chain
    with torch.no_grad():
        for h in policy.stochastic_steps:
            policy.denoiser.shift[policy.times[h]] = (best.shift - problem.reference.shift)[0, h] / policy.from_x0[h]
    assert gradient(world, Reinforce())["denoiser.shift"].abs().max().item() < base / 8


def test_a_run_counts_what_the_data_costs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Two iterations of 8 samples, and 16 of the base, scored once."""
    words = ("penalty=[data_loss]", "penalty.data_loss.samples=16", "penalty.data_loss.batch=6")
    module = fitted(tmp_path, *POINTS, *words)
    first, second = module.history[-2:]
    assert (first["queries"], second["queries"]) == (24, 32)
    assert second["penalty/data_nats"] >= 0


def test_what_does_not_go_together_is_refused() -> None:
    for wrong in ({"coefficient": 0.0}, {"samples": 1}, {"batch": 0}):
        with pytest.raises(ValueError, match="coefficient must be above 0, samples at least 2"):
            DataLoss(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no term for the initial distribution"):
        Reinforce().refuse(tiny_world(tiny_policy(rho=True), penalty=DataLoss()))
    assert Penalties({"a": DataLoss()}).data_source() == ("reference", 512)
    assert Penalties().data_source() is None
    assert dataclasses.is_dataclass(Known)
    assert penalties(None).data_source() is None
