"""What the numbers of tasks stand for."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.conditioning import Conditioning
from pgdlab.planning.maps import FREE, GAP, Map
from pgdlab.planning.tasks import Tasks


class TaskTable(Conditioning):
    """Tells of each task "pinned": start and goal in the units of samples; "blocks": 1 for each cell that a block may be in and
    is in; "cells": those of start and goal, one-hot over the free cells of the map. The condition that means "none" has zeros."""

    pinned: Tensor
    blocks: Tensor
    cells: Tensor

    def __init__(self, map_: Map, tasks: Tasks, scale: float) -> None:
        super().__init__(len(tasks))
        self.tasks = tasks
        gaps, free = (torch.tensor(map_.cells(kinds)).T for kinds in (GAP, FREE + GAP))
        number = torch.full((map_.height, map_.width), 0).index_put((free[0], free[1]), torch.arange(free.shape[1]))
        at = number[tasks.cells[..., 0], tasks.cells[..., 1]]
        told = {
            "pinned": tasks.ends / scale,
            "blocks": tasks.occupied[:, gaps[0], gaps[1]].float(),
            "cells": torch.nn.functional.one_hot(at, free.shape[1]).float(),
        }
        for name, table in told.items():
            self.register_buffer(name, torch.cat([table, torch.zeros_like(table[:1])]), persistent=False)

    def forward(self, cond: Int[Tensor, " P"]) -> dict[str, Float[Tensor, "P ..."]]:
        return {"pinned": self.pinned[cond], "blocks": self.blocks[cond], "cells": self.cells[cond]}
