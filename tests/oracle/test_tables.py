"""Dynamic programming against printed numbers, all deterministic policies, linear programs and matrix powers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from pgdlab.oracle.tables import mdp as tables
from pgdlab.oracle.tables.mdp import (
    MDP,
    average_objective,
    backward_induction,
    discounted_objective,
    discounted_values,
    finite_objective,
    finite_values,
    limit_matrix,
    policy_iteration,
    policy_kl,
    relative_value_iteration,
    soft_backward_induction,
    value_iteration,
)
from pgdlab.oracle.tables.textbook import even, fp64, large_grid, random_mdp, small_grid, taxicab, toymaker

EXACT = {"rtol": 1e-11, "atol": 1e-11}  # fp64, sums of some hundred numbers of size 1 to 100
SEEDS = range(3)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_policy(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed)).softmax(-1)


def deterministic_policies(mdp: MDP) -> Iterator[Tensor]:
    states, actions = mdp.reward.shape
    for choice in itertools.product(range(actions), repeat=states):
        yield torch.eye(actions, dtype=torch.float64)[list(choice)]


def ring(states: int = 4) -> MDP:
    """Clockwise or back, on an even number of states: every policy is periodic with period 2 or more."""
    transition = torch.zeros(states, 2, states, dtype=torch.float64)
    for s in range(states):
        transition[s, 0, (s + 1) % states] = transition[s, 1, s - 1] = 1
    reward = torch.randn(states, 2, dtype=torch.float64, generator=generator(5))
    return MDP(transition=transition, reward=reward, start=even(states))


def followed(mdp: MDP, rules: list[Tensor]) -> Tensor:
    """E[r_h] of every step, by the distribution of states going forward: nothing of Bellman's equation."""
    state, paid = mdp.start.clone(), []
    for rule in rules:
        both = state[:, None] * rule
        paid.append((both * mdp.reward).sum())
        state = torch.einsum("sa,sat->t", both, mdp.transition)
    return torch.stack(paid)


# ---- what the textbooks print


def test_howards_toymaker() -> None:
    """Howard 1960: tables 3.1 (values to three decimals), and the policies; gain 2, bias 10 apart (ch. 4)."""
    best = backward_induction(toymaker(), 4)
    expected = fp64([[12.222, 2.223], [10.22, 0.23], [8.2, -1.7], [6, -3], [0, 0]])
    torch.testing.assert_close(best.values, expected, **EXACT)
    assert best.policy.argmax(-1).tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
    assert best.objective == pytest.approx((12.222 + 2.223) / 2)
    average = relative_value_iteration(toymaker())
    assert average.objective == pytest.approx(2, abs=1e-9)
    torch.testing.assert_close(average.values, fp64([0, -10]), rtol=0, atol=1e-6)
    # ch. 7, gamma 0.9: V = 22.2 and 12.3. Exactly: (I - 0.9 P) V = r with rows (.28, -.18 | 4), (-.63, .73 | -5)
    exact = fp64([4 * 0.73 - 5 * 0.18, -5 * 0.28 + 4 * 0.63]) / (0.28 * 0.73 - 0.18 * 0.63)
    torch.testing.assert_close(policy_iteration(toymaker(), 0.9).values, exact, **EXACT)
    assert [round(v, 1) for v in exact.tolist()] == [22.2, 12.3]


def test_howards_taxicab() -> None:
    """Howard 1960, ch. 4: cruising everywhere earns 9.2; the stand everywhere 13.34, bias -1.18, 12.66, 0 (here exact:
    the stationary distribution of the best policy is (8, 102, 9) / 119)."""
    cab = taxicab()
    best = relative_value_iteration(cab)
    gain = (8 * 2.75 + 102 * 15 + 9 * 4) / 119
    assert best.objective == pytest.approx(gain, abs=1e-9)
    assert round(gain, 2) == 13.34
    assert best.policy.argmax(-1).tolist() == [1, 1, 1]
    assert [round(v, 2) for v in (best.values - best.values[2]).tolist()] == [-1.18, 12.66, 0]
    cruise = torch.eye(3, dtype=torch.float64)[[0, 0, 0]]
    assert average_objective(cab, cruise).item() == pytest.approx(9.2, abs=1e-12)
    assert policy_iteration(cab, 0.9).policy.argmax(-1).tolist() == [1, 1, 1]


