"""Pairs of samples and which of the two was preferred, and the file that answers are appended to, a line each."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

SHARE = {"first": 1.0, "second": 0.0, "tie": 0.5}  # winner -> the share of the vote that the first sample has
OF_A_FILE = re.compile(r"(?P<file>.+\.pt):(?P<row>\d+)")


class Row(NamedTuple):
    """A sample of a file of samples (task=sample)."""

    file: Path
    row: int


Source: TypeAlias = Row | Path | bytes  # or a picture: its file, or what is in one


class Answer(NamedTuple):
    """share: 1 where the first was preferred, 0 where the second, 1/2 for a tie. probability: that the first is preferred, where
    the annotator's own law is known, else NaN."""

    first: Source
    second: Source
    share: float
    prompt: str = ""
    probability: float = float("nan")


@dataclass(frozen=True)
class Pairs:
    """P pairs of N different samples. rows: the two of each; share, probability: see Answer; prompts: of each pair."""

    sources: tuple[Source, ...]
    rows: Int[Tensor, "P 2"]
    share: Float[Tensor, " P"]
    prompts: tuple[str, ...]
    probability: Float[Tensor, " P"]

    def __len__(self) -> int:
        return len(self.share)

    @classmethod
    def of(cls, answers: Iterable[Answer], where: str) -> Pairs:
        """Raises ValueError where there is none, or a sample is paired with itself. where: what was read, for the message."""
        given = list(answers)
        number: dict[Source, int] = {}
        for answer in given:
            if answer.first == answer.second:
                raise ValueError(f"{where} has a pair of one sample with itself: {named(answer.first)}")
            for source in (answer.first, answer.second):
                number.setdefault(source, len(number))
        if not given:
            raise ValueError(f"{where} has no pair: task=annotate makes some")
        rows = torch.tensor([[number[a.first], number[a.second]] for a in given])
        share = torch.tensor([a.share for a in given], dtype=torch.float64)
        probability = torch.tensor([a.probability for a in given], dtype=torch.float64)
        return cls(tuple(number), rows, share, tuple(a.prompt for a in given), probability)


def named(source: Source) -> str:
    """A sample as messages call it."""
    if isinstance(source, bytes):
        return "a picture inside the table"
    return f"{source.file}:{source.row}" if isinstance(source, Row) else str(source)


def source_of(name: str, folder: Path) -> Source:
    """The sample of a name in a file of that folder: `samples.pt:ROW`, or the path of a picture."""
    if found := OF_A_FILE.fullmatch(name):
        return Row((folder / found["file"]).resolve(), int(found["row"]))
    return (folder / name).resolve()


class PairFile:
    """A JSON Lines file of pairs, appended to and never written over. A line is {"first", "second", "winner"} and, where known,
    "prompt", "probability" and "left" (which of the two was shown on the left); {"undo": true} takes the last answer back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def records(self) -> list[dict[str, Any]]:
        """The answers that stand. A last line that was cut is left out, which is said. Raises ValueError for any other line that
        is no answer."""
        kept: list[dict[str, Any]] = []
        content = self.path.read_bytes() if self.path.is_file() else b""
        whole, _, rest = content.rpartition(b"\n")
        if rest:
            print(f"{self.path}: the last line was cut, and is left out", file=sys.stderr)
        for number, line in enumerate(whole.splitlines(), 1):
            record = self.read(line, number)
            if record.get("undo") is True:
                kept = kept[:-1]
            else:
                kept.append(record)
        return kept

    def read(self, line: bytes, number: int) -> dict[str, Any]:
        """One line. Raises ValueError where it is no answer."""
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and record.get("undo") is True:
            return record
        names = [record.get(side) for side in ("first", "second")] if isinstance(record, dict) else []
        if not (names and all(isinstance(name, str) and name for name in names)):
            raise ValueError(f'{self.path}, line {number}: it must name two samples, {{"first": ..., "second": ...}}')
        if record.get("winner") not in SHARE:
            raise ValueError(
                f"{self.path}, line {number}: winner is {record.get('winner')!r}; it must be {', '.join(SHARE)}"
            )
        return record

    def append(self, *records: Mapping[str, Any]) -> None:
        """Adds lines and flushes them to the disk, after what a cut line has left is taken off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write(b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records))
            file.flush()
            os.fsync(file.fileno())

    def answers(self) -> list[Answer]:
        """The answers that stand. Raises ValueError where there is no such file."""
        if not self.path.is_file():
            raise ValueError(f"there is no file of pairs {self.path}: task=annotate makes one")
        folder = self.path.resolve().parent
        return [
            Answer(
                source_of(r["first"], folder), source_of(r["second"], folder), SHARE[r["winner"]], str(r.get("prompt", "")),
                float(r.get("probability", "nan")),
            )
            for r in self.records()
        ]  # fmt: skip
