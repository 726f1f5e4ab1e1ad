"""Images of a folder as pixels of one size, split so that no image is on both sides."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from pgdlab.config.cache import cache_folder
from pgdlab.images.listing import File, Listing

GREY = ("1", "L", "LA", "La", "I", "F")  # PIL's modes without colour, and those that begin with I;16
LARGEST = 64  # pixels a side, unless another size is asked for
FEWEST = 4  # different images
HELD_OUT = 0.1  # of the different images
BAD = 0.05  # share of files that may be unreadable; one always may
SLOW = 5.0  # seconds of reading from which on the pixels are kept for the next run


class Head(NamedTuple):
    """What a file says of itself: whether it has colour, and its smaller side in pixels."""

    colour: bool
    side: int


@dataclass(frozen=True, eq=False)
class Pictures:
    """pixels, class and row numbers of the test split; train is the rest. names: of the files, in the same order."""

    pixels: UInt8[Tensor, "N C S S"]
    label: Int[Tensor, " N"]
    test: Int[Tensor, " M"]
    names: tuple[str, ...]


def opened(path: Path | BytesIO) -> Any:
    """PIL's image. Raises ValueError with a reason where PIL cannot read it, or where it is so large (more than 89 million
    pixels, PIL's own bound) that it may be made to fill the memory."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except Exception as error:  # whatever a damaged file makes PIL raise
        raise ValueError("no image that PIL reads") from error


def head(path: Path) -> Head:
    """Colour and size, without decoding. Raises ValueError as opened() does."""
    with opened(path) as image:
        grey = image.mode in GREY or image.mode.startswith("I;16")
        return Head(not grey, min(image.size))


def pixels(path: Path | BytesIO, channels: int, size: int) -> UInt8[Any, "C S S"]:
    """An image upright (EXIF), on white where it is transparent, scaled with antialias until it covers the square, and cut to
    its centre. Raises ValueError with a reason where it cannot be read."""
    from PIL import Image, ImageOps

    with opened(path) as image:
        try:
            image.draft(
                None, (2 * size, 2 * size)
            )  # a JPEG is decoded smaller where that is enough: several times faster
            plain = opaque(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
        except Exception as error:  # whatever a damaged file makes PIL raise
            raise ValueError(str(error) or type(error).__name__) from error
    fitted = np.asarray(ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC))
    return fitted[None] if channels == 1 else fitted.transpose(2, 0, 1)


