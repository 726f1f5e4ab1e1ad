"""Who started the processes of a run: the run's first one, torchrun, or srun with several tasks."""

from __future__ import annotations

import os
from typing import Literal

Launcher = Literal["own", "torchrun", "srun"]
TOGETHER = ("train", "pretrain")  # tasks that several processes share


def launcher() -> Launcher:
    """What started this process. In a batch script of Slurm, and under srun with one task, a run starts its own."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    return "srun" if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 else "own"


def started() -> int:
    """How many processes torchrun or srun started on all machines; 1 where a run starts its own."""
    size = {"torchrun": "WORLD_SIZE", "srun": "SLURM_STEP_NUM_TASKS", "own": ""}[launcher()]
    return int(os.environ.get(size, 1))


def rank() -> int:
    """This process's number among all of a run's, on all machines; the first one writes the run folder."""
    ranks = [int(os.environ[key]) for key in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if key in os.environ]
    return max(ranks, default=0)


def local_rank() -> int:
    """This process's number on its machine, and so its GPU's."""
    return int(os.environ.get("SLURM_LOCALID" if launcher() == "srun" else "LOCAL_RANK", 0))


def require_alone(task: str) -> None:
    """Raises ValueError where several processes were started for a task that is one process's."""
    if started() > 1 and task not in TOGETHER:
        raise ValueError(
            f"{launcher()} started {started()} processes, but task={task} is one process's: start it without, or as one task"
        )
