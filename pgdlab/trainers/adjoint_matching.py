"""Adjoint Matching: each step's mean is fitted to the reference's, moved by the reward's gradient carried back to it."""

from __future__ import annotations

from dataclasses import dataclass

from pgdlab.penalties.path_kl import KLPenalty
from pgdlab.rollout.sweep import Adjoints, Sweep
from pgdlab.trainers.interaction import Collected
from pgdlab.trainers.pathwise import Pathwise
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class AdjointMatching(Pathwise):
    """min_theta sum_h lambda / (2 std_h^2) ||m_h - m_pre_h - (std_h^2 / lambda) a_{h+1}||^2 at the sampled states, a the lean
    adjoint: a_H = grad r, a_h = (dm_pre_h/ds)^T a_{h+1}   (Domingo-Enrich et al. 2024, arXiv:2409.08861, eq. 37, on the chain
    as it is sampled: step h is paired with the adjoint of the state that it leads to).

    Its fixed point is the attainable optimum for every sampler with noise; it needs a path KL with a coefficient above 0.
    epochs: passes over an iteration's trajectories; minibatches: optimiser steps an epoch, each on a random part of them.
    """

    epochs: int = 1
    minibatches: int = 1

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if not any(isinstance(p, KLPenalty) and p.positive for p in world.penalties.each()):
            raise ValueError(
                "adjoint matching fits the reference moved by grad r / lambda, and there is no lambda: set penalty=path_kl with "
                "penalty.path_kl.coefficient above 0, or take trainer=draft"
            )

    def adjoints(self, world: World, collected: Collected, down_to: int) -> Adjoints:
        sweep = Sweep(policy=world.policy, reference=world.reference, lean=True)
        return self.swept(sweep, world, collected, down_to)
