"""The gradient of rewards in the samples that policies make: through decoders and their limits, against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pgdlab.config.compose import compose
from pgdlab.domains.digits import Digits
from pgdlab.domains.qm9 import QM9
from pgdlab.functional.clamping import straight_through
from pgdlab.rewards.base import Reward
from pgdlab.rewards.image.classes import AnyClass, ClassProbability
from pgdlab.rewards.image.jpeg import JpegSize
from pgdlab.rewards.image.quality import Quality
from pgdlab.trainers.adjoint_matching import AdjointMatching
from pgdlab.trainers.reward_gradient import Slope
from pgdlab.training.build import build_world
from pgdlab.world import World
from tests.worlds import tiny


def world_of(*words: str) -> World:
    return build_world(compose(tiny("experiment=digits/adjoint_matching", "heldout=null", *words)))


def test_gradients_pass_limits_and_values_do_not() -> None:
    x = torch.tensor([-2.0, 0.0, 0.3, 1.0, 5.0], requires_grad=True)
    y = straight_through(x)
    assert y.tolist() == [0.0, 0.0, pytest.approx(0.3), 1.0, 1.0]
    (y * torch.arange(5)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 2, 3, 4]


def test_an_image_outside_its_range_has_the_gradient_of_the_limit() -> None:
    decoder = Digits().decoder
    sample = torch.tensor([-3.0, 0.5, 3.0, -1.0]).reshape(1, 1, 2, 2).requires_grad_()
    image = decoder(sample)
    assert image.flatten().tolist() == [0.0, 0.75, 1.0, 0.0]
    (gradient,) = torch.autograd.grad(image.sum(), sample)
    assert gradient.flatten().tolist() == [0.5] * 4  # of (x + 1) / 2


@pytest.mark.parametrize(
    "reward",
    [ClassProbability(domain="digits", target=3), AnyClass(domain="digits"), Quality()],
    ids=lambda r: r.called,
)
def test_finite_differences_of_rewards_of_digits(reward: Reward) -> None:
    """In fp64, along a random direction: central differences are off by the third derivative times 1e-10."""
    world, g = world_of(), torch.Generator().manual_seed(0)
    reward.double()
    x = 0.5 * torch.randn(6, *world.policy.space.shape, generator=g, dtype=torch.float64).clamp(-1.9, 1.9)
    direction, cond = torch.randn(x.shape, generator=g, dtype=torch.float64), torch.zeros(6, dtype=torch.long)
    object.__setattr__(world, "reward", reward)
    world.domain.decoder.decode = lambda sample: (sample + 1) / 2  # type: ignore[method-assign]  # in fp64
    slope = Slope(world, x)
    slope.scored(torch.arange(6), cond)
    up, down = (reward.score((x + s * direction + 1) / 2, cond).value for s in (1e-5, -1e-5))
    found = (slope.gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(found, (up - down) / 2e-5, rtol=1e-4, atol=1e-7)
    assert found.abs().max() > 1e-3
    reward.float()


def test_the_gradient_of_the_run_is_of_its_own_decoder() -> None:
    """In fp32, with the decoder that ships, and in parts of any size."""
    world, g = world_of(), torch.Generator().manual_seed(0)
    x = 0.4 * torch.randn(6, *world.policy.space.shape, generator=g)
    rows, cond = torch.arange(6), torch.zeros(6, dtype=torch.long)
    slope = Slope(world, x)
    score = slope.scored(rows, cond)
    image = world.domain.decoder(x)
    torch.testing.assert_close(score.value, world.reward.score(image, cond).value)
    torch.testing.assert_close(slope.decoded, image)
    assert not score.value.requires_grad
    parts = Slope(world, x)
    parts.batch = 4
    parts.scored(rows, cond)
    torch.testing.assert_close(parts.gradient, slope.gradient, rtol=1e-4, atol=1e-8)
    direction = torch.randn(x.shape, generator=g)
    up, down = (world.reward.score(world.domain.decoder(x + s * direction), cond).value for s in (1e-2, -1e-2))
    clamped = ((x.abs() + 0.05) > 1).flatten(1).any(1)  # beyond the limits the gradient is not that of the value
    found = (slope.gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(found[~clamped], ((up - down) / 2e-2)[~clamped], rtol=2e-2, atol=1e-3)


def test_rewards_say_whether_they_have_gradients() -> None:
    assert not JpegSize(scale=2).differentiable
    with pytest.raises(ValueError, match="reward JpegSize is not differentiable"):
        AdjointMatching().refuse(world_of("reward=jpeg", "reward.scale=2"))


def test_molecules_are_refused() -> None:
    world = world_of()
    object.__setattr__(world, "domain", QM9())
    with pytest.raises(ValueError, match="what domain qm9 decodes has no gradient"):
        AdjointMatching().refuse(world)


def difference(reward: Reward, image: Tensor, direction: Tensor, cond: Tensor, size: float) -> Tensor:
    up, down = (reward.score(image + s * direction, cond).value for s in (size, -size))
    return (up - down) / (2 * size)


@pytest.mark.parametrize("reward", ["red", "emoji_clip"])
def test_pipelines_with_an_autoencoder_carry_gradients(reward: str) -> None:
    """Emoji: the images are those of the pipeline bit for bit, and a reward's slope along a direction of the latents is that of
    differences; fp32 leaves 1e-2 of it, and few grey levels are at their limits."""
    world = build_world(compose(["experiment=emoji/adjoint_red", "heldout=null", f"reward={reward}"]))
    world.measure()
    decoder, g = world.domain.decoder, torch.Generator().manual_seed(0)
    x, cond = 0.8 * torch.randn(2, *world.policy.space.shape, generator=g), torch.tensor([0, 3])
    with torch.no_grad():
        image = decoder(x)
    slope = Slope(world, x)
    slope.scored(torch.arange(2), cond)
    assert torch.equal(slope.decoded, image)
    assert not decoder(x).requires_grad
    limit = ((image == 0) | (image == 1)).double().mean()
    assert limit < 0.1
    direction = slope.gradient / slope.gradient.flatten(1).norm(dim=1)[:, None, None, None]
    with torch.no_grad():
        up, down = (world.reward.score(decoder(x + s * direction), cond).value for s in (0.03, -0.03))
    found = slope.gradient.flatten(1).norm(dim=1)
    torch.testing.assert_close(found, (up - down) / 0.06, rtol=0.1, atol=0)