def test_the_grid_of_example_4_1() -> None:
    """Sutton & Barto 2018, figure 4.1: the even policy to convergence, and minus the distance to a corner."""
    printed = [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]]
    values = finite_values(small_grid(), torch.full((16, 4), 0.25, dtype=torch.float64), 1000)
    # the walk survives 1000 moves with probability 0.95^1000, the largest eigenvalue of the transient part
    torch.testing.assert_close(values[0].reshape(4, 4), fp64(printed), rtol=0, atol=1e-9)
    best = backward_induction(small_grid(), 6)
    distance = [[min(i + j, 6 - i - j) for j in range(4)] for i in range(4)]
    assert best.values[0].reshape(4, 4).tolist() == (-fp64(distance)).tolist()
    assert best.objective == pytest.approx(-28 / 14)


def test_the_grid_of_examples_3_5_and_3_8() -> None:
    """Sutton & Barto 2018, figures 3.2 and 3.5, all to one decimal."""
    printed = [
        [3.3, 8.8, 4.4, 5.3, 1.5], [1.5, 3.0, 2.3, 1.9, 0.5], [0.1, 0.7, 0.7, 0.4, -0.4],
        [-1.0, -0.4, -0.4, -0.6, -1.2], [-1.9, -1.3, -1.2, -1.4, -2.0],
    ]  # fmt: skip
    best = [
        [22.0, 24.4, 22.0, 19.4, 17.5], [19.8, 22.0, 19.8, 17.8, 16.0], [17.8, 19.8, 17.8, 16.0, 14.4],
        [16.0, 17.8, 16.0, 14.4, 13.0], [14.4, 16.0, 14.4, 13.0, 11.7],
    ]  # fmt: skip
    values = discounted_values(large_grid(), torch.full((25, 4), 0.25, dtype=torch.float64), 0.9)
    torch.testing.assert_close(values.reshape(5, 5), fp64(printed), rtol=0, atol=0.0501)
    found = policy_iteration(large_grid(), 0.9)
    torch.testing.assert_close(found.values.reshape(5, 5), fp64(best), rtol=0, atol=0.0501)
    # from A and back takes 5 steps: V(A) = 10 / (1 - 0.9^5)
    assert found.values[1].item() == pytest.approx(10 / (1 - 0.9**5), rel=1e-12)


# ---- finite horizon


@pytest.mark.parametrize("gamma", [1.0, 0.7])
@pytest.mark.parametrize("seed", SEEDS)
def test_backward_induction_beats_every_policy(seed: int, gamma: float) -> None:
    """All 8^3 deterministic policies of 3 states, 2 actions, 3 steps, each followed forward."""
    mdp = random_mdp(3, 2, generator(seed))
    weights = fp64([1, gamma, gamma**2])
    rules = list(deterministic_policies(mdp))
    values = [(followed(mdp, list(plan)) * weights).sum() for plan in itertools.product(rules, repeat=3)]
    best = backward_induction(mdp, 3, gamma)
    assert best.objective == pytest.approx(torch.stack(values).max().item(), abs=1e-12)
    own = finite_objective(mdp, best.policy, 3, gamma)
    assert own.item() == pytest.approx(best.objective, abs=1e-12)
    assert (best.policy.sum(-1) == 1).all()


