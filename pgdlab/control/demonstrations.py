"""Demonstrations: what a scripted controller does, as pairs of an observation and a chunk of actions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.control.environment import Environment

DRAWN_WITH = 7_141  # the seed of all demonstrations: they are data, not a run's


@dataclass(frozen=True)
class Demonstrations:
    """Pairs, in the environment's units. episode: which one each is of."""

    observation: Float[Tensor, "M O"]
    action: Float[Tensor, "M C A"]
    episode: Int[Tensor, " M"]


def demonstrate(environment: Environment, episodes: int, chunk: int) -> Demonstrations:
    """Episodes of the environment's expert; a pair for each step that `chunk` actions of the episode begin at. Raises ValueError
    where no episode is that long, or the environment fails."""
    copies, every = environment.copies(episodes), torch.arange(episodes)
    seeds = [np.random.default_rng([DRAWN_WITH, number]) for number in range(episodes)]
    hands = [np.random.default_rng([DRAWN_WITH, number, 1]) for number in range(episodes)]
    seen, acted = [copies.reset(every, seeds).double()], []
    length = torch.zeros(episodes, dtype=torch.long)
    rows = every
    while len(rows):
        action = torch.zeros(episodes, environment.action, dtype=torch.float64)
        action[rows] = environment.expert(seen[-1][rows], [hands[row] for row in rows.tolist()]).double()
        found = copies.step(rows, action[rows])
        if found.failed.any() or not found.observation.isfinite().all():
            raise ValueError(f"the environment {environment.name} failed while its expert acted: mend it")
        seen.append(seen[-1].index_copy(0, rows, found.observation.double()))
        acted.append(action)
        length[rows] += 1
        rows = rows[~(found.terminated | found.truncated)]
    actions = torch.stack(acted, 1)
    pairs = [(e, t) for e in range(episodes) for t in range(int(length[e]) - chunk + 1)]
    if not pairs:
        raise ValueError(f"chunk is {chunk}, and no demonstration is that long: at most {int(length.max())}")
    episode, step = torch.tensor(pairs).unbind(1)
    windows = torch.stack([actions[episode, step + c] for c in range(chunk)], 1)
    return Demonstrations(torch.stack(seen, 1)[episode, step], windows, episode)


def chunks_of(environment: Environment, chunk: int) -> int:
    """How many chunks an episode takes, at most."""
    return math.ceil(environment.limit / chunk)
