"""Credit: returns, baselines, advantages. All in fp64: equal rewards must give exactly equal advantages."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Baseline = Literal["none", "mean", "leave_one_out", "group"]
Scale = Literal["none", "batch_std", "group_std"]

ROUNDED = 1e-6  # relative; rewards arrive in fp32, whose neighbours differ by up to 1.2e-7
EXACT = 1e-12  # differences that sums in fp64 leave between equal numbers


def reward_to_go(values: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
    """R_h = sum_{j >= h} r_j   (Sutton & Barto 2018, eq. 3.7 with gamma 1; the own action's reward is included)."""
    return values.double().flip(1).cumsum(1).flip(1)


def strictly_later(costs: Float[Tensor, "B H"]) -> Float[Tensor, "B H"]:
    """sum_{j > h} c_j: the cost that action h can still change."""
    return reward_to_go(costs) - costs.double()


def masked_mean(x: Float[Tensor, "B T"], measured: Bool[Tensor, " B"]) -> Float[Tensor, " T"]:
    """Mean over the measured rows; 0 where there is none."""
    return torch.where(measured[:, None], x, 0.0).sum(0) / measured.sum().clamp(min=1)


def group_sum(x: Float[Tensor, "B T"], groups: Int[Tensor, " B"]) -> Float[Tensor, "B T"]:
    """For every row the sum over the rows of its group."""
    total = x.new_zeros(int(groups.max()) + 1, x.shape[1]).index_add(0, groups, x)
    return total[groups]


def baseline(
    returns: Float[Tensor, "B T"], measured: Bool[Tensor, " B"], groups: Int[Tensor, " B"], kind: Baseline
) -> Float[Tensor, "B T"]:
    """The value that a return is compared with, one per row and step.

    none: 0. mean: the batch's mean, the own row included (shrinks the gradient by 1 - 1/B). leave_one_out: the mean of
    the other rows, unbiased (Kool et al. 2019, "Buy 4 REINFORCE"; Ahmadian et al. 2024, arXiv:2402.14740, eq. 7).
    group: leave-one-out among the rows of the same group (same condition); GRPO's mean with the own row (Shao et al.
    2024, arXiv:2402.03300) gives the same advantage times 1 - 1/G. Rows that were not measured enter no mean.
    """
    if kind == "none":
        return torch.zeros_like(returns)
    if kind == "mean":
        return masked_mean(returns, measured).expand_as(returns)
    same = groups if kind == "group" else torch.zeros_like(groups)
    weight = measured.to(returns.dtype)[:, None]
    masked = torch.where(measured[:, None], returns, 0.0)
    others = group_sum(weight, same) - weight
    total = group_sum(masked, same) - masked
    # a row alone in its group has nothing to be compared with: its own return, so that its advantage is 0
    return torch.where(others > 0, total / others.clamp(min=1), returns)


def group_std(
    returns: Float[Tensor, "B T"], measured: Bool[Tensor, " B"], groups: Int[Tensor, " B"]
) -> Float[Tensor, "B T"]:
    """Standard deviation (n - 1) among the measured rows of the same group, one value per row and step."""
    weight = measured.to(returns.dtype)[:, None]
    count = group_sum(weight, groups)
    masked = torch.where(measured[:, None], returns, 0.0)
    centred = torch.where(measured[:, None], masked - group_sum(masked, groups) / count.clamp(min=1), 0.0)
    return (group_sum(centred.square(), groups) / (count - 1).clamp(min=1)).sqrt()


def dead_rows(
    returns: Float[Tensor, "B T"], measured: Bool[Tensor, " B"], groups: Int[Tensor, " B"], floor: float = ROUNDED
) -> Bool[Tensor, "B T"]:
    """Rows whose group has equal returns up to rounding: a std of at most floor times the mean size of its returns, or
    of the whole batch's where that is larger (a group around 0 is rounded by what its returns were computed from)."""
    size = torch.where(measured[:, None], returns, 0.0).abs()
    count = group_sum(measured.to(returns.dtype)[:, None], groups).clamp(min=1)
    scale = torch.maximum(group_sum(size, groups) / count, masked_mean(size, measured))
    return group_std(returns, measured, groups) <= floor * scale


def advantages(
    returns: Float[Tensor, "B T"],
    measured: Bool[Tensor, " B"],
    groups: Int[Tensor, " B"],
    kind: Baseline = "leave_one_out",
    scale: Scale = "none",
    earned: Float[Tensor, "B T"] | None = None,
    smallest: Float[Tensor, " T"] | float = 0.0,
) -> tuple[Float[Tensor, "B T"], float]:
    """Centred returns, and the one scalar that the whole objective (reward and KL terms alike) is multiplied by.

    scale none: 1. batch_std: 1 over the standard deviation of the first column earned, detached: it changes the units
    of the objective, not its optimum. group_std: every row divided by its group's std (GRPO): another objective, which
    no KL weight repairs; scalar 1. earned: the returns without a penalty's part, whose spread is what is divided by; a
    group that earned the same is dead there, else its KL, divided by its own tiny spread, would stand in for a reward.
    smallest: what a group's std counts as at least, per column or for all.
    Unmeasured rows get exactly 0, and so do rows with equal returns: up to fp32 where a spread divides, else to fp64.
    """
    returns = returns.double()
    spread = returns if earned is None or scale == "none" else earned.double()
    advantage = returns - baseline(returns, measured, groups, kind)
    whole = torch.zeros_like(groups)
    if scale == "group_std":
        dead = dead_rows(spread, measured, groups)
        std = torch.maximum(group_std(spread, measured, groups), torch.as_tensor(smallest).to(spread))
        advantage = advantage.masked_fill(dead, 0.0) / std.masked_fill(dead, 1.0)
    elif kind != "none":
        compared = groups if kind == "group" else whole
        advantage = advantage.masked_fill(dead_rows(returns, measured, compared, EXACT), 0.0)
    advantage = advantage.masked_fill(~measured[:, None], 0.0)
    if scale == "batch_std" and not dead_rows(spread[:, :1], measured, whole).any():
        return advantage, 1.0 / group_std(spread[:, :1], measured, whole)[0].item()
    return advantage, 1.0


def softmax_weights(
    score: Float[Tensor, " B"], measured: Bool[Tensor, " B"], groups: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """exp(score), normalised among the measured rows of the same group, times the group's share of the rows: the
    weights sum to B. 0 for unmeasured rows, and for a group without any, whose share the others get.

    One softmax over all groups would be another objective: a group whose scores are all lower by 4 would keep e^-4 of its
    weight, though within it the same samples are better than others.
    """
    weight = torch.zeros_like(score, dtype=torch.float64)
    for group in groups[measured].unique():
        rows = groups == group
        weight[rows] = torch.where(measured[rows], score[rows].double(), -torch.inf).softmax(0) * int(rows.sum())
    lost = weight.sum()
    return weight if lost == 0 or (groups == groups[0]).all() else weight * (len(score) / lost)


def effective_size(weight: Float[Tensor, " B"]) -> float:
    """(sum w)^2 / sum w^2: the number of equal weights that this is the spread of   (Kish 1965, "Survey sampling", sec. 8.2)."""
    return (weight.double().sum() ** 2 / weight.double().square().sum()).item()


def temperature_for(reward: Float[Tensor, " B"], size: float) -> float:
    """The temperature T at which the weights exp(r / T) have an effective size of `size` of B rows, by bisection in log T: it
    grows with T. Where equal best rewards are more than that, a T at which they have all the weight.

    Raises ValueError where all rewards are equal: every T gives B.
    """
    gap = reward.double() - reward.double().max()
    if not gap.any():
        raise ValueError("all rewards are equal, so that no temperature tells rows apart")
    widest = float(-gap.min())
    low, high = float(-gap[gap < 0].max()) / 100, widest * len(gap)
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if effective_size((gap / middle).exp()) > size else (middle, high)
    return (low * high) ** 0.5
