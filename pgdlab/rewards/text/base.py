"""Rewards that see prompts."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.rewards.base import Reward, ShapeError


class Prompted(Reward):
    """A reward of images under their prompts. prompt: one for all samples, for domains without texts, or null for each
    sample's own. batch: images at once, 0 for all."""

    takes = "images"

    def __init__(self, *, prompt: str | None = None, batch: int = 0) -> None:
        super().__init__()
        if batch < 0:
            raise ValueError(f"batch is {batch}; it must be a number of images, or 0 for all")
        if prompt is not None and not prompt.strip():
            raise ValueError("prompt is empty; it must be a text, or null for each sample's own")
        self.prompt, self.batch = prompt, batch
        self.texts: tuple[str, ...] | None = None

    def meet(self, conditioning: Conditioning) -> None:
        if self.prompt is None and conditioning.texts is None:
            raise ValueError(
                f"reward {self.called} judges an image by its prompt, but the conditions of this domain have no texts: give a "
                "prompt for all samples, reward.prompt='a red cat'"
            )
        self.texts = conditioning.texts

    def prompts(self, cond: Int[Tensor, " B"]) -> list[str]:
        """The prompts of samples. Raises ShapeError where there is none: no sample is at fault."""
        if self.prompt is not None:
            return [self.prompt] * len(cond)
        if self.texts is None:
            raise ShapeError(
                f"reward {self.called} was told no prompts: give it one, or meet() a conditioning with texts"
            )
        found = [self.texts[c] for c in cond.tolist()]
        if not all(text.strip() for text in found):
            raise ShapeError(
                f"reward {self.called} judges an image by its prompt, but a prompt here is empty: choose "
                "conditions that have a text, or give one for all samples, reward.prompt='a red cat'"
            )
        return found


def require_images(shape: Sequence[int], reward: Reward) -> None:
    """Raises ShapeError for what are no grey or RGB images (B, C, height, width)."""
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise ShapeError(
            f"reward {reward.called} looks at images (B, C, height, width) with 1 or 3 channels; these are {tuple(shape)}"
        )


def colour(image: Float[Tensor, "B C height width"]) -> Float[Tensor, "B 3 height width"]:
    """RGB in [0, 1]; grey is repeated."""
    return image.expand(-1, 3, -1, -1).clamp(0, 1)
