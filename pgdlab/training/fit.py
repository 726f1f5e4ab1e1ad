"""Runs a SteeringModule with Lightning: the one place where a lightning.Trainer is made."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

from pgdlab.config import renamed
from pgdlab.config.configuration import Config
from pgdlab.config.launch import launcher, started
from pgdlab.config.runs import LAST, go_on
from pgdlab.config.schema import make
from pgdlab.config.signals import Stopped
from pgdlab.processes import Processes
from pgdlab.rollout.plan import Plan
from pgdlab.training.budget import Budget
from pgdlab.training.build import loggers_of, require_loggers
from pgdlab.training.callbacks import EMA, BudgetStop, Checkpoint, GracefulStop, Metrics, ProgressBar
from pgdlab.training.checkpoint import Origin, asked, load, require_base, require_fit, require_own, require_whole
from pgdlab.training.divergence import Divergence
from pgdlab.training.loggers import resume_rows
from pgdlab.training.module import SteeringModule
from pgdlab.training.prompt_table import PromptTable
from pgdlab.training.sharding import FullyShardedStrategy, refuse_sharding
from pgdlab.training.sheets import ContactSheets, require_pictures
from pgdlab.training.watch import Watch, lost_process, of_an_exchange

__all__ = ["LAST", "fit", "load", "make_trainer", "over", "ready", "require_base", "require_fit"]

RUNTIME = ("accelerator", "devices", "num_nodes", "strategy", "precision", "deterministic", "benchmark", "profiler")


def ready(module: SteeringModule, cfg: Config) -> int:
    """The iterations that are done: those of the checkpoint in cfg.resume, 0 for a new run.

    Raises ValueError for what would stop the run later: a machine that is not there, samples that do not divide, a
    checkpoint that is missing, broken, of another model or base or further than plan.iterations. Nothing is written.
    """
    trainer = make_trainer(cfg.nodes["runtime"], logger=False)
    module.world = replace(module.world, processes=Processes(size=trainer.world_size))
    module.algorithm.refuse(module.world)
    if isinstance(trainer.strategy, FullyShardedStrategy):
        refuse_sharding(module.world, module.world.plan.sheet_every, module.optimization.kind)
    require_loggers(cfg)
    if module.world.plan.sheet_every:
        require_pictures(module.world.domain)
    if not cfg.resume:
        return 0
    path = Path(cfg.resume) / LAST
    state = load(path)
    saved = renamed.checkpoint(state, module.state_dict())["current_model_state"]
    require_fit(module, saved, path)
    require_base(module.world.reference, state, path)
    require_own(state, Path(cfg.resume))
    require_whole(state, path)
    done = int(saved["iterations"])
    plan = cfg.stated(Budget, "budget").within(cfg.make(Plan, "plan"), done, asked(state))
    module.world = replace(module.world, plan=plan)
    if done > plan.iterations:
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
    checkpoint = Checkpoint(folder / LAST, plan.checkpoint_every, plan.iterations, done, go_on(folder, cfg))
    progress = ProgressBar(plan.iterations, cfg.stated(Divergence, "divergence"))
    stops = [Origin(cfg, plan.samples), GracefulStop(), BudgetStop(cfg.stated(Budget, "budget"))]
    sheets = [ContactSheets(folder, plan.sheet_every)] if plan.sheet_every else []
    table = PromptTable(folder, module.world.domain.conditioning.texts, done)
    average = EMA(module.optimization.ema_decay(plan.iterations * updates))
    trainer = make_trainer(
        cfg.nodes["runtime"],
        max_epochs=plan.iterations,
        logger=loggers,
        callbacks=[average, *stops, Metrics(), table, progress, checkpoint, *sheets, *more, Watch(checkpoint.advice)],
        default_root_dir=folder,
    )
    try:
        trainer.fit(module, ckpt_path=checkpoint.path if done else None, weights_only=True)
    except OSError as error:
        raise ValueError(f"{error}; {checkpoint.advice()}") from error
    except RuntimeError as error:
        if trainer.world_size > 1 and of_an_exchange(error) and (lost := lost_process(trainer)):
            raise ValueError(f"{lost}; {checkpoint.advice()}") from error
        raise
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # which Lightning answers by leaving, without a word
            raise Stopped.of(end.__context__, checkpoint.advice()) from None
        raise
    return trainer


def stopped_by(trainer: lightning.Trainer) -> int:
    """The number of the signal that asked a run to stop; 0 for none."""
    return max(callback.asked for callback in trainer.callbacks if isinstance(callback, GracefulStop))  # type: ignore[attr-defined]


def asked_for(module: SteeringModule, trainer: lightning.Trainer) -> int:
    """The samples that the reward was asked for in all of a run's training, those that were asked again counted once."""
    return max(callback.asked(module) for callback in trainer.callbacks if isinstance(callback, Origin))  # type: ignore[attr-defined]


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
    return make(lightning.Trainer, runtime, "runtime", plugins=[environment()], **(quiet | settings))


def environment() -> ClusterEnvironment:
    """Where a process learns its rank. A run starts its own processes, in a batch script of Slurm too, unless torchrun or srun
    has started them."""
    match launcher():
        case "torchrun":
            return TorchElasticEnvironment()
        case "srun":
            return SLURMEnvironment(auto_requeue=False)
        case "own":
            return LightningEnvironment()


def require_machine(runtime: dict[str, Any]) -> None:
    """Raises ValueError for an argument of lightning.Trainer that would break a run or change nothing in it, and where it states
    other processes than were started."""
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
    require_processes(runtime.get("devices"), int(runtime.get("num_nodes", 1)))


def require_processes(devices: Any, nodes: int) -> None:
    """Raises ValueError where torchrun or srun started other processes than devices (a number, a list, -1 or "auto") on as many
    machines are."""
    here = len(devices) if isinstance(devices, list) else devices
    here = torch.cuda.device_count() if here in (-1, "auto", None) else here
    if launcher() == "own" and nodes > 1:
        raise ValueError(
            f"runtime.num_nodes is {nodes}: a run starts processes on its own machine only; on several, torchrun or srun does"
        )
    if launcher() != "own" and here * nodes != started():
        raise ValueError(
            f"{launcher()} started {started()} processes, but runtime has {here} on {nodes} machine{'s' * (nodes > 1)}: set "
            "runtime=ddp (runtime=ddp_cpu without GPUs), runtime.devices to those of a machine, and runtime.num_nodes"
        )
