"""Features of images: what has them, and a network that nobody has trained."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import rms_norm

WIDTHS = (32, 64, 128)


class Features(nn.Module, ABC):
    """Images in [0, 1] -> vectors, in which sets of images are compared."""

    @abstractmethod
    def features(self, image: Float[Tensor, "B C S S"]) -> Float[Tensor, "B F"]:
        """The features of images."""


class RandomFeatures(Features):
    """Means and standard deviations over places of three random convolutions, standardised with those of `data`, then scaled
    to a mean square of 1 for each image, which bounds KID (as a LayerNorm does in the trained networks).

    The weights are drawn once and for all (He et al. 2015, arXiv:1502.01852). Such features tell colours, edges and textures
    apart and know no meaning; they suit data that are far from the photographs of trained networks (Naeem et al. 2020,
    arXiv:2002.09797, who compare sets of images in them).
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, data: Float[Tensor, "N C S S"]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        sides = zip((data.shape[1], *WIDTHS), WIDTHS, strict=False)
        convs = [nn.utils.skip_init(nn.Conv2d, i, o, 3, stride=2, padding=1) for i, o in sides]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, generator=generator)
            nn.init.zeros_(conv.bias)
        self.convs = nn.ModuleList(convs).requires_grad_(False)
        found = torch.cat([self.moments(part) for part in data.split(1000)])
        self.register_buffer("centre", found.mean(0))
        self.register_buffer("spread", found.std(0).clamp_min(1e-4))

    def features(self, image: Float[Tensor, "B C S S"]) -> Float[Tensor, "B F"]:
        return rms_norm((self.moments(image) - self.centre) / self.spread, self.centre.shape)

    def moments(self, image: Float[Tensor, "B C S S"]) -> Float[Tensor, "B F"]:
        """Means and standard deviations of every layer's channels."""
        x, seen = 2 * image - 1, []
        for conv in self.convs:
            x = conv(x).relu()
            seen += [x.mean((2, 3)), x.flatten(2).std(2, correction=0)]
        return torch.cat(seen, 1)
