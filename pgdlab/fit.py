"""Runs a SteeringModule with Lightning: the one place where a lightning.Trainer is made."""

from __future__ import annotations

import inspect
import logging
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor

from pgdlab.callbacks import Average, Checkpoint, GracefulStop, Metrics, ProgressBar
from pgdlab.compose import instantiate, make
from pgdlab.loggers import resume_rows
from pgdlab.module import SteeringModule
from pgdlab.trainers.base import Processes

LAST = Path("checkpoints") / "last.ckpt"
OWN = ("max_epochs", "logger", "callbacks", "enable_progress_bar", "enable_model_summary", "default_root_dir")


def ready(module: SteeringModule, cfg: Any) -> int:
    """The iterations that are done: those of the checkpoint in cfg.resume, 0 for a new run.

    Raises ValueError for what would stop the run later: a machine that is not there, samples that do not divide, a
    checkpoint that is missing, broken, of another model or further than plan.iterations. Nothing is written.
    """
    module.world.processes = Processes(size=make_trainer(cfg.runtime, logger=False).world_size)
    module.algorithm.refuse(module.world)
    if not cfg.resume:
        return 0
    saved = load(Path(cfg.resume) / LAST)["current_model_state"]
    require_fit(module.state_dict(), saved, Path(cfg.resume) / LAST)
    done = int(saved["iterations"])
    if done > module.world.plan.iterations:
        raise ValueError(f"{done} iterations are done; plan.iterations must be at least {done}")
    return done


def fit(
    module: SteeringModule, cfg: Any, folder: Path, more: Sequence[Callback] = (), *, done: int = 0
) -> lightning.Trainer:
    """Trains for plan.iterations with checkpoints in folder/checkpoints/last.ckpt, which holds `done` of them: see ready().

    more: further callbacks. cfg.runtime: lightning.Trainer with the machine's settings (accelerator, devices, strategy,
    precision). Afterwards the module holds the raw weights; the checkpoint has the averages too.
    """
    plan, updates = module.world.plan, module.algorithm.updates(module.world.plan)
    loggers: list[Logger] = instantiate(cfg.logger)(folder, cfg, resume_rows(folder, done))
    checkpoint = Checkpoint(folder / LAST, plan.checkpoint_every, plan.iterations, done)
    average = Average(module.optimizer.ema_decay(plan.iterations * updates))
    trainer = make_trainer(
        cfg.runtime,
        max_epochs=plan.iterations,
        logger=loggers,
        callbacks=[average, GracefulStop(), Metrics(), ProgressBar(plan.iterations), checkpoint, *more],
        default_root_dir=folder,
    )
    try:
        trainer.fit(module, ckpt_path=checkpoint.path if done else None, weights_only=False)
    except OSError as error:
        raise ValueError(f"{error}; {checkpoint.advice()}") from error
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # which Lightning answers by leaving, without a word
            raise KeyboardInterrupt(checkpoint.advice()) from None
        raise
    return trainer


def make_trainer(runtime: Any, **settings: Any) -> lightning.Trainer:
    """lightning.Trainer of cfg.runtime. Raises ValueError where it sets what the run itself decides.

    Lightning's advice on workers and devices, and torch's on what Lightning calls, is silenced: nobody here can follow it.
    """
    defaults = inspect.signature(lightning.Trainer).parameters
    taken = [key for key in OWN if runtime.get(key, defaults[key].default) != defaults[key].default]
    if taken:
        raise ValueError(
            f"runtime.{taken[0]} is set by the run itself: plan says how long, logger where to, and runs/ is the folder"
        )
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    advice = (
        "does not have many workers",
        "smaller than the logging",
        "in eval mode",
        "treespec",
        "srun",
        "all_gather is dep",
    )
    for text in advice:
        warnings.filterwarnings("ignore", f".*{text}.*")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
    trainer: lightning.Trainer = make(lightning.Trainer, runtime, **quiet, **settings)
    return trainer


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's contents. Raises ValueError where it is missing, truncated or not a checkpoint of this program."""
    if not path.is_file():
        raise ValueError(f"there is no checkpoint at {path}: the run stopped before its first one; start it anew")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch does not compare checksums
        if broken:
            raise zipfile.BadZipFile(f"{broken} is damaged")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # torch raises many kinds for a broken file
        raise ValueError(f"{path} cannot be read ({error}); it is damaged, truncated or not a checkpoint") from error
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
