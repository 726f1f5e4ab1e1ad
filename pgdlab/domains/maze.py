"""A maze: plans from a start to a goal, past blocks that the demonstrations never knew."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.config.program import ASSETS, program
from pgdlab.diffusion import files
from pgdlab.diffusion.pinned import PinnedDenoiser, PlanDenoiser
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Pinned
from pgdlab.domains.base import Decoder, LabelledDomain
from pgdlab.planning.conditions import TaskTable
from pgdlab.planning.demonstrations import demonstrations
from pgdlab.planning.maps import PILLARS, Map
from pgdlab.planning.tasks import Tasks, drawn
from pgdlab.rollout.trajectory import Samples

SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "sample",
    "clip_sample": False,
    "timestep_spacing": "trailing",
}
WAYPOINTS, MODES = 32, 10
SCALE = 2.0  # cells that are 1 in a sample
FALL = 1.6  # mode k has the scale k^-1.6: about that of the demonstrations


class PlanDecoder(Decoder):
    """Samples (B, N, 2) -> plans (B, 32, 2) in cells: the product with a fixed matrix."""

    gives = "plans"
    basis: Tensor

    def __init__(self, basis: Float[Tensor, "W N"]) -> None:
        super().__init__()
        self.register_buffer("basis", basis, persistent=False)

    def decode(self, sample: Float[Tensor, "B N 2"]) -> Float[Tensor, "B P 2"]:
        return self.basis.to(sample.dtype) @ sample


def sines() -> Float[Tensor, "W N"]:
    """The plan of a sample whose first row is the start, whose last is the goal, and whose others are the coefficients of sines
    on the straight line between them."""
    share = torch.linspace(0, 1, WAYPOINTS, dtype=torch.float64)
    modes = [(math.pi * k * share).sin() * k**-FALL for k in range(1, MODES + 1)]
    return torch.stack([1 - share, *modes, share], 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Maze(LabelledDomain):
    """Plans of 32 waypoints on a map; a condition is a task: blocks, a start and a goal.

    representation: "waypoints" (32 of them, the first and last given) or "sines" (10 modes on the straight line from start to
    goal). map: rows of #, . and o, see pgdlab.planning.maps.Map. blocks: how many of the cells "o" are blocked in each task.
    apart: the least length of the shortest path from start to goal, in cells. layouts: tasks of training; unseen: tasks of
    evaluation; demonstrations: tasks without blocks, which the base is trained on. weights: a folder with config.json and
    model.safetensors, or null for the base that ships. executed: how many of the plans metrics() drives in MuJoCo (needs the
    extra planning; without it they are left out, with a warning). width, layers: of a network before pretraining.
    """

    representation: Literal["waypoints", "sines"] = "waypoints"
    map: tuple[str, ...] = PILLARS
    blocks: int = 8
    apart: float = 6.0
    layouts: int = 4096
    unseen: int = 512
    demonstrations: int = 20_000
    weights: str | None = None
    executed: int = 0
    width: int = 256
    layers: int = 4
    name: str = field(default="maze", init=False)
    decoder: PlanDecoder = field(init=False)
    space: Pinned = field(init=False)

    def __post_init__(self) -> None:
        for name, least in {"blocks": 0, "layouts": 1, "unseen": 1, "demonstrations": 2, "executed": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        basis = sines() if self.representation == "sines" else torch.eye(WAYPOINTS, dtype=torch.float64)
        object.__setattr__(self, "decoder", PlanDecoder(SCALE * basis))
        rows = basis.shape[1]
        object.__setattr__(self, "space", Pinned((rows, 2), (0, rows - 1)))

    @functools.cached_property
    def grid(self) -> Map:
        """The map."""
        return Map(self.map)

    @functools.cached_property
    def tasks(self) -> Tasks:
        """Those of training, then the unseen ones, then those of the demonstrations."""
        parts = (
            (self.layouts, self.blocks, self.apart),
            (self.unseen, self.blocks, self.apart),
            (self.demonstrations, 0, 1.0),
        )
        return Tasks.joined([drawn(self.grid, *part, seed) for seed, part in enumerate(parts)])

    @functools.cached_property
    def conditioning(self) -> TaskTable:  # type: ignore[override]
        """The table of tasks."""
        return TaskTable(self.grid, self.tasks, SCALE)

    @property
    def train_conditions(self) -> tuple[int, ...]:  # type: ignore[override]
        """The tasks of training."""
        return tuple(range(self.layouts))

    @property
    def eval_conditions(self) -> tuple[int, ...]:
        """The unseen tasks."""
        return tuple(range(self.layouts, self.layouts + self.unseen))

    def build(self, **sizes: int) -> PinnedDenoiser:
        """A denoiser with untrained weights; sizes: in place of the domain's."""
        own = {"width": self.width, "layers": self.layers} | sizes
        words = f"domain=maze domain.representation={self.representation}"
        basis = self.decoder.basis / SCALE
        inner = PlanDenoiser(basis, DiffusersSchedule(SCHEDULER), self.conditioning, words, **own)
        return PinnedDenoiser(inner, self.space, self.conditioning)

    def fresh(self, generator: torch.Generator) -> PinnedDenoiser:
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            return self.build()

    def base(self) -> PinnedDenoiser:
        again = f"Make one with `{program()} experiment=pretrain/maze` and name its folder in domain.weights"
        folder = ASSETS / "maze" / self.representation if self.weights is None else Path(self.weights).expanduser()
        try:
            with torch.random.fork_rng():
                denoiser = self.build(**files.sizes(folder))
            files.read(denoiser.denoiser.network, folder)  # type: ignore[arg-type]
        except (ValueError, TypeError) as error:
            raise ValueError(f"cannot load the base of maze from {folder}: {error}. {again}") from error
        return denoiser.eval()

    @functools.cached_property
    def _plans(self) -> tuple[Tensor, Tensor]:
        first = self.layouts + self.unseen
        rows = torch.arange(first, len(self.tasks))
        parts = (getattr(self.tasks, name)[rows] for name in ("occupied", "cells", "ends", "shortest"))
        plans, kept = demonstrations(self.grid, Tasks(*parts), WAYPOINTS, seed=0)
        return self.encode(plans), rows[kept]

    def encode(self, plans: Float[Tensor, "N W 2"]) -> Float[Tensor, "N R 2"]:
        """The samples whose plans are nearest to these, with the same ends."""
        basis, ends = self.decoder.basis, plans[:, [0, -1]].double() / SCALE
        between = torch.linalg.pinv(basis[:, 1:-1]) @ (plans.double() - basis[:, [0, -1]] @ ends)
        return torch.cat([ends[:, :1], between, ends[:, 1:]], 1).float()

    def data(self, split: str) -> tuple[Float[Tensor, "N R 2"], Int[Tensor, " N"]]:
        if split not in ("train", "test"):
            raise ValueError(f"split is {split!r}; it must be train or test")
        sample, cond = self._plans
        held = torch.arange(len(cond)) % 20 == 0
        rows = held if split == "test" else ~held
        return sample[rows], cond[rows]

    @property
    def drives(self) -> bool:
        """Whether plans are executed. Warns where they were asked for and cannot be."""
        from pgdlab.planning.execution import MISSING, installed

        if self.executed and not installed():
            warnings.warn(MISSING, stacklevel=2)
        return bool(self.executed) and installed()

    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        from pgdlab.planning.figures import figures

        plan, cond = self.decoder(sample.detach()).cpu(), cond.cpu()
        found = figures(plan, self.tasks, cond)
        if self.drives:
            from pgdlab.planning.execution import execute

            found |= execute(plan[: self.executed], self.grid, self.tasks, cond[: self.executed]).figures()
        return found

    def show(self, rows: dict[str, Tensor], path: Path, cond: Tensor | None = None) -> None:
        from pgdlab.planning.drawing import picture

        picture(
            {title: self.decoder(sample.detach()).cpu() for title, sample in rows.items()},
            self.grid,
            self.tasks,
            path,
            cond,
        )

    def report(self, groups: dict[str, Samples], folder: Path) -> list[Path]:
        """execution.gif: the first plans of the last group, driven in MuJoCo; none where metrics() drives none."""
        if not self.drives:
            return []
        from pgdlab.planning.animation import animation

        last = groups[list(groups)[-1]]
        plan = self.decoder(last.sample.detach()).cpu()
        return [animation(plan, self.grid, self.tasks, last.cond.cpu(), folder / "execution.gif")]