@pytest.mark.parametrize("shape", [(4, 3), (5, 4, 3)])
def test_evaluation_is_what_going_forward_gives(shape: tuple[int, ...]) -> None:
    """Time-dependent or not; a cost per step and state is subtracted from what a step pays."""
    mdp, policy = random_mdp(4, 3, generator(1)), random_policy(*shape)
    each, cost = list(policy.expand(5, 4, 3)), random_policy(5, 4, seed=3)
    weights = 0.9 ** torch.arange(5, dtype=torch.float64)
    expected = (followed(mdp, each) * weights).sum()
    torch.testing.assert_close(finite_objective(mdp, policy, 5, 0.9), expected, **EXACT)
    state, paid = mdp.start, expected
    for h, rule in enumerate(each):
        paid = paid - weights[h] * (state @ cost[h])
        state = torch.einsum("s,sa,sat->t", state, rule, mdp.transition)
    torch.testing.assert_close(finite_objective(mdp, policy, 5, 0.9, cost), paid, **EXACT)


def test_the_soft_optimum_is_a_sum_over_paths() -> None:
    """Where actions fix the next state (as in the denoising MDP) J* = w log E_reference[exp(sum of rewards / w)]: the
    exponential tilt of the whole path, here by enumerating its 3^4 paths from each start."""
    reward = torch.randn(3, 3, dtype=torch.float64, generator=generator(2))
    identity = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)
    mdp, reference, w = MDP(transition=identity, reward=reward, start=even(3)), random_policy(4, 3, 3), 0.6
    expected = 0.0
    for first in range(3):
        total = 0.0
        for path in itertools.product(range(3), repeat=4):
            states = (first, *path[:-1])
            chance = torch.stack([reference[h, s, a] for h, (s, a) in enumerate(zip(states, path, strict=True))]).prod()
            total += chance * (sum(reward[s, a] for s, a in zip(states, path, strict=True)) / w).exp()
        expected += w * torch.as_tensor(total).log().item() / 3
    best = soft_backward_induction(mdp, 4, reference, w)
    assert best.objective == pytest.approx(expected, abs=1e-11)
    cost = w * policy_kl(best.policy, reference)
    assert finite_objective(mdp, best.policy, 4, cost=cost).item() == pytest.approx(expected, abs=1e-11)


