"""Runs a SteeringModule with Lightning: the one place where a lightning.Trainer is made."""

from __future__ import annotations

import inspect
import logging
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor

from pgdlab.config import renamed
from pgdlab.config.configuration import Config
from pgdlab.config.runs import LAST
from pgdlab.config.schema import make
from pgdlab.diffusion.policy import Policy
from pgdlab.processes import Processes
from pgdlab.training.budget import Budget
from pgdlab.training.build import loggers_of
from pgdlab.training.callbacks import EMA, BudgetStop, Checkpoint, GracefulStop, Metrics, ProgressBar
from pgdlab.training.loggers import resume_rows
from pgdlab.training.module import SteeringModule, digest

__all__ = ["LAST", "fit", "load", "make_trainer", "over", "ready"]

RUNTIME = ("accelerator", "devices", "strategy", "precision", "deterministic", "benchmark", "profiler")


def ready(module: SteeringModule, cfg: Config) -> int:
    """The iterations that are done: those of the checkpoint in cfg.resume, 0 for a new run.

    Raises ValueError for what would stop the run later: a machine that is not there, samples that do not divide, a
    checkpoint that is missing, broken, of another model or base or further than plan.iterations. Nothing is written.
    """
    size = make_trainer(cfg.nodes["runtime"], logger=False).world_size
    module.world = replace(module.world, processes=Processes(size=size))
    module.algorithm.refuse(module.world)
    if not cfg.resume:
        return 0
    path = Path(cfg.resume) / LAST
    state = load(path)
    saved = renamed.checkpoint(state, module.state_dict())["current_model_state"]
    require_fit(module.state_dict(), saved, path)
    require_base(module.world.reference, state, path)
    done = int(saved["iterations"])
    if done > module.world.plan.iterations:
        raise ValueError(
            f"{done} iterations are done; plan.iterations must be at least {done}, or budget.queries pay for them"
        )
    return done


def fit(
    module: SteeringModule, cfg: Config, folder: Path, more: Sequence[Callback] = (), *, done: int = 0
) -> lightning.Trainer:
    """Trains for plan.iterations with checkpoints in folder/checkpoints/last.ckpt, which holds `done` of them: see ready().

    more: further callbacks. The runtime: lightning.Trainer with the machine's settings (accelerator, devices, strategy,
    precision). Afterwards the module holds the raw weights; the checkpoint has the averages too.
    """
    plan, updates = module.world.plan, module.algorithm.updates_per_iteration(module.world.plan)
    loggers = loggers_of(cfg, folder, resume_rows(folder, done))
    checkpoint = Checkpoint(folder / LAST, plan.checkpoint_every, plan.iterations, done)
    stops = [GracefulStop(), BudgetStop(cfg.stated(Budget, "budget"))]
    average = EMA(module.optimization.ema_decay(plan.iterations * updates))
    trainer = make_trainer(
        cfg.nodes["runtime"],
        max_epochs=plan.iterations,
        logger=loggers,
        callbacks=[average, *stops, Metrics(), ProgressBar(plan.iterations), checkpoint, *more],
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


def over(module: SteeringModule, cfg: Config) -> bool:
    """Whether training is done: all iterations, or the budget spent. Else it was asked to stop."""
    budget = cfg.stated(Budget, "budget")
    all_done = int(module.iterations) >= module.world.plan.iterations
    return all_done or budget.spent(int(module.evaluations), float(module.seconds))


def make_trainer(runtime: dict[str, Any], **settings: Any) -> lightning.Trainer:
    """The lightning.Trainer of the node of the runtime. Raises ValueError where it sets more than the machine.

    Lightning's advice on workers and devices, and torch's on what Lightning calls, is silenced: nobody here can follow it.
    """
    require_machine(runtime)
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
    own = [LightningEnvironment()]  # a run starts its own processes, in a SLURM job too
    return make(lightning.Trainer, runtime, "runtime", plugins=own, **quiet, **settings)


def require_machine(runtime: dict[str, Any]) -> None:
    """Raises ValueError for an argument of lightning.Trainer that would break a run or change nothing in it."""
    for key, parameter in inspect.signature(lightning.Trainer).parameters.items():
        if key not in RUNTIME and runtime.get(key, parameter.default) != parameter.default:
            raise ValueError(
                f"runtime.{key} is {runtime[key]!r}, but plan, optimizer and logger decide that; runtime may set "
                f"{', '.join(RUNTIME)}"
            )
    if runtime.get("precision") not in (None, "32-true", "bf16-mixed"):
        raise ValueError(
            f"runtime.precision is {runtime['precision']!r}; it must be 32-true or bf16-mixed (16-mixed scales the loss, and "
            "gradients would be clipped at that scale; others change the dtype of weights and densities)"
        )


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
    return renamed.checkpoint(state)


def require_fit(own: dict[str, Tensor], saved: dict[str, Tensor], path: Path) -> None:
    """Raises ValueError where the saved weights are not those of this model, by name or shape."""
    wrong = sorted(own.keys() ^ saved.keys()) + [n for n in own.keys() & saved.keys() if own[n].shape != saved[n].shape]
    if wrong:
        raise ValueError(
            f"{path} holds another model than this config's: {len(wrong)} weights differ in name or shape, such as {wrong[0]}"
        )


def require_base(reference: Policy, state: dict[str, Any], path: Path) -> None:
    """Raises ValueError where a checkpoint's run had another reference: its KL and its gain would be to two bases."""
    if state.get("base") != digest(reference):
        raise ValueError(
            f"{path} was made on another base than the one that is loaded now: put the weights of its domain back, or "
            "start a new run"
        )
