"""The experience of a policy gradient: an iteration's trajectories with their credit, and one pass over a part of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdlab.rollout.trajectory import Pairs, Trajectory
from pgdlab.trainers.prompts import PromptRewards


@dataclass(frozen=True)
class Experience:
    """This process's trajectories with their credit.

    advantage: (B, K) for the trained steps, initial_advantage: (B,) for rho; fp64. objective_scale multiplies the whole
    objective. step_scale multiplies the sum over trained steps. cost_weight: (K,), of their differentiated penalty, None
    for 1. targets: what the critic is fitted to, see pgdlab.credit. order: (epochs, samples) global sample indices,
    shuffled; measured: (samples,) all processes'; both on the CPU, where minibatches are cut without waiting for the
    device. index: the global indices of the rows here.
    """

    trajectory: Trajectory
    advantage: Float[Tensor, "B K"]
    initial_advantage: Float[Tensor, " B"]
    objective_scale: float
    step_scale: float
    cost_weight: Float[Tensor, " K"] | None
    targets: Float[Tensor, "B T"]
    order: Int[Tensor, "E N"]
    measured: Bool[Tensor, " N"]
    index: range
    logs: dict[str, float] = field(default_factory=dict)
    queries: int = 0
    evaluations: int = 0
    prompts: PromptRewards | None = None
    iteration: int = 0


@dataclass(frozen=True)
class MicroBatch:
    """One pass: pairs for the denoiser, rows for rho, how many measured trajectories the global minibatch has, and the seed of
    what penalties add to the update by themselves, in one pass of it (of the three one at least)."""

    pairs: Pairs | None
    rows: Int[Tensor, " R"] | None
    count: int
    own: torch.Generator | None = None
