"""Images of your own: a folder of PNG, JPEG, WebP or BMP files, with a subfolder for every class or without classes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from pgdlab.config.program import program
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.domains.image import ImageDomain
from pgdlab.images.classifiers import Classifier
from pgdlab.images.features import Features, RandomFeatures
from pgdlab.images.folder import Pictures, pictures, usual_channels, usual_size
from pgdlab.images.listing import Listing, listing

# pixels a side, at most -> channels of the network's levels, before pretraining
WIDTHS: Mapping[int, tuple[int, ...]] = {8: (48, 64), 16: (32, 64), 32: (24, 48, 96), 64: (24, 48, 96, 128)}
LARGE = (32, 64, 96, 128, 128)
SIZES = (8, 256)  # pixels a side: a denoiser in pixels says little below and costs too much above
GROUPS = 8  # of the network's norms: widths are multiples of it


@dataclass(frozen=True, kw_only=True, eq=False)
class Folder(ImageDomain):
    """Images of a folder. path: the folder; with train/ and test/ in it these are the splits, else a tenth is held out.

    size: pixels a side; null: the smallest side of all images, rounded up to a power of two, 64 at most. channels: 1 (grey) or
    3 (colour); null: 3 where any image has colour. train_conditions: classes, by number or by name; null: all. weights: a base
    that pretraining wrote; none ships. classifiers: a folder that task=classifiers wrote; null: figures are measured in
    random features (kid_random, ...). widths: channels of the network's levels, before pretraining; null: by the size.
    dropout: while pretraining, against learning a small folder by heart.
    """

    path: str | None = None
    channels: int | None = None
    train_conditions: tuple[int | str, ...] | None = None  # type: ignore[assignment]  # numbers once it is made
    classifiers: str | None = None
    size: int | None = None  # type: ignore[assignment]  # a number once it is made
    widths: tuple[int, ...] | None = None  # type: ignore[assignment]  # as above
    dropout: float = 0.1
    name: str = field(default="folder", init=False)
    found: Listing = field(init=False)

    def __post_init__(self) -> None:
        if self.path is None:
            raise ValueError("domain.path is null; it must be the folder of your images")
        if self.channels not in (None, 1, 3):
            raise ValueError(
                f"channels is {self.channels}; it must be 1 (grey) or 3 (colour), or null for what the images have"
            )
        if self.classifiers is not None and "/" not in self.classifiers:
            raise ValueError(
                f"classifiers is {self.classifiers!r}; a folder of yours has a slash: ./{self.classifiers}"
            )
        found = listing(Path(self.path).expanduser())
        size = usual_size(found) if self.size is None else self.size
        if not SIZES[0] <= size <= SIZES[1]:
            raise ValueError(f"size is {size}; it must be {SIZES[0]} to {SIZES[1]} pixels a side")
        chosen = {
            "found": found, "classes": found.classes, "size": size, "colours": self.channels or usual_channels(found),
            "widths": self.widths or next((w for most, w in WIDTHS.items() if size <= most), LARGE),
        }  # fmt: skip
        if self.train_conditions is None:
            chosen["train_conditions"] = tuple(range(max(1, len(found.classes))))
        for key, value in chosen.items():
            object.__setattr__(self, key, value)
        self.require_levels()
        super().__post_init__()

    def require_levels(self) -> None:
        """Raises ValueError where no network of these widths reads images of this size."""
        assert self.widths is not None  # it is chosen by now
        halved = 2 ** (len(self.widths) - 1)
        if self.size % halved or any(w < GROUPS or w % GROUPS for w in self.widths):
            raise ValueError(
                f"size is {self.size} and widths {list(self.widths)}; widths must be multiples of {GROUPS}, and with "
                f"{len(self.widths)} of them the size a multiple of {halved}"
            )

    @property
    def pretraining(self) -> str:
        shape = f"domain.size={self.size} domain.channels={self.colours}"
        return f"{program()} experiment=pretrain/folder domain.path={self.path} {shape}"

    def base(self) -> DiffusersDenoiser:
        if self.weights is None:
            raise ValueError(
                f"domain.weights is null, and no base of your images ships: make one with `{self.pretraining}` and name "
                "its folder (runs/.../base) in domain.weights"
            )
        return super().base()

    @functools.cached_property
    def pictures(self) -> Pictures:
        """The images, read once a process."""
        return pictures(self.found, self.colours, self.size)

    def images(self) -> tuple[Tensor, Int[Tensor, " N"], Int[Tensor, " M"]]:
        found = self.pictures
        return found.pixels.float() / 127.5 - 1, found.label, found.test

    def has_data(self) -> bool:
        return True

    @functools.cached_property
    def features(self) -> Features:
        if self.classifiers is not None:
            return self.fitting(super().features)
        with torch.no_grad():
            return RandomFeatures(self.decoder(self.data("train")[0]))

    @functools.cached_property
    def judge(self) -> Classifier | None:
        return None if self.classifiers is None else super().judge

    @functools.cached_property
    def reference(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.references(self.features)

    def fitting(self, network: Features) -> Features:
        """The network. Raises ValueError for a classifier of other images: its figures would mean nothing here."""
        if isinstance(network, Classifier):
            has, wanted = (network.names, network.channels, network.size), (self.classes, self.colours, self.size)
            if has != wanted:
                raise ValueError(
                    f"the classifiers in {self.classifiers} are of (classes, channels, size) {has}, and domain.path has "
                    f"{wanted}: fit them again with task=classifiers"
                )
        return network

    def likeness(self, image: Tensor, cond: Tensor) -> dict[str, float]:
        found = super().likeness(image, cond)
        return found if self.classifiers else {f"{name}_random": value for name, value in found.items()}
