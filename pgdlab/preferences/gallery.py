"""The samples that pairs name, as scores see them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.images.folder import pixels
from pgdlab.molecules.fingerprints import BITS, bits
from pgdlab.preferences.pairs import Row, Source, named


def read_samples(path: Path, shape: Sequence[int]) -> tuple[Float[Tensor, "N *D"], Int[Tensor, " N"]]:
    """What task=sample wrote: samples as the denoiser sees them, and their conditions. Only tensors are read. Raises ValueError
    where there are none, or of another shape than the domain's."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        sample, cond = state["sample"], state["cond"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"cannot read samples from {path}: {error}. task=sample writes samples.pt") from error
    if tuple(sample.shape[1:]) != tuple(shape):
        raise ValueError(f"{path} has samples of {tuple(sample.shape[1:])}, and the domain's are {tuple(shape)}")
    return sample, cond.long()


def rows_of(sources: Sequence[Source], shape: Sequence[int]) -> tuple[Float[Tensor, "N *D"], Int[Tensor, " N"]]:
    """The rows of files of samples, and their conditions. Raises ValueError for pictures, and for a row that is not there."""
    read: dict[Path, tuple[Tensor, Tensor]] = {}
    found = []
    for source in sources:
        if not isinstance(source, Row):
            raise ValueError(
                f"{named(source)} is a picture, and samples are wanted as the denoiser sees them: rows of a samples.pt"
            )
        if source.file not in read:
            read[source.file] = read_samples(source.file, shape)
        sample, cond = read[source.file]
        if source.row >= len(sample):
            raise ValueError(f"{named(source)} is not there: the file has {len(sample)} samples")
        found.append((sample[source.row], cond[source.row]))
    return torch.stack([s for s, _ in found]), torch.stack([c for _, c in found])


def encoded(decoded: Any) -> Float[Tensor, "N *F"]:
    """What a network reads of decoded samples: images and points as they are, and of molecules 2,048 bits of their Morgan
    fingerprints and whether they are valid."""
    if isinstance(decoded, Tensor):
        return decoded.float()
    out = torch.zeros(len(decoded), BITS + 1)
    for row, molecule in zip(out, decoded, strict=True):
        if molecule.valid:
            row[[*bits(molecule.smiles), BITS]] = 1
    return out


def seen(
    sources: Sequence[Source], shape: Sequence[int], decode: Callable[[Tensor], Any]
) -> tuple[Float[Tensor, "N *F"], Int[Tensor, " N"] | None]:
    """encoded() of samples, and their conditions (None of pictures). Pictures are scaled to the domain's size and cut to its
    square. shape: of a sample of the domain. Raises ValueError where the domain has no pictures, or one cannot be read."""
    pictures = [source for source in sources if not isinstance(source, Row)]
    if not pictures:
        sample, cond = rows_of(sources, shape)
        return encoded(decode(sample)), cond
    if len(pictures) < len(sources):
        raise ValueError("some pairs name pictures and others rows of a samples.pt: fit on one kind at a time")
    example = decode(torch.zeros(1, *shape))
    if not isinstance(example, Tensor) or example.ndim != 4:
        raise ValueError(f"the pairs name pictures, such as {named(pictures[0])}, and the domain has none")
    out = torch.empty(len(pictures), *example.shape[1:])
    for row, source in zip(out, pictures, strict=True):
        try:
            file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
            row.copy_(torch.tensor(pixels(file, example.shape[1], example.shape[2])).float() / 255)
        except ValueError as error:
            raise ValueError(f"{named(source)}: {error}") from error
    return out, None
