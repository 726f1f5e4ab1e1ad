"""A reward learned from pairs: what task=preferences wrote."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pgdlab.preferences.ensemble import load
from pgdlab.preferences.gallery import encoded
from pgdlab.rewards.base import Reward, Score, ShapeError


class Preference(Reward):
    """mean_m r_m(x) - pessimism std_m r_m(x) over an ensemble's members, in nats of the annotator's noise: a difference of d is
    preferred with probability sigmoid(d). Part "disagreement": the standard deviation (n - 1) over members.

    folder: of the run of task=preferences. domain: the class of the domain that it must have been fitted on; null for any
    whose samples have its shape. pessimism: how many standard deviations are taken off (0 for the mean), so that samples that
    the pairs say little about are worth less.
    """

    def __init__(self, *, folder: str, domain: str | None = None, pessimism: float = 0.0) -> None:
        super().__init__()
        self.ensemble, card = load(folder)
        if domain is not None and domain != card.get("domain"):
            raise ValueError(
                f"the reward in {folder} was fitted on samples of {card.get('domain')}, and this run's domain is {domain}; set "
                "reward.domain=null to use it where samples have the same shape"
            )
        if not 0 <= pessimism < float("inf"):
            raise ValueError(f"pessimism is {pessimism}; it must be at least 0, in standard deviations of the ensemble")
        if pessimism and len(self.ensemble.members) < 2:
            raise ValueError(
                f"pessimism is {pessimism}, and the ensemble in {folder} has one member, that cannot disagree: set it to 0"
            )
        self.pessimism, self.takes = pessimism, card.get("kind")
        self.differentiable = self.takes != "molecules"

    def score(self, sample: Any, cond: Tensor) -> Score:
        x = encoded(sample).to(self.ensemble.centre)
        if tuple(x.shape[1:]) != self.ensemble.shape:
            raise ShapeError(
                f"the reward was fitted on samples of {self.ensemble.shape}, and these are {tuple(x.shape[1:])}"
            )
        if self.ensemble.conditions > 1 and bool((cond >= self.ensemble.conditions).any()):
            raise ShapeError(
                f"the reward was fitted under conditions 0 to {self.ensemble.conditions - 1}, and one here is {int(cond.max())}"
            )
        each = self.ensemble(x, cond)
        spread = each.std(0) if len(each) > 1 else torch.zeros_like(each[0])
        return Score.of(each.mean(0) - self.pessimism * spread, disagreement=spread)
