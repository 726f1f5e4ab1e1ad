"""Whether an image shows the words that its prompt asks for (after Liu et al. 2025, Flow-GRPO, arXiv:2505.05470, sec. 5.1)."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from pgdlab.config.program import extra
from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.rewards.text.ahead import REMEMBERED, Ahead

QUOTED = re.compile(  # between quotes of one kind; an apostrophe within a word is none
    r"\"([^\"]+)\"|“([^”]+)”|«([^»]+)»|„([^“”]+)[“”]"
    r"|‘((?:[^’]|(?<=\w)’(?=\w))+)’(?!\w)|(?<!\w)'((?:[^']|(?<=\w)'(?=\w))+)'(?!\w)"  # noqa: RUF001
)


def asked_for(prompt: str) -> str:
    """The words between a prompt's quotes, all of them one after the other; empty where there are none."""
    return " ".join(next(filter(None, found)) for found in QUOTED.findall(prompt))


def letters(text: str) -> str:
    """Without spaces, in small letters."""
    return "".join(text.split()).casefold()


def edits(a: str, b: str) -> int:
    """Levenshtein's distance: insertions, deletions and substitutions of a letter."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


def legibility(read: str, wanted: str) -> float:
    """1 - min(d, n) / n, of n letters that are wanted and the distance d to what is read; 1 where that contains them."""
    read, wanted = letters(read), letters(wanted)
    distance = 0 if wanted in read else edits(read, wanted)
    return 1 - min(distance, len(wanted)) / len(wanted)


def reader() -> Callable[[], Any]:
    """What makes a RapidOCR of one thread. Raises ValueError where the package is missing."""
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        raise ValueError(
            f"this reward reads with the package rapidocr-onnxruntime ({error}): {extra('ocr')}"
        ) from error
    return lambda: RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)


class DrawnText(Ahead):
    """1 where PP-OCR reads, in the image, what stands between quotes in its prompt; less by the share of letters that are
    wrong, 0 to 1. Spaces and capitals do not count. About a second an image and thread.

    workers: images that are read at once. prompt: see Prompted. remembered: see Ahead.
    """

    def __init__(self, *, prompt: str | None = None, workers: int = 2, remembered: int = REMEMBERED) -> None:
        super().__init__(prompt=prompt, workers=workers, remembered=remembered)
        if prompt is not None:
            require_quotes([prompt])
        self.own, self.reader = threading.local(), reader()

    def meet(self, conditioning: Conditioning) -> None:
        super().meet(conditioning)
        if self.prompt is None:
            require_quotes([t for i, t in enumerate(self.texts or ()) if i != conditioning.unconditional])

    def judged(self, pixels: UInt8[Any, "height width 3"], prompt: str) -> float:
        if "reader" not in vars(self.own):
            self.own.reader = self.reader()  # each thread has its own
        lines, _ = self.own.reader(np.ascontiguousarray(pixels[..., ::-1]))  # it takes blue first
        return legibility(" ".join(line[1] for line in lines or ()), asked_for(prompt))


def require_quotes(prompts: list[str]) -> None:
    """Raises ValueError for prompts that ask for no words."""
    silent = [p for p in prompts if not letters(asked_for(p))]
    if silent:
        raise ValueError(
            f'the prompt {silent[0]!r} asks for no words: put them between quotes, a sign that says "hello"'
        )
