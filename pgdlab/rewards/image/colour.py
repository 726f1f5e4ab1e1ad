"""How much of a colour an image has."""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from pgdlab.rewards.base import Reward, Score, ShapeError

Channel = Literal["red", "green", "blue"]


class Colour(Reward):
    """The mean over pixels of one channel minus the mean of the other two, -1 to 1: 0 for every grey. It has gradients.

    channel: red, green or blue.
    """

    takes, differentiable = "images", True

    def __init__(self, *, channel: Channel = "red") -> None:
        super().__init__()
        self.channel = get_args(Channel).index(channel)

    def score(self, sample: Float[Tensor, "B C height width"], cond: Tensor) -> Score:
        if sample.ndim != 4 or sample.shape[1] != 3:
            raise ShapeError(f"a colour is of RGB images (B, 3, height, width); these are {tuple(sample.shape)}")
        mean = sample.flatten(2).mean(2)
        return Score.of(mean[:, self.channel] * 1.5 - mean.sum(1) / 2)
