"""Figures of plans: whether they keep off walls and blocks, how long, how smooth, how different they are."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdlab.planning.maps import RADIUS, along, clearance, length
from pgdlab.planning.tasks import Tasks


def near(plan: Float[Tensor, "B P 2"], occupied: Bool[Tensor, "B H W"]) -> Bool[Tensor, "B M"]:
    """Which points along the plans the ball cannot be at: its edge would be inside of a wall or a block."""
    return clearance(along(plan), occupied) < RADIUS


def bending(plan: Float[Tensor, "B P 2"]) -> Float[Tensor, " B"]:
    """The mean square of the second differences of the waypoints: 0 for a straight line at an even speed."""
    return plan.diff(n=2, dim=1).square().sum(2).mean(1)


def figures(plan: Float[Tensor, "B P 2"], tasks: Tasks, cond: Int[Tensor, " B"]) -> dict[str, float]:
    """success: the share of plans that touch nothing; collision: the mean share of a plan that does (the collision intensity of
    DiRecT); length_ratio: of the plans that touch nothing, over the shortest path; bending; variance: of waypoints, among the
    plans of one task (as in Carvalho et al. 2023, arXiv:2308.01557), where some task has two or more. Each with _stderr."""
    touched = near(plan, tasks.occupied[cond])
    clear = ~touched.any(1)
    ratio = length(plan) / tasks.shortest[cond]
    found = {"success": clear.double(), "collision": touched.double().mean(1), "bending": bending(plan)}
    if clear.any():
        found["length_ratio"] = ratio[clear]
    spread = [plan[cond == c].var(0).sum(-1).mean() for c in cond.unique() if (cond == c).sum() > 1]
    if spread:
        found["variance"] = torch.stack(spread)
    out = {}
    for name, each in found.items():
        out[name] = each.double().mean().item()
        if len(each) > 1:
            out[f"{name}_stderr"] = (each.double().std() / len(each) ** 0.5).item()
    return out
