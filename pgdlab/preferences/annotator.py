"""Who answers which of two samples is better: a person at a page, or a reward with noise."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.preferences.pairs import PairFile


@dataclass(frozen=True)
class Question:
    """Two rows of a file of samples. left: which of them is shown on the left."""

    first: int
    second: int
    prompt: str
    left: str

    def record(self, names: Sequence[str], winner: str) -> dict[str, Any]:
        """The answer as a line of a file of pairs."""
        of = {"first": names[self.first], "second": names[self.second], "winner": winner}
        return of | ({"prompt": self.prompt} if self.prompt else {})


@dataclass(frozen=True)
class Sitting:
    """What is asked, and how an annotator looks at it. open: the questions without an answer. names: of the rows, for the file.
    picture(row): a PNG; rewards(): of all samples, in the units of the run's reward."""

    open: list[Question]
    answered: int
    file: PairFile
    names: Sequence[str]
    picture: Callable[[int], bytes]
    rewards: Callable[[], Float[Tensor, " N"]]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Annotator(ABC):
    """samples: the file of samples (task=sample). pairs: the file that answers are added to. count: how many pairs are asked for,
    in all sittings; null for half as many as samples, so that each is seen once."""

    samples: str = "samples.pt"
    pairs: str = "pairs.jsonl"
    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1, or null")

    @abstractmethod
    def answer(self, sitting: Sitting) -> None:
        """Answers the open questions, or some of them."""


@dataclass(frozen=True, kw_only=True)
class Simulated(Annotator):
    """Prefers the first of two with probability sigmoid((r_1 - r_2) / temperature), r the run's reward (Bradley & Terry 1952).
    temperature: in units of the reward; the reward in nats of the annotator is r / temperature."""

    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be above 0, in units of the reward")

    def answer(self, sitting: Sitting) -> None:
        nats = sitting.rewards().double() / self.temperature
        g = torch.Generator().manual_seed(sitting.seed)
        drawn = torch.rand(sitting.answered + len(sitting.open), generator=g, dtype=torch.float64)[sitting.answered :]
        records = []
        for question, u in zip(sitting.open, drawn.tolist(), strict=True):
            p = (nats[question.first] - nats[question.second]).sigmoid().item()
            records.append(question.record(sitting.names, "first" if u < p else "second") | {"probability": p})
        sitting.file.append(*records)


def questions(cond: Int[Tensor, " N"], count: int | None, prompts: Callable[[int], str], seed: int) -> list[Question]:
    """Pairs of rows of the same condition in random order: none is in two pairs before all (but one of an odd number) are in one.
    Raises ValueError where no two rows have the same condition."""
    g, found = torch.Generator().manual_seed(seed), dict[frozenset[int], Question]()
    wanted = count or sum(int(n) // 2 for n in torch.bincount(cond))
    most = sum(int(n) * (int(n) - 1) // 2 for n in torch.bincount(cond))
    if wanted > most or not wanted:
        raise ValueError(
            f"{wanted or 'some'} pairs are asked for, and {len(cond)} samples make {most} of the same prompt: draw more "
            "samples"
        )
    while len(found) < wanted:
        for a, b in one_round(cond, g):
            left = "first" if torch.rand((), generator=g) < 0.5 else "second"
            if len(found) < wanted:
                found.setdefault(frozenset((a, b)), Question(a, b, prompts(int(cond[a])), left))
    return list(found.values())


def one_round(cond: Int[Tensor, " N"], g: torch.Generator) -> Iterator[tuple[int, int]]:
    """Disjoint pairs of rows of the same condition, mixed over conditions."""
    order = torch.randperm(len(cond), generator=g)
    waiting: dict[int, int] = {}
    for row in order.tolist():
        other = waiting.pop(int(cond[row]), None)
        if other is None:
            waiting[int(cond[row])] = row
        else:
            yield other, row


def names_of(samples: Path, pairs: Path, count: int) -> list[str]:
    """Of the rows of a file of samples, as a file of pairs in another folder says them."""
    place = os.path.relpath(samples.resolve(), pairs.resolve().parent)
    return [f"{place}:{row}" for row in range(count)]


def unanswered(asked: Sequence[Question], names: Sequence[str], file: PairFile) -> list[Question]:
    """The questions that the file has no answer to."""
    known = {frozenset((record["first"], record["second"])) for record in file.records()}
    return [q for q in asked if frozenset((names[q.first], names[q.second])) not in known]
