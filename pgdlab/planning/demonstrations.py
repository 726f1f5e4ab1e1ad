"""Demonstrations: a random-weight search says which cells, a controller says how. Several ways round, and no blocks."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pgdlab.planning.maps import RADIUS, Map, along, clearance
from pgdlab.planning.search import random_path
from pgdlab.planning.tasks import Tasks

SPREAD = 1.5  # of the logarithm of a cell's cost: of 64 paths over the pillar map one passes 8 unseen blocks nine times in ten
TICK, LONGEST = 0.05, 1200  # seconds a step of the controller, and steps at most
STIFF, DAMPED, STRONGEST = 6.0, 4.0, 4.0  # acceleration by distance and by speed, and at most
REACHED = 0.35  # of a cell's centre: then the next one is aimed at


def demonstrations(
    map_: Map, tasks: Tasks, waypoints: int, seed: int
) -> tuple[Float[Tensor, "N W 2"], Int[Tensor, " N"]]:
    """Plans of the tasks, whose walls are the map's, `waypoints` points at equal distances along each, and the numbers of their
    tasks: those that keep the ball off all walls."""
    generator = np.random.default_rng(seed)
    walls = map_.walls.numpy()
    cells = [
        random_path(walls, (start[0], start[1]), (goal[0], goal[1]), SPREAD, generator)
        for start, goal in tasks.cells.tolist()
    ]
    centres = [map_.centre(torch.tensor(path)).numpy() for path in cells]
    aims = [
        np.concatenate([c[1:-1], end[None]]) for c, end in zip(centres, tasks.ends[:, 1].double().numpy(), strict=True)
    ]
    driven = followed(tasks.ends[:, 0].double().numpy(), aims)
    plans = torch.from_numpy(np.stack([resampled(path, waypoints) for path in driven])).float()
    plans[:, 0], plans[:, -1] = tasks.ends[:, 0], tasks.ends[:, 1]
    clear = clearance(along(plans), tasks.occupied).amin(1) >= RADIUS
    return plans[clear], clear.nonzero().flatten()


def followed(start: Float[NDArray[np.float64], "N 2"], aims: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """The way of a point mass that a proportional-derivative controller drives from aim to aim, all of them at once; from its
    start to where it has stopped at the last aim."""
    count, most = len(aims), max(len(a) for a in aims)
    table = np.stack([np.concatenate([a, np.repeat(a[-1:], most - len(a), 0)]) for a in aims])
    last = np.array([len(a) - 1 for a in aims])
    place, speed, at = start.copy(), np.zeros_like(start), np.zeros(count, dtype=int)
    ways, ended = [place.copy()], np.full(count, LONGEST)
    for step in range(LONGEST):
        aim = table[np.arange(count), at]
        push = STIFF * (aim - place) - DAMPED * speed
        push *= np.minimum(1, STRONGEST / np.maximum(np.linalg.norm(push, axis=1, keepdims=True), 1e-9))
        speed = speed + TICK * push
        place = place + TICK * speed
        ways.append(place.copy())
        off = np.linalg.norm(aim - place, axis=1)
        arrived = (at == last) & (off < 0.02) & (ended == LONGEST)
        ended[arrived] = step + 1
        if (ended < LONGEST).all():
            break
        at = np.minimum(at + (off < REACHED), last)
    whole = np.stack(ways, 1)
    return [way[: end + 1] for way, end in zip(whole, ended, strict=True)]


def resampled(path: Float[NDArray[np.float64], "M 2"], count: int) -> Float[NDArray[np.float64], "count 2"]:
    """Points at equal distances along a path, its ends among them."""
    far = np.concatenate([[0], np.linalg.norm(np.diff(path, axis=0), axis=1).cumsum()])
    at = np.linspace(0, far[-1], count)
    return np.stack([np.interp(at, far, path[:, k]) for k in (0, 1)], 1)