def opaque(image: Any) -> Any:
    """With 8 bits a channel and no transparency. Raises ValueError for floating-point and 32-bit pixels."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("32-bit pixels have no known range")
        return Image.fromarray((deep / 257).round().astype(np.uint8))  # 65535 -> 255
    if "A" in image.getbands() or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image


@functools.lru_cache(maxsize=8)
def heads(found: Listing) -> dict[str, Head]:
    """File name -> Head of those that can be opened. Raises ValueError where more than a few cannot."""
    good: dict[str, Head] = {}
    bad: dict[str, str] = {}
    for file in found.files:
        try:
            good[file.name] = head(found.folder / file.name)
        except ValueError as error:
            bad[file.name] = str(error)
    complain(found, bad)
    return good


def complain(found: Listing, bad: dict[str, str]) -> None:
    """Warns of a few unreadable files, which are left out. Raises ValueError for more than BAD of all."""
    if not bad:
        return
    first = ", ".join(f"{name} ({why})" for name, why in list(bad.items())[:3])
    text = f"{len(bad)} of {len(found.files)} image files in {found.folder} cannot be read: {first}"
    if len(bad) > max(1, BAD * len(found.files)):
        raise ValueError(f"{text}{', ...' if len(bad) > 3 else ''}. Repair or remove them")
    warnings.warn(f"{text}; left out", stacklevel=2)


def usual_channels(found: Listing) -> int:
    """3 where any image has colour, else 1."""
    return 3 if any(one.colour for one in heads(found).values()) else 1


def usual_size(found: Listing) -> int:
    """The smallest side of all images, rounded up to a power of two, 8 at least and LARGEST at most."""
    smallest = min(one.side for one in heads(found).values())
    return min(LARGEST, max(8, 2 ** math.ceil(math.log2(smallest))))


@functools.lru_cache(maxsize=4)
def pictures(found: Listing, channels: int, size: int) -> Pictures:
    """All images that can be read. Raises ValueError where more than a few cannot, or fewer than FEWEST differ."""
    readable = heads(found)
    files = [file for file in found.files if file.name in readable]
    kept = kept_in(found, channels, size)
    rows, every = stored(kept, files) or decoded(found, files, channels, size, kept)
    files = [files[row] for row in rows]
    same = [hashlib.blake2b(one.tobytes(), digest_size=16).digest() for one in every]
    if len(set(same)) < FEWEST:
        raise ValueError(
            f"{found.folder} has {len(set(same))} different images that can be read; at least {FEWEST} are needed, to train on "
            "some and to hold out others"
        )
    test, use = split(files, same)
    twice = len(files) - len(use)
    if twice:
        print(f"{twice} images of {found.folder / 'train'} are in test/ too: they are not trained on")
    place = {row: i for i, row in enumerate(use)}
    label = torch.tensor([files[row].label for row in use])
    held = torch.tensor([place[row] for row in test])
    return Pictures(torch.from_numpy(every[use]), label, held, tuple(files[row].name for row in use))


def split(files: Sequence[File], same: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """(rows of the test split, rows that are used), in order. same: equal for equal pixels, which stay on one side.

    The folder's own train/ and test/ where it has them: what is in both counts as test. Else the tenth of the different
    images, two at least, whose names have the smallest BLAKE2b: the same on every machine, and hardly moved by more files.
    """
    rows = range(len(files))
    if files[0].split is not None:
        test = [row for row in rows if files[row].split == "test"]
        held = {same[row] for row in test}
        return test, [row for row in rows if files[row].split == "test" or same[row] not in held]
    first: dict[bytes, bytes] = {}
    for file, key in zip(files, same, strict=True):
        digest = hashlib.blake2b(file.name.encode(), digest_size=8).digest()
        first[key] = min(digest, first.get(key, digest))
    chosen = set(sorted(first, key=lambda key: first[key])[: max(2, round(HELD_OUT * len(first)))])
    return [row for row in rows if same[row] in chosen], list(rows)


def decoded(
    found: Listing, files: Sequence[File], channels: int, size: int, kept: Path
) -> tuple[list[int], UInt8[Any, "N C S S"]]:
    """The rows that could be decoded, and their pixels; written to `kept` where it took long."""
    started = time.perf_counter()
    rows: list[int] = []
    each: list[Any] = []
    bad: dict[str, str] = {}
    for row, file in enumerate(files):
        try:
            each.append(pixels(found.folder / file.name, channels, size))
            rows.append(row)
        except ValueError as error:
            bad[file.name] = str(error)
    complain(found, bad)
    # colours were turned to the front as views, and safetensors writes an array as it lies in memory
    every = np.ascontiguousarray(np.stack(each)) if each else np.zeros((0, channels, size, size), np.uint8)
    if time.perf_counter() - started > SLOW:
        keep(kept, np.array(rows), every)
    return rows, every


def kept_in(found: Listing, channels: int, size: int) -> Path:
    """The file of the decoded pixels: another one as soon as a file is another, by its name, size or time of change."""
    facts = repr((str(found.folder.resolve()), found.files, channels, size, 1))
    return cache_folder() / f"images_{hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()}.safetensors"


def stored(path: Path, files: Sequence[File]) -> tuple[list[int], UInt8[Any, "N C S S"]] | None:
    """What keep() wrote; None where it is not there or broken."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
        rows, every = found["rows"].tolist(), found["pixels"]
    except (OSError, KeyError, SafetensorError):
        return None
    return (rows, every) if len(rows) == len(every) and max(rows, default=0) < len(files) else None


def keep(path: Path, rows: Any, every: UInt8[Any, "N C S S"]) -> None:
    """Writes the file, whole or not at all; where it cannot be written, that is said and no more."""
    from safetensors.numpy import save_file

    part = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"rows": rows, "pixels": every}, part)
        part.replace(path)
        print(f"the decoded images are kept in {path}")
    except OSError as error:
        print(f"{path} cannot be written, and the images are read again next time: {error}")