def test_the_soft_optimum_is_where_ascent_ends() -> None:
    """Stochastic transitions and a discount: LBFGS on the exact J finds it from the reference; and nothing beats it."""
    mdp, reference, w = random_mdp(4, 3, generator(3)), random_policy(4, 3), 0.4
    logits = torch.zeros(5, 4, 3, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        policy = logits.softmax(-1)
        value = -finite_objective(mdp, policy, 5, 0.8, w * policy_kl(policy, reference))
        value.backward()
        return value

    search.step(loss)
    best = soft_backward_induction(mdp, 5, reference, w, 0.8)
    assert -loss().item() == pytest.approx(best.objective, abs=2e-8)  # where the search stops
    torch.testing.assert_close(logits.softmax(-1), best.policy, rtol=0, atol=1e-3)  # J is flat: its error's root


def test_the_soft_optimum_between_its_limits() -> None:
    """weight -> 0: the greedy optimum, from below; weight -> infinity: the reference's own J, from above."""
    mdp, reference = random_mdp(4, 3, generator(4)), random_policy(4, 3)
    hard, plain = backward_induction(mdp, 4).objective, finite_objective(mdp, reference, 4).item()
    ladder = [soft_backward_induction(mdp, 4, reference, w).objective for w in (1e-4, 1e-2, 1.0, 1e2, 1e6)]
    assert ladder == sorted(ladder, reverse=True)
    assert plain < ladder[-1] < plain + 1e-5
    assert hard - 4e-4 * -reference.log().min() < ladder[0] < hard, "off by at most 4 steps' worst KL"


def test_kl_of_tables_against_torch() -> None:
    p, q = random_policy(5, 4, 3), random_policy(5, 4, 3, seed=1)
    expected = torch.distributions.kl_divergence(torch.distributions.Categorical(p), torch.distributions.Categorical(q))
    torch.testing.assert_close(policy_kl(p, q), expected, **EXACT)
    one = torch.eye(3, dtype=torch.float64)
    assert policy_kl(one, one).tolist() == [0, 0, 0]
    assert policy_kl(one, one.flip(0)).tolist() == [torch.inf, 0, torch.inf]


# ---- discounted


def linear_program(mdp: MDP, gamma: float) -> float:
    """min rho V subject to V(s) >= r(s, a) + gamma sum P V for every action (d'Epenoux 1963; Puterman 1994, 6.9)."""
    states, actions = mdp.reward.shape
    rows = gamma * mdp.transition - torch.eye(states, dtype=torch.float64)[:, None]
    found = linprog(mdp.start, rows.reshape(-1, states), -mdp.reward.reshape(states * actions), bounds=(None, None))
    assert found.success
    return float(found.fun)


@pytest.mark.parametrize("seed", SEEDS)
def test_discounted_optima_agree(seed: int) -> None:
    """Value iteration, policy iteration, a linear program, and all 27 policies followed forward for 300 steps."""
    mdp, gamma = random_mdp(3, 3, generator(seed)), 0.9
    exact, iterated = policy_iteration(mdp, gamma), value_iteration(mdp, gamma)
    weights = gamma ** torch.arange(300, dtype=torch.float64)  # what is left out: 0.9^300 / 0.1 = 2e-13
    tried = [(followed(mdp, [p] * 300) * weights).sum().item() for p in deterministic_policies(mdp)]
    assert exact.objective == pytest.approx(max(tried), abs=1e-11)
    assert exact.objective == pytest.approx(linear_program(mdp, gamma), abs=1e-7)  # the solver's own tolerance
    assert iterated.policy.equal(exact.policy)
    assert iterated.objective == pytest.approx(exact.objective, abs=1e-9)


@pytest.mark.parametrize("tolerance", [3.0, 0.1, 1e-3])
def test_value_iteration_stops_in_time(tolerance: float) -> None:
    """The stated error holds, is no larger than half the tolerance, and is not reached long before it stops."""
    exact, found = policy_iteration(large_grid(), 0.9), value_iteration(large_grid(), 0.9, tolerance)
    off = (found.values - exact.values).abs().max().item()
    assert off <= found.error <= tolerance / 2
    assert exact.objective - discounted_objective(large_grid(), found.policy, 0.9).item() <= tolerance
    assert found.sweeps <= 1 + torch.tensor(20 * 24.5 / tolerance).log().item() / -torch.tensor(0.9).log().item() + 8


@pytest.mark.parametrize("shape", [(4, 3), (3, 4, 3)])
def test_discounted_objective_is_what_going_forward_gives(shape: tuple[int, ...]) -> None:
    """The last of a time-dependent policy's tables goes on forever."""
    mdp, policy = random_mdp(4, 3, generator(6)), random_policy(*shape)
    each = [policy] * 400 if policy.ndim == 2 else [*policy, *[policy[-1]] * 397]
    weights = 0.9 ** torch.arange(400, dtype=torch.float64)
    expected = (followed(mdp, each) * weights).sum()
    torch.testing.assert_close(discounted_objective(mdp, policy, 0.9), expected, **EXACT)


# ---- average reward


def gain_program(mdp: MDP) -> float:
    """min g subject to g + h(s) >= r(s, a) + sum P h for every action (Puterman 1994, 8.8)."""
    states, actions = mdp.reward.shape
    rows = (mdp.transition - torch.eye(states, dtype=torch.float64)[:, None]).reshape(-1, states)
    rows = torch.cat([-torch.ones(states * actions, 1, dtype=torch.float64), rows], 1)
    found = linprog([1.0] + [0.0] * states, rows, -mdp.reward.reshape(-1), bounds=(None, None))
    assert found.success
    return float(found.fun)


def mean_of_powers(matrix: Tensor, doublings: int = 40) -> Tensor:
    """(I + P + ... + P^(n-1)) / n with n = 2^doublings, by doubling: off by the order of 1/n. Rows are kept at sum 1, else
    their rounding would be raised to the n-th power."""
    mean, power = torch.eye(len(matrix), dtype=matrix.dtype), matrix
    for _ in range(doublings):
        mean, power = (mean + power @ mean) / 2, power @ power
        power = power / power.sum(1, keepdim=True)
    return mean


CASES = [random_mdp(3, 3, generator(0)), random_mdp(4, 2, generator(1)), ring(), taxicab(), large_grid()]


@pytest.mark.parametrize("mdp", CASES, ids=["random", "random too", "ring", "taxicab", "large grid"])
def test_average_optima_agree(mdp: MDP) -> None:
    """Relative value iteration, a linear program, and its own policy's gain; the optimality equation holds."""
    best = relative_value_iteration(mdp)
    assert best.error <= 5e-10
    assert best.objective == pytest.approx(gain_program(mdp), abs=1e-7)
    assert average_objective(mdp, best.policy).item() == pytest.approx(best.objective, abs=1e-9)
    residual = mdp.look_ahead(best.values).max(1).values - best.values - best.objective
    assert residual.abs().max() < 1e-8
    assert best.values[0] == 0
    if len(mdp.start) <= 4:
        tried = [mdp.start @ mean_of_powers(mdp.chain(p)[0]) @ mdp.chain(p)[1] for p in deterministic_policies(mdp)]
        assert best.objective == pytest.approx(torch.stack(tried).max().item(), abs=1e-8)


def test_a_periodic_mdp_needs_the_transform() -> None:
    """The ring without it: L V - V keeps its spread after 1000 sweeps, so that the gain would never be known."""
    mdp, values = ring(), torch.zeros(4, dtype=torch.float64)
    for _ in range(1000):
        old, values = values, mdp.look_ahead(values).max(1).values
    change = values - old
    assert change.max() - change.min() > 0.04
    assert relative_value_iteration(mdp, stay=0.1).objective == pytest.approx(relative_value_iteration(mdp).objective)
    for stay in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"stay is .* above 0 and below 1"):
            relative_value_iteration(mdp, stay=stay)


