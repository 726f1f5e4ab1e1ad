"""Diffusion-DPO: the policy as its own judge of pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgdlab.trainers.pairwise import Pairwise


@dataclass(frozen=True, kw_only=True)
class DPO(Pairwise):
    """Minimises -log sigmoid(beta / 2 (g(winner) - g(loser))) (Wallace et al. 2023, arXiv:2311.12908, eq. 14), a term a time, or
    with the times summed inside; a tie is half a vote for each.

    beta: of a mean over D dimensions, as published: beta / (2 D) a time in nats. limit: nats of log odds beyond which a decided
    pair pulls no more, so that the policy is not moved for ever; null: there is none.
    """

    beta: float = 2000.0
    limit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta is {self.beta}; it must be above 0")
        if self.limit is not None and self.limit <= 0:
            raise ValueError(f"limit is {self.limit}; it must be above 0, in nats of log odds, or null")

    def contrast(
        self, winner: Float[Tensor, "P K"], loser: Float[Tensor, "P K"], share: Float[Tensor, " P"]
    ) -> tuple[Tensor, Tensor]:
        odds = self.beta / 2 * (winner - loser)
        if self.times == "all":
            odds = odds.sum(1, keepdim=True)
        vote = share[:, None].expand_as(odds)
        held = odds if self.limit is None else torch.where(vote == 1, odds.clamp(max=self.limit), odds)
        each = binary_cross_entropy_with_logits(held, vote, reduction="none")
        return each.mean(1), odds
