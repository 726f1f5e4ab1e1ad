"""Runs a SteeringModule with Lightning: the one place where a lightning.Trainer is made."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor

from pgdlab.callbacks import Average, Checkpoint, GracefulStop, Metrics, ProgressBar
from pgdlab.compose import instantiate
from pgdlab.loggers import resume_rows
from pgdlab.module import SteeringModule
from pgdlab.trainers.base import Processes

LAST = Path("checkpoints") / "last.ckpt"


def fit(module: SteeringModule, cfg: Any, folder: Path, more: Sequence[Callback] = ()) -> lightning.Trainer:
    """Trains for plan.iterations with checkpoints in folder/checkpoints/last.ckpt, from which cfg.resume continues.

    more: further callbacks. cfg.runtime: lightning.Trainer with the machine's settings (accelerator, devices, strategy, precision). Raises
    ValueError where the checkpoint to resume from is missing, broken or of another model. Afterwards the module holds the
    raw weights; the checkpoint has the averages too.
    """
    plan, updates = module.world.plan, module.algorithm.updates(module.world.plan)
    done = 0
    if cfg.resume:
        saved = load(folder / LAST)["current_model_state"]
        require_fit(module.state_dict(), saved, folder / LAST)
        done = int(saved["iterations"])
    loggers: list[Logger] = instantiate(cfg.logger)(folder, cfg, resume_rows(folder, done))
    callbacks = [
        Average(module.optimizer.ema_decay(plan.iterations * updates)),
        GracefulStop(),
        Metrics(),
        ProgressBar(plan.iterations),
        Checkpoint(folder / LAST, plan.checkpoint_every, plan.iterations),
        *more,
    ]
    trainer: lightning.Trainer = make_trainer(
        cfg.runtime,
        max_epochs=plan.iterations,
        logger=loggers,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    module.world.processes = Processes(size=trainer.world_size)
    module.algorithm.refuse(module.world)  # before other processes are started
    trainer.fit(module, ckpt_path=folder / LAST if cfg.resume else None, weights_only=False)
    return trainer


def make_trainer(runtime: Any, **settings: Any) -> lightning.Trainer:
    """lightning.Trainer of cfg.runtime. Raises ValueError where it sets what the run itself decides.

    Lightning's advice on workers and devices is silenced: it is not for a loader that yields numbers.
    """
    defaults = inspect.signature(lightning.Trainer).parameters
    taken = [key for key in settings if runtime.get(key, defaults[key].default) != defaults[key].default]
    if taken:
        raise ValueError(
            f"runtime.{taken[0]} is set by the run itself: plan says how long, logger where to, and runs/ is the folder"
        )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for advice in ("does not have many workers", "smaller than the logging", "in eval mode", "treespec", "srun"):
        warnings.filterwarnings("ignore", f".*{advice}.*")
    trainer: lightning.Trainer = instantiate(runtime)(**settings, use_distributed_sampler=False)
    return trainer


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's contents. Raises ValueError where it is missing, truncated or not a checkpoint of this program."""
    if not path.is_file():
        raise ValueError(f"there is no checkpoint at {path}: the run stopped before its first one; start it anew")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # torch raises many kinds for a broken file
        raise ValueError(f"{path} cannot be read ({error}); it is truncated or not a checkpoint") from error
    parts = [state.get(name) for name in ("current_model_state", "state_dict")] if isinstance(state, dict) else [None]
    if not all(isinstance(part, dict) and "iterations" in part for part in parts):
        raise ValueError(f"{path} is not a checkpoint of a pgdlab run")
    return state


def require_fit(own: dict[str, Tensor], saved: dict[str, Tensor], path: Path) -> None:
    """Raises ValueError where the saved weights are not those of this model, by name or shape."""
    wrong = sorted(own.keys() ^ saved.keys()) + [n for n in own.keys() & saved.keys() if own[n].shape != saved[n].shape]
    if wrong:
        raise ValueError(
            f"{path} holds another model than this config's: {len(wrong)} weights differ in name or shape, such as {wrong[0]}"
        )
