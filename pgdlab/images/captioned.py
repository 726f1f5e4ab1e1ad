"""Pictures with captions in a folder: one with Hugging Face's metadata.jsonl, or the npm package emoji-datasource-google."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from pgdlab.images.folder import pixels

METADATA, EMOJI = "metadata.jsonl", "emoji.json"
FEWEST = 4  # pictures
SHARE = 6  # how often a picture without variants is drawn for one draw of each of six variants
TONES = {"1F3FB": "light", "1F3FC": "medium light", "1F3FD": "medium", "1F3FE": "medium dark", "1F3FF": "dark"}


@dataclass(frozen=True)
class Entry:
    """A picture's file, its caption, and what it is a variant of."""

    file: Path
    caption: str
    kind: str


@dataclass(frozen=True, eq=False)
class Captioned:
    """pixels, captions, and the number of each picture's kind: variants of one thing share it."""

    pixels: UInt8[Tensor, "N 3 S S"]
    captions: tuple[str, ...]
    kind: Int[Tensor, " N"]

    def balanced(self) -> Int[Tensor, " R"]:
        """Rows of all pictures, those of kinds with fewer than SHARE variants several times, so that no kind is rare."""
        times = (SHARE / self.kind.bincount()[self.kind]).round().clamp(min=1).long()
        return torch.arange(len(self.kind)).repeat_interleave(times)


def captioned(folder: Path, size: int) -> Captioned:
    """All pictures of a folder, on white, scaled and cut to squares. Raises ValueError where there are too few or one is missing
    or broken."""
    entries = [*emoji(folder)] if (folder / EMOJI).is_file() else [*listed(folder)]
    if len(entries) < FEWEST:
        raise ValueError(f"{folder} has {len(entries)} pictures with captions; at least {FEWEST} are needed")
    every = []
    for entry in entries:
        try:
            every.append(pixels(entry.file, 3, size))
        except ValueError as error:
            raise ValueError(f"{entry.file} cannot be read: {error}") from error
    names = {name: number for number, name in enumerate(dict.fromkeys(entry.kind for entry in entries))}
    kind = torch.tensor([names[entry.kind] for entry in entries])
    return Captioned(torch.from_numpy(np.stack(every)), tuple(entry.caption for entry in entries), kind)


def listed(folder: Path) -> Iterator[Entry]:
    """What metadata.jsonl lists: an object a line with file_name and text, and kind where pictures are variants."""
    file = folder / METADATA
    if not file.is_file():
        raise ValueError(f"{folder} has neither {METADATA} (a line a picture: file_name, text) nor {EMOJI}")
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
            name, text = said["file_name"], said["text"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{file}, line {number} must be an object with file_name and text: {line[:80]}") from error
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{file}, line {number} has no text")
        yield Entry(folder / str(name), " ".join(text.split()), str(said.get("kind", name)))


def emoji(package: Path) -> Iterator[Entry]:
    """The pictures of 64 pixels and their names, skin tones among them ("waving hand sign, dark skin tone")."""
    for said in json.loads((package / EMOJI).read_text(encoding="utf-8")):
        name, pictures = caption(said), package / "img" / "google" / "64"
        variants = {"": said, **(said.get("skin_variations") or {})}
        for key, one in variants.items():
            file = pictures / one["image"]
            if one["has_img_google"] and file.is_file():
                yield Entry(file, f"{name}, {tones(key)}" if key else name, said["image"])


def caption(said: dict[str, Any]) -> str:
    """The name of an emoji in lower case; "flag of japan" for "JAPAN FLAG"."""
    name = said["name"].lower().replace(":", ",").replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").strip()
    if said["subcategory"] == "country-flag" and name.endswith(" flag"):
        name = "flag of " + name.removesuffix(" flag")
    return " ".join(name.split())


def tones(key: str) -> str:
    """The skin tones of a variant, in words: 1F3FB-1F3FE is light and medium dark."""
    words = dict.fromkeys(TONES[part] for part in key.split("-"))
    return " and ".join(words) + " skin tone"
