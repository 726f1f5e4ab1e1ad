"""Credit with a value function: discounting, temporal differences, GAE, the average-reward form. All in fp64.

Rows are episodes or pieces of them, columns steps. `values[:, h]` is V(s_h), so there is one column more than rewards:
the last one is the state after the last action. Nothing here passes a gradient to the values: a target is a constant
(the semi-gradient of Sutton & Barto 2018, sec. 9.3).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def discounted_reward_to_go(values: Float[Tensor, "B H"], gamma: float) -> Float[Tensor, "B H"]:
    """G_h = sum_{j >= h} gamma^(j-h) r_j   (Sutton & Barto 2018, eq. 3.8): counted from the step itself, whose own
    reward carries weight 1. `values` are rewards per step, as in functional.returns.reward_to_go (gamma 1)."""
    total = torch.zeros_like(values, dtype=torch.float64)
    later = total.new_zeros(len(values))
    for h in reversed(range(values.shape[1])):
        later = values[:, h].double() + gamma * later
        total[:, h] = later
    return total


def discount_factors(steps: int, gamma: float) -> Float[Tensor, " H"]:
    """gamma^h, h = 0..H-1: the weight of step h in the gradient of the discounted return J = E[sum_h gamma^h r_h],

    grad J = E[sum_h gamma^h grad log pi(a_h|s_h) G_h]   (Sutton & Barto 2018, sec. 13.3, the gamma^t of the box).
    Leaving it out ("undiscounted states") is the usual practice and a biased gradient of J, in general of no function
    at all (Thomas 2014; Nota & Thomas 2020, arXiv:1906.07073).
    """
    return gamma ** torch.arange(steps, dtype=torch.float64)


def td_errors(
    rewards: Float[Tensor, "B H"],
    values: Float[Tensor, "B H+1"],
    gamma: float,
    terminated: bool | Bool[Tensor, " B"],
) -> Float[Tensor, "B H"]:
    """delta_h = r_h + gamma V(s_{h+1}) - V(s_h)   (Sutton & Barto 2018, eq. 6.5).

    terminated: whether the row's process ended with its last column, so that V there is 0. A row that was merely cut
    off (a time limit, the end of a piece) goes on: it is not terminated and bootstraps from values[:, H].
    """
    v = values.detach().double()
    ended = torch.as_tensor(terminated, device=v.device).expand(len(v))
    last = torch.where(ended, 0.0, v[:, -1])
    return rewards.double() + gamma * torch.cat([v[:, 1:-1], last[:, None]], 1) - v[:, :-1]


def gae(
    rewards: Float[Tensor, "B H"],
    values: Float[Tensor, "B H+1"],
    gamma: float,
    lam: float,
    terminated: bool | Bool[Tensor, " B"],
) -> Float[Tensor, "B H"]:
    """A_h = sum_{j >= h} (gamma lam)^(j-h) delta_j   (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

    lam 0: the TD error, little variance and the bias of V; lam 1: G_h - V(s_h), unbiased for any V.
    """
    return discounted_reward_to_go(td_errors(rewards, values, gamma, terminated), gamma * lam)


def episodic_gae(
    rewards: Float[Tensor, "N T"],
    values: Float[Tensor, "N T"],
    after: Float[Tensor, "N T"],
    terminated: Bool[Tensor, "N T"],
    truncated: Bool[Tensor, "N T"],
    gamma: float,
    lam: float,
) -> Float[Tensor, "N T"]:
    """A_t = delta_t + gamma lam A_{t+1} within an episode, delta_t = r_t + gamma V(o_t) - V(s_t): gae for rows that hold several
    episodes, one after another, all of which end with the last column.

    values: V(s_t) of the state that step t begins in; after: V(o_t) of the observation that it leads to, before any reset.
    terminated: the process has ended, V(o_t) counts 0. truncated: it was cut off (a time limit, the end of what was
    collected) and would have gone on: V(o_t) counts. Neither sees the next episode, which values[:, t + 1] belongs to then.
    """
    first, later = values.detach().double(), after.detach().double().masked_fill(terminated, 0.0)
    errors = rewards.double() + gamma * later - first
    goes_on = (~(terminated | truncated)).double() * gamma * lam
    total, last = torch.zeros_like(errors), errors.new_zeros(len(errors))
    for t in reversed(range(errors.shape[1])):
        last = errors[:, t] + (goes_on[:, t] * last if t + 1 < errors.shape[1] else 0.0)
        total[:, t] = last
    return total


def td_targets(
    rewards: Float[Tensor, "B H"],
    values: Float[Tensor, "B H+1"],
    gamma: float,
    lam: float,
    terminated: bool | Bool[Tensor, " B"],
) -> Float[Tensor, "B H"]:
    """The target of V(s_h), the lambda-return   (Sutton & Barto 2018, eq. 12.2 and 12.3)

    G^lam_h = r_h + gamma [(1 - lam) V(s_{h+1}) + lam G^lam_{h+1}] = V(s_h) + A_h of gae.
    lam 0: TD(0), r_h + gamma V(s_{h+1}); lam 1: Monte Carlo, which is discounted_reward_to_go on a terminated row, and
    holds the bootstrap value gamma^(H-h) V(s_H) on one that was cut off.
    """
    return values[:, :-1].detach().double() + gae(rewards, values, gamma, lam, terminated)


def differential_td_errors(
    rewards: Float[Tensor, "B H"], values: Float[Tensor, "B H+1"], average_reward: float | Float[Tensor, " B"]
) -> Float[Tensor, "B H"]:
    """delta_h = r_h - rbar + V(s_{h+1}) - V(s_h)   (Sutton & Barto 2018, eq. 10.10), V the differential value.

    For continuing tasks: there is no discount and no end, every row bootstraps. GAE and lambda-returns of this form are
    gae and td_targets on differential(rewards, rbar) with gamma 1 and terminated False.
    """
    return td_errors(differential(rewards, average_reward), values, 1.0, False)


def differential(rewards: Float[Tensor, "B H"], average_reward: float | Float[Tensor, " B"]) -> Float[Tensor, "B H"]:
    """r_h - rbar, rbar one number or one a row."""
    r = rewards.double()
    return r - torch.as_tensor(average_reward, dtype=r.dtype, device=r.device).reshape(-1, 1)


def updated_average_reward(
    average_reward: float | Float[Tensor, " B"], errors: Float[Tensor, "B H"], step_size: float
) -> Float[Tensor, " B"]:
    """rbar <- rbar + step_size * mean_h delta_h, by rows   (Sutton & Barto 2018, sec. 13.6, the box; here the mean over
    a piece). By the TD error, not by r - rbar: its expectation is right off-policy too and its variance is smaller."""
    old = torch.as_tensor(average_reward, dtype=torch.float64, device=errors.device)
    return old + step_size * errors.detach().double().mean(1)