def table(*rows: tuple[dict[int, float], ...]) -> MDP:
    """An MDP from {next state: probability} per state and action; every state pays its own number."""
    transition = torch.zeros(len(rows), len(rows[0]), len(rows), dtype=torch.float64)
    for s, actions in enumerate(rows):
        for a, following in enumerate(actions):
            for t, p in following.items():
                transition[s, a, t] = p
    reward = torch.arange(len(rows), dtype=torch.float64)[:, None].expand(-1, len(rows[0])).clone()
    return MDP(transition=transition, reward=reward, start=even(len(rows)))


MULTICHAIN = {
    "two closed classes": (({0: 1.0}, {1: 0.5, 2: 0.5}), ({1: 1.0}, {1: 1.0}), ({2: 1.0}, {2: 1.0})),
    "a place to stay that leads out": (({0: 1.0}, {1: 1.0}), ({1: 1.0}, {1: 1.0})),
    "a cycle that leads out": (({1: 1.0}, {2: 1.0}), ({0: 1.0}, {0: 1.0}), ({2: 1.0}, {2: 1.0})),
}


@pytest.mark.parametrize("rows", MULTICHAIN.values(), ids=MULTICHAIN)
def test_a_multichain_mdp_is_refused(rows: tuple[tuple[dict[int, float], ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"multichain: a policy can stay forever in states \[.*own$"):
        relative_value_iteration(table(*rows))


def test_an_mdp_with_one_gain_is_not_refused() -> None:
    """Staying is allowed but so is moving (communicating), and a state that every policy leaves (weakly so)."""
    mdp = table(({0: 1.0}, {1: 1.0}), ({1: 1.0}, {0: 1.0}), ({0: 0.5, 2: 0.5}, {2: 0.9, 1: 0.1}))
    assert relative_value_iteration(mdp).objective == pytest.approx(1, abs=1e-9)


def test_the_limit_of_any_chain() -> None:
    """Two closed classes (one of period 3), two transient states, against the mean of 2^40 powers."""
    chain = torch.zeros(7, 7, dtype=torch.float64)
    chain[0, 1] = chain[1, 2] = chain[2, 0] = 1
    chain[3, 3], chain[3, 4], chain[4, 3] = 0.25, 0.75, 1
    chain[5] = fp64([0.1, 0, 0, 0.3, 0, 0.2, 0.4])
    chain[6] = fp64([0, 0.2, 0, 0, 0, 0.8, 0])
    torch.testing.assert_close(limit_matrix(chain), mean_of_powers(chain), rtol=0, atol=1e-10)
    torch.testing.assert_close(limit_matrix(chain)[3], fp64([0, 0, 0, 4 / 7, 3 / 7, 0, 0]), **EXACT)


def test_average_objective_of_a_policy_that_changes() -> None:
    """With two closed classes the first steps decide: start 0 goes to 1 with 0.5 * 0.4 more, 2 with the rest."""
    mdp = table(*MULTICHAIN["two closed classes"])
    policy = torch.tensor([0.6, 0.4], dtype=torch.float64).expand(2, 3, 2).clone()
    policy[1, 0] = fp64([1, 0])  # from the second step on state 0 stays: pays 0
    assert average_objective(mdp, policy).item() == pytest.approx((0.2 * 1 + 0.2 * 2) / 3 + 1 / 3 + 2 / 3, abs=1e-12)
    assert average_objective(mdp, policy[0]).item() == pytest.approx((0.5 + 1) / 3 + 1 / 3 + 2 / 3, abs=1e-12)


# ---- gradients and messages


GRADIENTS: dict[str, Callable[[MDP, Tensor], Tensor]] = {
    "finite": lambda mdp, policy: finite_objective(mdp, policy, 3, 0.9, 0.3 * policy_kl(policy, policy.flip(-1))),
    "discounted": lambda mdp, policy: discounted_objective(mdp, policy, 0.9),
    "average": average_objective,
}


@pytest.mark.parametrize("shape", [(4, 3), (3, 4, 3)])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_against_finite_differences(name: str, shape: tuple[int, ...]) -> None:
    mdp = random_mdp(4, 3, generator(7))
    logits = torch.randn(*shape, dtype=torch.float64, generator=generator(8), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: GRADIENTS[name](mdp, x.softmax(-1)), (logits,))


def test_messages_say_what_to_do() -> None:
    good = toymaker()
    with pytest.raises(ValueError, match=r"transition must hold probabilities.*off by 0.5"):
        MDP(transition=good.transition * 0.5, reward=good.reward, start=good.start)
    with pytest.raises(ValueError, match="start must hold probabilities"):
        MDP(transition=good.transition, reward=good.reward, start=fp64([1.5, -0.5]))
    with pytest.raises(ValueError, match=r"call .double\(\)"):
        MDP(transition=good.transition, reward=good.reward.float(), start=good.start)
    with pytest.raises(ValueError, match="tables for 3 steps; it must have 4"):
        finite_objective(good, random_policy(3, 2, 2), 4)
    for solve in (value_iteration, policy_iteration):
        with pytest.raises(ValueError, match=r"gamma is 1.0.*average reward"):
            solve(good, 1.0)


def test_what_does_not_settle_in_time_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SWEEPS", 20)
    with pytest.raises(ValueError, match=r"after 20 sweeps: ask for more than 1e-09, or use policy_iteration"):
        value_iteration(toymaker(), 0.99)
    with pytest.raises(ValueError, match=r"after 20 sweeps: ask for more than 1e-09$"):
        relative_value_iteration(toymaker())
