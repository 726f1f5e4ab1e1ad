"""The learners' expected gradient by enumerating every episode, and what they reach, against dynamic programming."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pgdlab.oracle.tables import tabular
from pgdlab.oracle.tables.mdp import discounted_objective, discounted_values, finite_values, limit_matrix, policy_kl
from pgdlab.oracle.tables.problems import Average, Discounted, Finite, Problem
from pgdlab.oracle.tables.tabular import (
    CRITICS,
    EPISODIC,
    PROBLEMS,
    UNDISCOUNTED,
    ActorCritic,
    Batch,
    Critic,
    Learner,
    Plan,
    Reinforce,
    certify,
    certify_tables,
    draw,
    learn,
    queries_under,
    sample,
)
from pgdlab.oracle.tables.textbook import random_mdp

EXACT = {"rtol": 1e-11, "atol": 1e-12}  # fp64, sums over thousands of episodes with weights that sum to 1
MDP = random_mdp(2, 2, torch.Generator().manual_seed(0))
FINITE = Finite(name="", mdp=MDP, horizon=3, gamma=0.8, weight=0.3)
DISCOUNTED = Discounted(name="", mdp=MDP, horizon=3, gamma=0.8)
AVERAGE = Average(name="", mdp=MDP, horizon=1)


def point(problem: Problem) -> Tensor:
    """Logits of a policy that is not optimal, with one table a step where the problem has that."""
    tables = 1 if problem.stationary else problem.horizon
    generator = torch.Generator().manual_seed(1)
    return torch.randn(tables, 2, 2, dtype=torch.float64, generator=generator, requires_grad=True)


def no_critic(problem: Problem) -> Critic:
    return Critic(torch.zeros(1, problem.horizon + 1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))


def expected_gradient(
    problem: Problem,
    learner: Learner,
    monkeypatch: pytest.MonkeyPatch,
    critic: Critic | None = None,
    rows: int = 1,
    start: Tensor = MDP.start,
) -> Tensor:
    """-E[grad loss] of a batch of `rows` episodes. Every possible batch is a run of its own, and weighs what the code
    under test would draw it with: its draws are replaced by a script, whose probabilities it hands over itself."""
    episodes = torch.tensor(list(itertools.product((0, 1), repeat=2 * problem.horizon + 1)))
    batches = torch.cartesian_prod(*[torch.arange(len(episodes))] * rows).reshape(-1, rows)
    first, *later = episodes[batches.flatten()].T
    script, weight = iter(later), start[first].clone()

    def scripted(probabilities: Tensor, generator: torch.Generator) -> Tensor:
        column = next(script)
        weight.mul_(probabilities.gather(1, column[:, None])[:, 0])
        return column

    monkeypatch.setattr(tabular, "draw", scripted)
    own, critic = point(problem).detach(), critic or no_critic(problem)
    logits = own.expand(len(batches), *own.shape).clone().requires_grad_()
    old = logits.detach().log_softmax(-1)
    batch = sample(problem, old.exp(), first, torch.Generator())
    many = Critic(critic.values.repeat(len(batches), 1, 1), critic.average.repeat(len(batches)))
    loss = learner.loss(problem, batch, logits, old, learner.credit(problem, batch, many))
    each = weight.reshape(-1, rows).prod(1)
    assert each.sum().item() == pytest.approx(1, abs=1e-12)
    return -torch.einsum("r,rtsa->tsa", each, torch.autograd.grad(loss, logits)[0])


def exact_gradient(problem: Problem) -> Tensor:
    """Of the exact J, by autograd (which test_tables holds against finite differences)."""
    logits = point(problem)
    return torch.autograd.grad(problem.objective(logits.softmax(-1)), logits)[0]


def exact_critic(problem: Problem) -> Critic:
    """V of the point, by dynamic programming; the KL that a state pays is in it."""
    policy = point(problem).detach().softmax(-1)
    cost = problem.weight * policy_kl(policy, problem.even)
    values = finite_values(MDP, policy, problem.horizon, problem.gamma, cost)
    return Critic(values[None], torch.zeros(1, dtype=torch.float64))


# ---- the expected gradient


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("total", [True, False])
def test_reinforce_is_unbiased(total: bool, rows: int, clip: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole return or reward-to-go, with the other episode as baseline or none, discounted, with a KL (form A); PPO's
    first step on a batch is the same."""
    learner = Reinforce(name="", total=total, baseline="group" if rows > 1 else "none", clip=clip)
    found = expected_gradient(FINITE, learner, monkeypatch, rows=rows)
    torch.testing.assert_close(found, exact_gradient(FINITE), **EXACT)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_an_actor_with_the_exact_critic_is_unbiased(lam: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sutton et al. 1999, theorem 1: whatever lambda. The critic may learn on the way: its old V is what counts."""
    learner = ActorCritic(name="", lam=lam)
    found = expected_gradient(FINITE, learner, monkeypatch, exact_critic(FINITE))
    torch.testing.assert_close(found, exact_gradient(FINITE), **EXACT)


def test_a_wrong_critic_is_harmless_at_lambda_1_only(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Critic(torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(2)).double(), torch.zeros(1).double())
    exact = exact_gradient(FINITE)
    one = expected_gradient(FINITE, ActorCritic(name="", lam=1.0), monkeypatch, wrong)
    torch.testing.assert_close(one, exact, **EXACT)
    none = expected_gradient(FINITE, ActorCritic(name="", lam=0.0), monkeypatch, wrong)
    assert (none - exact).norm() > 0.1 * exact.norm()


def test_dropping_the_discount_of_states_is_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step's table is credited gamma^-h times too much: here known exactly."""
    plain = dataclasses.replace(FINITE, weight=0.0)
    found = expected_gradient(plain, Reinforce(name="", discount_states=False), monkeypatch)
    factors = 0.8 ** torch.arange(3, dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(found * factors, exact_gradient(plain), **EXACT)
    assert (found - exact_gradient(plain)).norm() > 0.1 * found.norm()


def test_a_cut_off_episode_bootstraps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinite horizon, pieces of 3 steps: with V of the stationary policy the gradient is that of letting the policy
    change in the first 3 steps only; without a critic the tail is missing and it is not."""
    policy = point(DISCOUNTED).detach().softmax(-1)
    critic = Critic(discounted_values(MDP, policy, 0.8)[None, None], torch.zeros(1, dtype=torch.float64))
    logits = point(DISCOUNTED)
    changed = torch.cat([logits.softmax(-1).expand(3, 2, 2), policy])
    (exact,) = torch.autograd.grad(discounted_objective(MDP, changed, 0.8), logits)
    for lam in (0.0, 0.5, 1.0):
        found = expected_gradient(DISCOUNTED, ActorCritic(name="", lam=lam), monkeypatch, critic)
        torch.testing.assert_close(found, exact, **EXACT)
    found = expected_gradient(DISCOUNTED, Reinforce(name=""), monkeypatch)
    assert (found - exact).norm() > 0.01 * exact.norm()


def test_the_average_reward_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step from the stationary distribution, exact bias and gain: E[delta grad log pi] = grad of the gain (Sutton
    et al. 1999, theorem 1), and rbar stays where it is, on average. The bias solves (I - P) h = r - g by pinv."""
    policy = point(AVERAGE).detach().softmax(-1)
    chain, reward = MDP.chain(policy[0])
    stationary = limit_matrix(chain)[0]
    gain = stationary @ reward
    bias = torch.linalg.pinv(torch.eye(2, dtype=torch.float64) - chain) @ (reward - gain)
    critic = Critic(bias[None, None], gain[None])
    found = expected_gradient(AVERAGE, ActorCritic(name="", lam=0.0), monkeypatch, critic, start=stationary)
    torch.testing.assert_close(found, exact_gradient(AVERAGE), **EXACT)


# ---- the parts


def test_draws_follow_the_probabilities() -> None:
    p = torch.tensor([[0.5, 0.0, 0.2, 0.3], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64).repeat_interleave(40_000, 0)
    counts = torch.nn.functional.one_hot(draw(p, torch.Generator().manual_seed(0)), 4).reshape(2, 40_000, 4).sum(1)
    assert counts[:, 1].tolist() == [0, 0], "what has no probability is never drawn"
    assert counts[1, 3] == 40_000
    error = 5 * math.sqrt(0.25 / 40_000)  # five standard errors of the largest
    torch.testing.assert_close(counts[0] / 40_000, p[0].float(), rtol=0, atol=error)


def test_episodes_follow_their_own_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run 0 always takes action 0, run 1 action 1, but at step 1 the other; what is paid is r(s, a)."""
    policy = torch.eye(2, dtype=torch.float64)[torch.tensor([[0, 1, 0], [1, 0, 1]])][:, :, None].expand(2, 3, 2, 2)
    first = torch.tensor([0, 1, 0, 1])
    plain = dataclasses.replace(FINITE, weight=0.0)
    batch = sample(plain, policy, first, torch.Generator().manual_seed(0))
    assert batch.run.tolist() == [0, 0, 1, 1]
    assert batch.actions.tolist() == [[0, 1, 0]] * 2 + [[1, 0, 1]] * 2
    assert batch.states[:, 0].equal(first)
    for n, h in itertools.product(range(4), range(3)):
        assert batch.rewards[n, h] == MDP.reward[batch.states[n, h], batch.actions[n, h]]
    # a deterministic policy of 2 actions is log 2 from the even one
    paid = sample(FINITE, policy, first, torch.Generator().manual_seed(0)).rewards
    torch.testing.assert_close(paid, batch.rewards - 0.3 * math.log(2), **EXACT)


def test_the_critic_moves_to_the_mean_of_what_a_state_saw() -> None:
    """Run 0: state 0 saw 1 and 3 at step 0, state 1 saw 8 at step 1; run 1 saw state 1 twice. The rest stays."""
    states = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 1, 1]])
    batch = Batch(torch.tensor([0, 0, 1]), torch.arange(3), states, states[:, :2], torch.zeros(3, 2).double())
    critic = Critic(torch.full((2, 3, 2), 10.0, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    targets = torch.tensor([[1, 6], [3, 8], [20, 30]], dtype=torch.float64)
    critic.regress(batch, targets, 0.5)
    assert critic.values.tolist() == [[[6, 10], [8, 9], [10, 10]], [[10, 15], [10, 20], [10, 10]]]


def test_each_run_finds_its_own_average_reward() -> None:
    """V = 0: the errors are r - rbar, their mean 2 - 1 and 7 - 5 over a run's pieces; half of that is added."""
    states, two = torch.zeros(4, 2, dtype=torch.long), torch.tensor([0, 0, 1, 1])
    rewards = torch.tensor([[1.0], [3.0], [6.0], [8.0]], dtype=torch.float64)
    critic = Critic(torch.zeros(2, 1, 2, dtype=torch.float64), torch.tensor([1.0, 5.0], dtype=torch.float64))
    batch = Batch(two, torch.zeros(2, dtype=torch.long), states, states[:, :1], rewards)
    credit = ActorCritic(name="", lam=0.0, critic_rate=0.5).credit(AVERAGE, batch, critic)
    assert critic.average.tolist() == [1.5, 6]
    assert credit.flatten().tolist() == [0, 2, 1, 3]
    assert critic.values[:, 0].tolist() == [[0.5, 0], [1, 0]]


def test_queries_are_the_median_over_runs() -> None:
    gaps = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.2, 0.05, 0.3, 0.2], [0.05, 0.3, 0.2, 0.3], [0.01, 0.01, 0.01, 0.3]])
    assert queries_under(0.1, gaps, 100) == 300, "first at 2, 1, 3, never: the upper of the middle two"
    assert queries_under(0.02, gaps[:3], 100) is None
    assert queries_under(0.6, gaps, 100) == 0


