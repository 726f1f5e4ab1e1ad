"""Finite MDPs of the textbooks, whose answers are printed there, and random ones."""

from __future__ import annotations

import torch
from torch import Tensor

from pgdlab.oracle.tables.mdp import MDP

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left


def fp64(rows: list) -> Tensor:
    """A table; literals must never pass through fp32."""
    return torch.tensor(rows, dtype=torch.float64)


def even(states: int) -> Tensor:
    """Any start, equally likely."""
    return torch.full((states,), 1 / states, dtype=torch.float64)


def toymaker() -> MDP:
    """Howard 1960, ch. 2-4: states toy in favour, toy out of favour; actions nothing, advertise or do research.

    Printed: V(n) with n = 1, 2, 3, 4 weeks left is 6, 8.2, 10.22, 12.222 and -3, -1.7, 0.23, 2.223; gain 2.
    """
    transition = fp64([[[0.5, 0.5], [0.8, 0.2]], [[0.4, 0.6], [0.7, 0.3]]])
    return MDP(transition=transition, reward=fp64([[6, 4], [-3, -5]]), start=even(2))


def taxicab() -> MDP:
    """Howard 1960, ch. 4: towns A, B, C; actions cruise, cab stand, wait for a radio call (no radio in B: the stand).

    Printed: gain 13.34 with the stand everywhere, bias -1.18, 12.66, 0; cruising everywhere 9.2.
    """
    transition = fp64([
        [[8, 4, 4], [1, 12, 3], [4, 2, 10]],
        [[8, 0, 8], [1, 14, 1], [1, 14, 1]],
        [[4, 4, 8], [2, 12, 2], [12, 1, 3]],
    ])  # fmt: skip
    fares = fp64([
        [[10, 4, 8], [8, 2, 4], [4, 6, 4]],
        [[14, 0, 18], [8, 16, 8], [8, 16, 8]],
        [[10, 2, 8], [6, 4, 2], [4, 0, 8]],
    ])  # fmt: skip
    return MDP(transition=transition / 16, reward=(transition * fares).sum(2) / 16, start=even(3))


def small_grid() -> MDP:
    """Sutton & Barto 2018, example 4.1: 4 x 4, -1 a move until the upper left or the lower right corner is reached.

    Printed: under the even policy -14, -20, -22 / -14, -18, -20, -20 / -20, -20, -18, -14 / -22, -20, -14 (infinite
    horizon, no discount); best is minus the number of moves.
    """
    transition, reward = grid(4)
    for corner in (0, 15):
        transition[corner] = 0
        transition[corner, :, corner] = 1
    reward -= 1
    reward[[0, 15]] = 0
    start = even(14).new_full((16,), 1 / 14)
    start[[0, 15]] = 0
    return MDP(transition=transition, reward=reward, start=start)


def large_grid() -> MDP:
    """Sutton & Barto 2018, examples 3.5 and 3.8: 5 x 5; -1 off the edge; A = (0, 1) pays 10 and leads to (4, 1),
    B = (0, 3) pays 5 and leads to (2, 3).

    Printed for gamma 0.9: V* first row 22.0, 24.4, 22.0, 19.4, 17.5; even policy 3.3, 8.8, 4.4, 5.3, 1.5.
    """
    transition, reward = grid(5)
    stays = transition.diagonal(dim1=0, dim2=2).T
    reward -= stays
    for state, paid, following in ((1, 10, 21), (3, 5, 13)):
        transition[state] = 0
        transition[state, :, following] = 1
        reward[state] = paid
    return MDP(transition=transition, reward=reward, start=even(25))


def grid(side: int) -> tuple[Tensor, Tensor]:
    """Transitions of side x side cells, row by row, where a move off the edge stays; rewards 0."""
    transition = torch.zeros(side**2, 4, side**2, dtype=torch.float64)
    for cell in range(side**2):
        for action, (down, right) in enumerate(MOVES):
            row, column = cell // side + down, cell % side + right
            inside = 0 <= row < side and 0 <= column < side
            transition[cell, action, row * side + column if inside else cell] = 1
    return transition, torch.zeros(side**2, 4, dtype=torch.float64)


def random_mdp(states: int, actions: int, generator: torch.Generator) -> MDP:
    """Transitions and start uniform on the simplex, rewards N(0, 1)."""
    uniform = torch.rand(states, actions + 1, states, dtype=torch.float64, generator=generator)
    rows = -uniform.clamp(min=1e-300).log()
    rows = rows / rows.sum(2, keepdim=True)
    reward = torch.randn(states, actions, dtype=torch.float64, generator=generator)
    return MDP(transition=rows[:, :actions], reward=reward, start=rows[0, actions])
