"""Environments of gymnasium: one simulator a copy, stepped one after another."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import warnings
import weakref
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pgdlab.config.program import extra
from pgdlab.control.environment import Copies, Environment, Seeds, Transition


class GymnasiumEnvironment(Environment):
    """An environment that gymnasium.make() makes, with its time limit around it. Numbers of an action beyond the bounds of its
    action space are put back to them. needs: the modules that are imported for it; extra: what installs them."""

    needs: ClassVar[tuple[str, ...]] = ("gymnasium",)
    extra: ClassVar[str]

    @abstractmethod
    def make(self) -> Any:
        """A gymnasium.Env whose actions are a Box, and which truncates after `limit` steps."""

    @abstractmethod
    def seen(self, observation: Any) -> Float[NDArray[np.float64], " O"]:
        """An observation of it as numbers in a row."""

    def succeeded(self, info: dict[str, Any]) -> bool:
        """Whether a step has reached the goal, by what is told beside its observation."""
        return False

    @functools.cached_property
    def idle(self) -> list[Any]:
        """Simulators that no copy uses: to make one takes as long as a thousand steps. What an episode is depends on its seed
        alone, not on the episodes that a simulator has had before."""
        return []

    def copies(self, count: int) -> GymnasiumCopies:
        if missing := [name for name in self.needs if not importlib.util.find_spec(name)]:
            raise ValueError(
                f"domain={self.name} acts in an environment of {missing[0]}, which is not installed: "
                f"{extra(self.extra)} ({self.extra} is the extra)"
            )
        os.environ.setdefault("MUJOCO_GL", "disable")  # nothing is rendered, and a machine may have no display
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):  # advertisements
            for name in self.needs:
                importlib.import_module(name)
        return GymnasiumCopies(self, [self.idle.pop() if self.idle else self.make() for _ in range(count)])


class GymnasiumCopies(Copies):
    """Simulators that were lent by an environment, and go back to it afterwards."""

    def __init__(self, environment: GymnasiumEnvironment, simulators: list[Any]) -> None:
        self.of, self.simulators = environment, simulators
        weakref.finalize(self, environment.idle.extend, simulators)

    def reset(self, rows: Int[Tensor, " R"], seeds: Seeds) -> Float[Tensor, "R O"]:
        seen = []
        for row, seed in zip(rows.tolist(), seeds, strict=True):
            observation, _ = self.simulators[row].reset(seed=int(seed.integers(2**31)))
            seen.append(self.of.seen(observation))
        return torch.from_numpy(np.stack(seen).astype(np.float64))

    def step(self, rows: Int[Tensor, " R"], action: Float[Tensor, "R A"]) -> Transition:
        seen = np.zeros((len(rows), self.of.observation))
        told = np.zeros((len(rows), 5))
        for k, (row, given) in enumerate(zip(rows.tolist(), action.numpy(), strict=True)):
            try:
                seen[k], told[k, :4] = self.one(self.simulators[row], given)
            except Exception as error:  # a simulator's own
                text = f"the environment {self.of.name} raised {type(error).__name__}: {error}; its episode is over"
                warnings.warn(text, stacklevel=2)
                told[k, 4] = 1
        reward, *flags = torch.from_numpy(told).unbind(1)
        return Transition(torch.from_numpy(seen), reward, *(flag.bool() for flag in flags))

    def one(
        self, simulator: Any, action: Float[NDArray[np.float64], " A"]
    ) -> tuple[Float[NDArray[np.float64], " O"], tuple[float, bool, bool, bool]]:
        """The observation after a step; reward, terminated, truncated, success."""
        box = simulator.action_space
        inside = np.clip(action, box.low, box.high).astype(box.dtype)
        observation, reward, terminated, truncated, info = simulator.step(inside)
        return self.of.seen(observation), (float(reward), terminated, truncated, self.of.succeeded(info))
