"""The reward of an environment, which pays for what actions do in it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pgdlab.rewards.base import Reward, Score


class Paid(Reward):
    """What the environment pays, in closed loop: an action by itself is worth nothing that could be said."""

    takes = "actions"

    def score(self, sample: Any, cond: Tensor) -> Score:
        raise ValueError(
            "an action is paid by what it does in its environment, so this needs a closed loop: task=train or task=evaluate "
            "with trainer=dppo"
        )
