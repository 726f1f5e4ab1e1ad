"""The reward of a colour."""

from __future__ import annotations

import pytest
import torch

from pgdlab.config.compose import ConfigError, compose
from pgdlab.rewards.base import ShapeError
from pgdlab.rewards.image.colour import Colour


def painted(*levels: float) -> torch.Tensor:
    return torch.tensor(levels).reshape(1, 3, 1, 1).expand(1, 3, 4, 6).clone()


def test_a_channel_against_the_others() -> None:
    image = torch.cat([painted(1, 0, 0), painted(0.5, 0.5, 0.5), painted(0.2, 0.6, 0.9), painted(0, 1, 1)])
    cond = torch.zeros(4, dtype=torch.long)
    for channel, values in {"red": [1, 0, 0.2 - 0.75, -1], "blue": [-0.5, 0, 0.9 - 0.4, 0.5]}.items():
        found = Colour(channel=channel).score(image, cond).value  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.tensor(values))


def test_it_has_a_gradient() -> None:
    image = painted(0.2, 0.6, 0.9).requires_grad_()
    Colour(channel="green").score(image, torch.zeros(1, dtype=torch.long)).value.sum().backward()
    assert image.grad is not None
    expected = painted(-0.5, 1, -0.5) / 24  # 4 x 6 pixels
    torch.testing.assert_close(image.grad, expected)


def test_grey_images_and_other_channels_are_refused() -> None:
    with pytest.raises(ShapeError, match="RGB"):
        Colour().score(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ConfigError, match="channel"):
        compose(["domain=folder", "domain.path=.", "reward=red", "reward.channel=pink"])
