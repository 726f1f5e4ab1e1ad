"""Diffusion-KTO: one sample of a pair is labelled good, the other bad, and each has a bounded loss of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from pgdlab.trainers.pairwise import Pairwise


@dataclass(frozen=True, kw_only=True)
class KTO(Pairwise):
    """Minimises 1 - sigmoid(beta (g - z)) for a good sample and 1 - sigmoid(-beta (g - z)) for a bad one, z a constant   (Li et
    al. 2024, arXiv:2404.04465, with its sigmoid utility). A tie is labelled both ways, half each.

    beta: of a mean over D dimensions, as published. point: z is the mean of both samples' g, the published estimate with the pair
    as its batch, or 0, that of the base.
    """

    beta: float = 1000.0
    point: Literal["pair", "base"] = "pair"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta is {self.beta}; it must be above 0")

    def contrast(
        self, winner: Float[Tensor, "P K"], loser: Float[Tensor, "P K"], share: Float[Tensor, " P"]
    ) -> tuple[Tensor, Tensor]:
        if self.times == "all":
            winner, loser = winner.sum(1, keepdim=True), loser.sum(1, keepdim=True)
        middle = ((winner + loser) / 2).detach() if self.point == "pair" else 0.0
        better, worse = (self.beta * (g - middle) for g in (winner, loser))
        decided = (2 * share - 1)[:, None]
        each = 1 - decided * (better.sigmoid() - worse.sigmoid())
        return each.mean(1), better - worse
