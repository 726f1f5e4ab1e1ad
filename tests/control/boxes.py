"""A small environment of gymnasium, made to fail where it is told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import TimeLimit
from torch import Tensor

from pgdlab.control.environment import Seeds
from pgdlab.control.gymnasium import GymnasiumEnvironment


class Walk(gymnasium.Env[Any, Any]):
    """A place that begins at a random number of [0, 1) and is moved by actions of [-1, 1]; beyond 2 it ends and pays 1."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), dtype=np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), dtype=np.float32)

    def __init__(self, trouble: Callable[[float], str]) -> None:
        self.trouble = trouble

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.random()
        return np.array([self.place]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.place += float(action[0])
        trouble = self.trouble(self.place)
        if trouble == "raises":
            raise RuntimeError("the floor gave way")
        over = self.place > 2
        return np.array([np.nan if trouble == "nan" else self.place]), float(over), over, False, {"success": over}


@dataclass(frozen=True, kw_only=True, eq=False)
class Walking(GymnasiumEnvironment):
    extra: ClassVar[str] = "planning"
    limit: int = 4
    observation: int = 1
    action: int = 1
    has_goal: bool = True
    name: str = "walk"
    trouble: Callable[[float], str] = field(default=lambda place: "")

    def make(self) -> Any:
        return TimeLimit(Walk(self.trouble), self.limit)

    def seen(self, observation: Any) -> Any:
        return observation

    def succeeded(self, info: dict[str, Any]) -> bool:
        return bool(info["success"])

    def expert(self, observation: Tensor, seeds: Seeds) -> Tensor:
        return torch.from_numpy(np.stack([seed.standard_normal(1) for seed in seeds]))
