"""Small classes that the toy configuration of test_compose names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Mode = Literal["none", "mean"]


@dataclass(frozen=True, kw_only=True)
class Steps:
    stride: int = 1


@dataclass(frozen=True, kw_only=True)
class Part(Steps):
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Plan:
    iterations: int = 3
    steps: Steps = field(default_factory=Steps)
    shape: tuple[int, ...] = (2, 2)
    parts: list[Steps] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=lambda: {"initial": 0.01, "critic": 0.003})
    nested: dict[str, Steps] = field(default_factory=lambda: {"a": Part(), "b": Part(stride=2)})


@dataclass(frozen=True, kw_only=True)
class Trainer:
    baseline: Mode = "mean"
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Clipped(Trainer):
    clip: float | None = 0.2
    epochs: int | str = 2


class Model:
    def __init__(
        self, space: object, width: int = 4, folder: Path = Path("data"), *, steps: Steps | None = None
    ) -> None:
        self.space, self.width, self.folder, self.steps = space, width, folder, steps


def reward(scale: float, name: str = "x") -> dict[str, object]:
    return {"scale": scale, "name": name}
