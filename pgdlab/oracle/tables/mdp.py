"""Finite MDPs, solved exactly: finite horizon (also KL-regularised), discounted, average reward. All in fp64.

A policy is a table of probabilities: (S, A), or (H, S, A) where it depends on the step. In an infinite horizon its last
step's rule goes on forever. Policy evaluation can be differentiated in the policy; optima cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SWEEPS = 100_000  # of value iteration, before it is said not to converge


@dataclass(frozen=True, kw_only=True, eq=False)
class MDP:
    """transition[s, a, s'] = P(s'|s, a); reward[s, a] = E[r|s, a]; start[s] = rho(s)."""

    transition: Float[Tensor, "S A S"]
    reward: Float[Tensor, "S A"]
    start: Float[Tensor, " S"]

    def __post_init__(self) -> None:
        for name, table in (("transition", self.transition), ("start", self.start)):
            off = (table.sum(-1) - 1).abs().max().item()
            if table.min() < 0 or not off < 1e-9:
                raise ValueError(f"{name} must hold probabilities: the last axis non-negative with sum 1; off by {off}")
        if any(t.dtype != torch.float64 for t in (self.transition, self.reward, self.start)):
            raise ValueError("the tables of an MDP must be fp64: call .double() on them")

    def look_ahead(self, values: Float[Tensor, " S"], gamma: float = 1.0) -> Float[Tensor, "S A"]:
        """Q(s, a) = r(s, a) + gamma sum_s' P(s'|s, a) V(s')   (Sutton & Barto 2018, eq. 4.6)."""
        return self.reward + gamma * self.transition @ values

    def chain(self, policy: Float[Tensor, "S A"]) -> tuple[Float[Tensor, "S S"], Float[Tensor, " S"]]:
        """The Markov chain and its rewards under a policy: sum_a pi(a|s) P(s'|s, a), sum_a pi(a|s) r(s, a)."""
        return torch.einsum("sa,sat->st", policy, self.transition), (policy * self.reward).sum(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Optimum:
    """objective: J*. values: V*, or the bias for the average reward. policy: greedy, a best one. error: objective and
    values are within it, rounding apart (for the bias it bounds the objective only). sweeps: over the states."""

    objective: float
    values: Float[Tensor, "*T1 S"]
    policy: Float[Tensor, "*T S A"]
    error: float
    sweeps: int


def greedy(q: Float[Tensor, "S A"]) -> Float[Tensor, "S A"]:
    """The deterministic policy argmax_a Q(s, a); the first of equals."""
    return torch.nn.functional.one_hot(q.argmax(1), q.shape[1]).to(q.dtype)


def by_step(policy: Float[Tensor, "*T S A"], horizon: int) -> Float[Tensor, "H S A"]:
    """The same policy with one table a step."""
    if policy.ndim == 3 and len(policy) != horizon:
        raise ValueError(f"the policy has tables for {len(policy)} steps; it must have {horizon}, as the horizon")
    return policy.expand(horizon, *policy.shape[-2:])


# ---- finite horizon


def backward_induction(mdp: MDP, horizon: int, gamma: float = 1.0) -> Optimum:
    """V_H = 0; for h = H-1, ..., 0: Q_h = r + gamma P V_{h+1}, V_h = max_a Q_h, pi_h = argmax_a Q_h

    (Bellman 1957; Puterman 1994, sec. 4.5). J* = sum_s rho(s) V_0(s). values: (H+1, S), policy: (H, S, A).
    """
    values: list[Tensor] = [torch.zeros_like(mdp.start)]
    policy: list[Tensor] = []
    for _ in range(horizon):
        q = mdp.look_ahead(values[0], gamma)
        values.insert(0, q.max(1).values)
        policy.insert(0, greedy(q))
    return finite_optimum(mdp, values, policy)


def soft_backward_induction(
    mdp: MDP, horizon: int, reference: Float[Tensor, "*T S A"], weight: float, gamma: float = 1.0
) -> Optimum:
    """The optimum of E[sum_h gamma^h (r_h - weight KL(pi_h || reference_h)(s_h))], weight > 0 in reward per nat:

    V_h(s) = weight log sum_a reference_h(a|s) exp(Q_h(s, a) / weight), pi_h = reference_h exp((Q_h - V_h) / weight)
    (Todorov 2006; Levine 2018, arXiv:1805.00909, sec. 2). The policy steers actions, never the transition's noise.
    """
    values: list[Tensor] = [torch.zeros_like(mdp.start)]
    policy: list[Tensor] = []
    for table in reversed(by_step(reference, horizon)):
        q = mdp.look_ahead(values[0], gamma)
        tilted = table.log() + q / weight
        values.insert(0, weight * tilted.logsumexp(1))
        policy.insert(0, tilted.softmax(1))
    return finite_optimum(mdp, values, policy)


def finite_optimum(mdp: MDP, values: list[Tensor], policy: list[Tensor]) -> Optimum:
    """The optimum from the tables of backward induction."""
    objective = (mdp.start @ values[0]).item()
    return Optimum(
        objective=objective, values=torch.stack(values), policy=torch.stack(policy), error=0.0, sweeps=len(policy)
    )


def policy_kl(policy: Float[Tensor, "*T S A"], reference: Float[Tensor, "*R S A"]) -> Float[Tensor, "*K S"]:
    """KL(pi(.|s) || reference(.|s)) = sum_a pi log(pi / reference), in nats; 0 log 0 = 0."""
    return (torch.xlogy(policy, policy) - torch.xlogy(policy, reference)).sum(-1)


def finite_values(
    mdp: MDP,
    policy: Float[Tensor, "*T S A"],
    horizon: int,
    gamma: float = 1.0,
    cost: Float[Tensor, "*C S"] | None = None,
) -> Float[Tensor, "H1 S"]:
    """V_h = r_pi - cost_h + gamma P_pi V_{h+1}, V_H = 0. cost: paid in a state, such as weight * policy_kl(...)."""
    values = [torch.zeros_like(mdp.start)]
    costs = torch.zeros_like(mdp.start) if cost is None else cost
    for table, paid in zip(by_step(policy, horizon).flip(0), costs.expand(horizon, -1).flip(0), strict=True):
        matrix, reward = mdp.chain(table)
        values.insert(0, reward - paid + gamma * matrix @ values[0])
    return torch.stack(values)


def finite_objective(
    mdp: MDP,
    policy: Float[Tensor, "*T S A"],
    horizon: int,
    gamma: float = 1.0,
    cost: Float[Tensor, "*C S"] | None = None,
) -> Float[Tensor, ""]:
    """J = E[sum_{h<H} gamma^h (r_h - cost_h)] from the initial distribution."""
    return mdp.start @ finite_values(mdp, policy, horizon, gamma, cost)[0]


# ---- infinite horizon, discounted


def check_discount(gamma: float) -> None:
    """Raises ValueError where the infinite sum does not converge."""
    if not 0 <= gamma < 1:
        raise ValueError(
            f"gamma is {gamma}; in a discounted infinite horizon it must be at least 0 and below 1 (or take the average reward)"
        )


def value_iteration(mdp: MDP, gamma: float, tolerance: float = 1e-9) -> Optimum:
    """V <- max_a [r + gamma P V] until ||V' - V|| <= tolerance (1 - gamma) / (2 gamma): then V' is within tolerance / 2
    of V*, in the sup norm, and its greedy policy within tolerance   (Puterman 1994, sec. 6.3.2 and theorem 6.3.1)."""
    check_discount(gamma)
    values = torch.zeros_like(mdp.start)
    for sweep in range(1, SWEEPS + 1):
        old, values = values, mdp.look_ahead(values, gamma).max(1).values
        change = (values - old).abs().max().item()
        if 2 * gamma * change <= tolerance * (1 - gamma):
            policy, error = greedy(mdp.look_ahead(values, gamma)), gamma / (1 - gamma) * change
            objective = (mdp.start @ values).item()
            return Optimum(objective=objective, values=values, policy=policy, error=error, sweeps=sweep)
    raise ValueError(
        f"values change by {change} after {SWEEPS} sweeps: ask for more than {tolerance}, or use policy_iteration"
    )


def policy_iteration(mdp: MDP, gamma: float) -> Optimum:
    """Solve (I - gamma P_pi) V = r_pi, then pi = argmax_a [r + gamma P V], until no action changes

    (Howard 1960; Sutton & Barto 2018, sec. 4.3). An action is kept unless another is better beyond rounding.
    """
    check_discount(gamma)
    policy = greedy(mdp.reward)
    for sweep in range(1, SWEEPS + 1):
        values = discounted_values(mdp, policy, gamma)
        q = mdp.look_ahead(values, gamma)
        better = q.max(1).values > values + 1e-12 * (1 + values.abs())
        if not better.any():
            objective = (mdp.start @ values).item()
            return Optimum(objective=objective, values=values, policy=policy, error=0.0, sweeps=sweep)
        policy = torch.where(better[:, None], greedy(q), policy)
    raise AssertionError("policy iteration visits no policy twice")


def discounted_values(mdp: MDP, policy: Float[Tensor, "*T S A"], gamma: float) -> Float[Tensor, " S"]:
    """V_0 = sum_h gamma^h (P_0 ... P_{h-1}) r_h; of a stationary policy V = (I - gamma P_pi)^-1 r_pi."""
    check_discount(gamma)
    *first, last = policy.reshape(-1, *policy.shape[-2:])
    matrix, reward = mdp.chain(last)
    values = torch.linalg.solve(torch.eye(len(matrix), dtype=matrix.dtype) - gamma * matrix, reward)
    for table in reversed(first):
        matrix, reward = mdp.chain(table)
        values = reward + gamma * matrix @ values
    return values


def discounted_objective(mdp: MDP, policy: Float[Tensor, "*T S A"], gamma: float) -> Float[Tensor, ""]:
    """J = E[sum_{h >= 0} gamma^h r_h] from the initial distribution."""
    return mdp.start @ discounted_values(mdp, policy, gamma)


# ---- average reward


def reachable(edges: Bool[Tensor, "S S"]) -> Bool[Tensor, "S S"]:
    """[s, s']: whether a path of any length, 0 included, leads from s to s'."""
    reach = edges | torch.eye(len(edges), dtype=torch.bool)
    for _ in range(len(edges).bit_length()):
        reach = (reach.double() @ reach.double()) > 0
    return reach


def recurrent(reach: Bool[Tensor, "S S"]) -> Bool[Tensor, " S"]:
    """The states of closed classes: wherever they lead, a path leads back."""
    return (~reach | reach.T).all(1)


def check_one_gain(mdp: MDP) -> None:
    """Raises ValueError for an MDP that is not weakly communicating: there the best average reward may depend on the start.

    Weakly communicating (which every unichain MDP is): one closed class whose states can all reach each other, and no
    policy that stays outside of it forever   (Puterman 1994, sec. 8.3.1).
    """
    reach = reachable((mdp.transition > 0).any(1))
    closed = recurrent(reach)
    trap = ~closed
    for _ in range(len(trap)):  # the largest set outside the closed class that some policy never leaves
        trap = trap & ((mdp.transition * ~trap).sum(2) == 0).any(1)
    first = reach[int(closed.nonzero()[0])] & closed
    apart = trap if trap.any() else closed & ~first
    if apart.any():
        raise ValueError(
            f"the MDP is multichain: a policy can stay forever in states {names(apart)} and never see {names(first)}, so "
            "that the average reward depends on the start. Solve each closed class as an MDP of its own"
        )


def names(states: Bool[Tensor, " S"]) -> list[int]:
    """The numbers of the states in a set."""
    return [int(s) for s in states.nonzero()[:, 0]]


def relative_value_iteration(mdp: MDP, tolerance: float = 1e-9, stay: float = 0.5) -> Optimum:
    """V <- L V - (L V)(s_0), L V = max_a [(1 - stay) (r + P V) + stay V]   (White 1963; Puterman 1994, sec. 8.5.5).

    min (L V - V) <= (1 - stay) g* <= max (L V - V): stops when that pins the gain g* down to tolerance. Staying put
    with probability stay is the aperiodicity transform (Puterman, sec. 8.5.4), without which the iteration of a periodic
    MDP never settles; it keeps the best policies and the bias. values: V* relative to state 0. A multichain MDP raises.
    """
    if not 0 < stay < 1:
        raise ValueError(f"stay is {stay}; it must be above 0 and below 1 (0 would not converge on a periodic MDP)")
    check_one_gain(mdp)
    values = torch.zeros_like(mdp.start)
    for sweep in range(1, SWEEPS + 1):
        q = (1 - stay) * mdp.look_ahead(values) + stay * values[:, None]
        change = (q.max(1).values - values) / (1 - stay)
        low, high = change.min().item(), change.max().item()
        values = q.max(1).values - q[0].max()
        if high - low <= tolerance:
            error = (high - low) / 2
            return Optimum(objective=(low + high) / 2, values=values, policy=greedy(q), error=error, sweeps=sweep)
    raise ValueError(f"the gain is known to {high - low} after {SWEEPS} sweeps: ask for more than {tolerance}")


def limit_matrix(matrix: Float[Tensor, "S S"]) -> Float[Tensor, "S S"]:
    """P* = lim_n (I + P + ... + P^(n-1)) / n of any chain, periodic or multichain   (Puterman 1994, appendix A.4).

    Closed classes: the stationary distribution d, d (I - P + 1 e^T) = e^T, e uniform. Transient states:
    (I - P_TT) P*_T = P_TR P*_R.
    """
    reach, unit = reachable(matrix.detach() > 0), torch.eye(len(matrix), dtype=matrix.dtype)
    closed, limit = recurrent(reach), torch.zeros_like(matrix)
    for s in names(closed):
        members = reach[s].nonzero()[:, 0]
        part = matrix[members][:, members]
        even = torch.full_like(part, 1 / len(members))
        stationary = torch.linalg.solve((unit[members][:, members] - part + even).T, even[0])
        limit = limit.index_put((torch.tensor(s), members), stationary)
    if closed.all():
        return limit
    inside = (unit - matrix)[~closed][:, ~closed]
    return limit.index_put((~closed,), torch.linalg.solve(inside, matrix[~closed][:, closed] @ limit[closed]))


def average_objective(mdp: MDP, policy: Float[Tensor, "*T S A"]) -> Float[Tensor, ""]:
    """J = lim_n E[sum_{h<n} r_h] / n from the initial distribution: rho P_0 ... P_{H-2} P*_{H-1} r_{H-1}."""
    *first, last = policy.reshape(-1, *policy.shape[-2:])
    state = mdp.start
    for table in first:
        state = state @ mdp.chain(table)[0]
    matrix, reward = mdp.chain(last)
    return state @ limit_matrix(matrix) @ reward
