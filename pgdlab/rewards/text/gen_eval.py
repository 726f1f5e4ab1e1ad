"""GenEval (Ghosh et al. 2023, arXiv:2310.11513): whether the objects of a prompt are there, so many, so coloured, so placed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.rewards.base import Score, ShapeError
from pgdlab.rewards.text.base import Prompted, colour, require_images
from pgdlab.rewards.text.clip import Clip
from pgdlab.rewards.text.detection import Detector, Found
from pgdlab.rewards.text.networks import DType

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
BACKGROUND = 0x99 / 255  # of a crop
LEAST, LEAST_COUNTED, MOST = 0.3, 0.9, 16  # certainty of an object, of one that is counted; objects of a class
APART = 0.1  # share of both sizes that a distance must exceed


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One line of GenEval's metadata: what must be there and what must not. include: {class, count, color, position: [relation,
    number of the entry before]}; exclude: {class, count}, fewer of which must be there."""

    include: Sequence[Mapping[str, Any]]
    exclude: Sequence[Mapping[str, Any]] = ()
    counted: bool = False


def read_metadata(path: str) -> dict[str, Wanted]:
    """By prompt, of a JSONL file such as GenEval's evaluation_metadata.jsonl. Raises ValueError where it cannot be read."""
    try:
        lines = [json.loads(line) for line in Path(path).expanduser().read_text().splitlines() if line.strip()]
        return {
            line["prompt"]: Wanted(
                include=line["include"], exclude=line.get("exclude", ()), counted=line.get("tag") == "counting"
            )
            for line in lines
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"metadata is {path!r}, which is no JSONL file of prompts and their objects: {error!r}"
        ) from error


def relations(a: Found, b: Found) -> set[str]:
    """Where a is as seen from b: left of, right of, above, below; none where they are too close for it."""
    offset, apart = [], []
    for low, high in ((0, 2), (1, 3)):
        middle = (a.box[low] + a.box[high] - b.box[low] - b.box[high]) / 2
        sizes = a.box[high] - a.box[low] + b.box[high] - b.box[low]
        offset.append(middle)
        apart.append(max(abs(middle) - APART * sizes, 0.0) * (1 if middle > 0 else -1))
    distance = (offset[0] ** 2 + offset[1] ** 2) ** 0.5 or 1.0
    across, down = (x / distance for x in apart)
    told = {"left of": -across, "right of": across, "above": -down, "below": down}
    return {name for name, share in told.items() if share > 0.5}


class GenEval(Prompted):
    """1 where all that a prompt asks for is found by a detector, else 0; part "objects" is how many objects were found.

    detector: folder or hub id of a Mask2Former. clip: of a CLIP that names colours, null where no prompt asks for one. metadata:
    a JSONL file, a line a prompt, in GenEval's format. prompt, batch: see Prompted. device, dtype: its own.
    """

    def __init__(
        self, *, detector: str, metadata: str | None = None, clip: str | None = None, prompt: str | None = None, batch: int = 16,
        device: str | None = None, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        super().__init__(prompt=prompt, batch=batch)
        if metadata is None:
            raise ValueError(
                "metadata is missing: a JSONL file with the objects of each prompt, as GenEval's evaluation_metadata.jsonl"
            )
        self.wanted = read_metadata(metadata)
        self.detector = Detector(detector, device=device, dtype=dtype)
        self.clip = None if clip is None else Clip.read(clip, None, device=device, dtype=dtype)

    def meet(self, conditioning: Conditioning) -> None:
        super().meet(conditioning)
        texts = [t for i, t in enumerate(conditioning.texts or ()) if i != conditioning.unconditional]
        for prompt in texts if self.prompt is None else [self.prompt]:
            self.require(prompt)

    def require(self, prompt: str) -> Wanted:
        """What a prompt asks for. Raises ShapeError where nothing is known of it, or of its objects or colours."""
        if prompt not in self.wanted:
            raise ShapeError(f"the metadata says nothing of the prompt {prompt!r}")
        wanted = self.wanted[prompt]
        unknown = {str(x["class"]) for x in (*wanted.include, *wanted.exclude)} - set(self.detector.names.values())
        if unknown:
            raise ShapeError(f"the prompt {prompt!r} asks for {sorted(unknown)}, which the detector does not know")
        if self.clip is None and any("color" in x for x in wanted.include):
            raise ShapeError(f"the prompt {prompt!r} asks for a colour: reward.clip must name the CLIP that sees it")
        return wanted

    def score(self, sample: Float[Tensor, "B C height width"], cond: Tensor) -> Score:
        require_images(sample.shape, self)
        image = colour(sample)
        wanted = [self.require(prompt) for prompt in self.prompts(cond)]
        seen = self.detector(image, LEAST)
        right = [self.holds(x, some, w) for x, some, w in zip(image, seen, wanted, strict=True)]
        counts = torch.tensor([float(len(some)) for some in seen], device=sample.device)
        return Score.of(torch.tensor(right, device=sample.device).float(), objects=counts)

    def holds(self, image: Float[Tensor, "3 height width"], seen: list[Found], wanted: Wanted) -> bool:
        """Whether an image shows what is wanted."""
        least = LEAST_COUNTED if wanted.counted else LEAST
        groups: list[list[Found]] = []
        there = {f.name: [g for g in seen if g.name == f.name and g.score >= least][:MOST] for f in seen}
        for entry in wanted.include:
            group = there.get(entry["class"], [])[: entry.get("count", 1)]
            if len(group) < entry.get("count", 1):
                return False
            if "color" in entry and any(self.colour_of(image, found) != entry["color"] for found in group):
                return False
            if "position" in entry and not placed(group, entry["position"][0], groups[entry["position"][1]]):
                return False
            groups.append(group)
        return all(len(there.get(entry["class"], [])) < entry["count"] for entry in wanted.exclude)

    def colour_of(self, image: Float[Tensor, "3 height width"], found: Found) -> str:
        """The likeliest colour of an object, of its pixels alone."""
        assert self.clip is not None
        left, top, right, bottom = found.box
        alone = torch.where(found.mask.to(image.device), image, BACKGROUND)[None, :, top:bottom, left:right]
        told = self.clip.texts([t.format(colour=c, name=found.name) for c in COLOURS for t in TEMPLATES])
        means = torch.nn.functional.normalize(told.unflatten(0, (len(COLOURS), len(TEMPLATES))).mean(1))
        return COLOURS[int((means.to(image.device) @ self.clip.images(alone)[0].to(image.device)).argmax())]


def placed(group: Sequence[Found], relation: str, others: Sequence[Found]) -> bool:
    """Whether every object of a group is so placed to every other one."""
    return all(relation in relations(a, b) for a in group for b in others)