# ---- what they reach


SHORT = Plan(runs=8, episodes=32, iterations=150, every=150)
GRID, SOFT, LARGE, TAXI = PROBLEMS
REDUCED = [learner for learner in EPISODIC if learner.baseline != "none"]  # type: ignore[attr-defined]
PAIRS = [
    *[(GRID, learner) for learner in (*REDUCED, *CRITICS)],
    *[(SOFT, learner) for learner in (*EPISODIC, *CRITICS)],
    *[(TAXI, learner) for learner in CRITICS],
    *[(LARGE, learner) for learner in (*REDUCED[1:], *CRITICS[1:], UNDISCOUNTED)],
]


@pytest.mark.parametrize(("problem", "learner"), PAIRS, ids=[f"{p.name}: {x.name}" for p, x in PAIRS])
def test_they_reach_the_optimum(problem: Problem, learner: Learner) -> None:
    """Half the iterations of the certificate. A softmax policy only tends to a deterministic optimum: with Adam's steps
    of 0.1 the probability left to worse actions is some percent by then, and the gap with it; the KL-regularised
    optimum is inside, and what is left there is sampling noise. J of no policy exceeds J*."""
    row = certify(problem, learner, SHORT, torch.Generator().manual_seed(1))
    assert row.gap >= -1e-9
    assert row.high < 0.06  # measured: 0.01 to 0.045, by seed and row


def test_the_certificate_is_the_same_for_a_seed_and_that_of_the_page() -> None:
    plan = Plan(runs=3, episodes=4, iterations=4, every=2)
    rows = certify_tables(3, plan)
    assert rows == certify_tables(3, plan)
    assert rows != certify_tables(4, plan)
    names = [(row.problem, row.algorithm) for row in rows]
    assert len(names) == len(set(names)) == 2 * 8 + 9 + 3
    assert learn(GRID, CRITICS[0], plan, torch.Generator().manual_seed(0)).shape == (3, 3)
    assert all(row.low <= row.gap <= row.high for row in rows)
    page = (Path(__file__).parents[2] / "docs" / "oracle" / "tables.md").read_text()
    stated = re.findall(r"^\| (.*?) \| (.*?) \| -?[\d.]+ \| (-?[\d.]+) \|", page, re.MULTILINE)
    assert stated == [(row.problem, row.algorithm, f"{row.optimum:.3f}") for row in rows]
