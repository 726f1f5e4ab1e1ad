"""Episodes of N environments that are acted in side by side, a chunk of actions at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdlab.control.environment import Environment

Seed = Callable[[int, int], np.random.Generator]  # (environment, number of its episode) -> what is random in it


@dataclass(frozen=True)
class Episodes:
    """Rows are (environment, chunk), those of an environment one after another: row n T + t.

    reward: the sum over the chunk. after: the number of the condition that is the observation after the row, before any reset.
    terminated: the process ended in it. truncated: it would have gone on; the last one of what was collected, and the one before
    a failure, among them. The next four are of the first episode of each environment, which is over in T chunks: its return,
    its environment steps, whether it reached a goal, whether nothing failed in it. steps: of the environments, in all. best: the
    largest expected return of those episodes, where it is known. seen: the first observations, and those after each chunk.
    """

    chunks: int
    reward: Float[Tensor, " B"]
    after: Int[Tensor, " B"]
    terminated: Bool[Tensor, " B"]
    truncated: Bool[Tensor, " B"]
    measured: Bool[Tensor, " B"]
    returns: Float[Tensor, " N"]
    length: Int[Tensor, " N"]
    success: Bool[Tensor, " N"]
    whole: Bool[Tensor, " N"]
    steps: int
    has_goal: bool
    best: Float[Tensor, " N"] | None
    seen: Float[Tensor, "N T1 O"]

    def figures(self, gather: Callable[[Tensor], Tensor], device: torch.device) -> dict[str, float]:
        """Means over the whole first episodes of all processes, NaN where there is none. gather: as in Processes."""
        columns = (self.whole, self.returns, self.length.double(), self.success.double())
        whole, returns, length, success = (gather(x.to(device)) for x in columns)
        known = {"return": returns, "episode_length": length} | ({"success": success} if self.has_goal else {})
        figures = {name: x[whole].mean().item() for name, x in known.items()}
        if self.best is not None:
            figures |= regret(gather(self.best.to(device))[whole], returns[whole])
        return figures

    def table(self, x: Tensor) -> Tensor:
        """(B, ...) as (N, T, ...)."""
        return x.unflatten(0, (-1, self.chunks))

    def ways(self) -> list[Float[Tensor, "_ O"]]:
        """The first episode of each environment: its observations at first and after each chunk."""
        last = self.table((self.terminated | self.truncated | ~self.measured).int()).argmax(1)
        return [seen[: end + 2] for seen, end in zip(self.seen, last.tolist(), strict=True)]


def regret(best: Float[Tensor, " N"], returns: Float[Tensor, " N"]) -> dict[str, float]:
    """How far returns are below the best that is expected where they begin, in the mean, and its standard error. Much of the
    spread of returns is that of where they begin, and cancels."""
    off = best - returns
    error = off.std().item() / len(off) ** 0.5 if len(off) > 1 else math.nan
    return {"optimal_return": best.mean().item(), "regret": off.mean().item(), "regret_stderr": error}


class Loop:
    """N environments. observation: (N, O), what each is to act on next; an episode that has ended is followed by another one."""

    def __init__(self, environment: Environment, count: int, chunks: int, seed: Seed) -> None:
        self.environment, self.copies, self.seed = environment, environment.copies(count), seed
        self.number = [0] * count
        self.chunks, self.steps = chunks, 0
        self.observation = torch.zeros(count, environment.observation, dtype=torch.float64)
        self.columns: list[dict[str, Tensor]] = []
        self.afters: list[Tensor] = []
        self.first = torch.ones(count, dtype=torch.bool)
        self.whole, self.success = torch.ones_like(self.first), torch.zeros_like(self.first)
        self.returns = torch.zeros(count, dtype=torch.float64)
        self.length = torch.zeros(count, dtype=torch.long)
        self.begin(torch.arange(count))
        self.best, self.start = environment.best(self.observation), self.observation

    def begin(self, rows: Int[Tensor, " R"]) -> None:
        """New episodes in these environments. Raises ValueError where they begin with what is not finite."""
        if not len(rows):
            return
        seeds = [self.seed(row, self.number[row]) for row in rows.tolist()]
        seen = self.copies.reset(rows, seeds).double()
        if not seen.isfinite().all():
            raise ValueError(
                f"the environment {self.environment.name} begins with an observation that is not finite: mend it"
            )
        for row in rows.tolist():
            self.number[row] += 1
        self.observation = self.observation.index_copy(0, rows, seen)

    def act(self, action: Float[Tensor, "N C A"]) -> None:
        """A chunk of C actions in each; what follows the end of an episode in it is left out. What an environment raised or gave
        out that is not finite is a failure: its episode is over, and the row is not measured."""
        every = torch.arange(len(action))
        reward, after = self.observation.new_zeros(len(every)), self.observation.clone()
        flags = {
            name: torch.zeros(len(every), dtype=torch.bool) for name in ("terminated", "truncated", "failed", "success")
        }
        for c in range(action.shape[1]):
            rows = every[~(flags["terminated"] | flags["truncated"] | flags["failed"])]
            if not len(rows):
                break
            found = self.copies.step(rows, action[rows, c])
            self.steps += len(rows)
            bad = found.failed | ~found.reward.isfinite() | ~found.observation.isfinite().all(1)
            good = rows[~bad]
            reward[good] += found.reward[~bad].double()
            after[good] = found.observation[~bad].double()
            for name in ("terminated", "truncated", "success"):
                flags[name][good] |= getattr(found, name)[~bad]
            flags["failed"][rows[bad]] = True
            self.length[good] += self.first[good].long()
        self.note(reward, flags)
        self.afters.append(after)
        self.observation = after
        self.begin(every[flags["terminated"] | flags["truncated"] | flags["failed"]])

    def note(self, reward: Float[Tensor, " N"], flags: dict[str, Tensor]) -> None:
        """Keeps a chunk's column, and counts it to the first episodes."""
        self.columns.append({"reward": reward, **flags})
        self.returns += reward * self.first
        self.success |= flags["success"] & self.first
        self.whole &= ~(flags["failed"] & self.first)
        self.first &= ~(flags["terminated"] | flags["truncated"] | flags["failed"])

    def episodes(self, after: Int[Tensor, " B"]) -> Episodes:
        """What has happened. after: the numbers of the conditions that hold `afters`."""
        columns = {name: torch.stack([column[name] for column in self.columns], 1) for name in self.columns[0]}
        terminated, failed = columns["terminated"], columns["failed"]
        truncated = columns["truncated"] & ~terminated
        truncated[:, :-1] |= failed[:, 1:] & ~terminated[:, :-1]  # a failure cuts off what went before it
        truncated[:, -1] |= ~terminated[:, -1]
        return Episodes(
            chunks=self.chunks, reward=columns["reward"].flatten(), after=after, terminated=terminated.flatten(),
            truncated=truncated.flatten(), measured=~failed.flatten(), returns=self.returns, length=self.length,
            success=self.success, whole=self.whole, steps=self.steps, has_goal=self.environment.has_goal,
            best=self.best, seen=torch.stack([self.start, *self.afters], 1),
        )  # fmt: skip
