"""Lightning callbacks of a run: checkpoints, metrics, a graceful stop, and the progress bar."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column
from torch import Tensor, nn

from pgdlab.config.launch import rank
from pgdlab.config.runs import naming
from pgdlab.config.signals import Stopped
from pgdlab.processes import local, spread, whole
from pgdlab.training.budget import Budget
from pgdlab.training.divergence import Divergence
from pgdlab.training.loggers import record
from pgdlab.training.module import SteeringModule


class EMA(Callback):
    """Exponential moving average of the trained weights, saved beside the raw ones in every checkpoint.

    What does not train has none. (Lightning's WeightAveraging copies the whole module, before it goes to its device and before
    weights are cut over processes.)
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """A new run's average begins with the first update's weights."""
        live = trained(pl_module)
        saved = {name: spread(x.to(live[name]), live[name]) for name, x in self.average.items()}
        self.average = saved or {name: p.detach().clone() for name, p in live.items()}
        self.pairs = [local(x) for x in self.average.values()], [local(p.detach()) for p in live.values()]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        torch._foreach_lerp_(*self.pairs, 1 - self.decay if self.updates else 1.0)
        self.updates = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["latest_update_step"]

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = checkpoint["state_dict"] | {name: whole(x) for name, x in self.average.items()}
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self.updates)}

    def on_load_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Lightning has loaded the averaged weights."""
        pl_module.load_state_dict(checkpoint["current_model_state"])
        self.average = {name: checkpoint["state_dict"][name] for name in trained(pl_module)}


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that train, by all names that a state has for them."""
    return {name: p for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}


class Checkpoint(LightningCheckpoint):
    """Saves `path` every few iterations, at the last one, and when the run is asked to stop. done: iterations that the
    file there holds.

    Written beside the old one, flushed to the disk, and then put in its place: a kill or a full disk while saving leaves
    the one before. (Lightning writes into the temporary folder and copies from there over the file, where that is another
    file system.)
    """

    def __init__(self, path: Path, every: int, iterations: int, done: int = 0, go_on: str = "") -> None:
        """go_on: the command that resumes the run."""
        super().__init__()
        self.path, self.every, self.iterations, self.saved, self.go_on = path, every, iterations, done, go_on

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.go_on = trainer.strategy.broadcast(self.go_on)  # the first process has the folder

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if done % self.every == 0 or done == self.iterations or trainer.should_stop:
            with naming(self.path):
                self.save(trainer)
            self.saved = done

    def save(self, trainer: lightning.Trainer) -> None:
        """Whole or not at all."""
        part = self.path.with_name(f"{self.path.name}.part")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, self.path)
            keep(self.path.parent)
        trainer.strategy.barrier("Checkpoint.save")

    def advice(self) -> str:
        """How to go on with a run that ended on the way."""
        if not self.saved:
            return "there is no checkpoint yet: start it anew"
        return f"go on from iteration {self.saved} with: {self.go_on}"


def keep(folder: Path) -> None:
    """Puts on the disk which files a folder has: after a loss of power the new one is there."""
    place = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # file systems that cannot
        os.fsync(place)
    os.close(place)


class GracefulStop(Callback):
    """SIGTERM or Ctrl-C ends the run after the current iteration, with a checkpoint; a second one ends it at once. All
    processes agree on the iteration."""

    def __init__(self) -> None:
        self.asked = 0  # the signal's number
        self.before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            heard = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) != signal.SIG_IGN]
            self.before = {s: signal.signal(s, self.ask) for s in heard}

    def ask(self, number: int, *_: Any) -> None:
        """Hears a signal. Lightning ends all processes after a KeyboardInterrupt."""
        if self.asked:
            raise Stopped(number)
        self.asked = number
        if not rank():  # one voice; print is not safe here
            os.write(2, b"\nstopping after this iteration; once more to stop at once\n")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        asked = torch.tensor(float(self.asked), device=pl_module.device)
        self.asked = int(trainer.strategy.reduce(asked, reduce_op="max"))  # whichever process was told
        trainer.should_stop = trainer.should_stop or self.asked > 0

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)


class BudgetStop(Callback):
    """Ends training after the iteration that spends the budget; all processes agree on it."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.on_train_epoch_end(trainer, pl_module)  # a resumed run may have spent it

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, SteeringModule)
        spent = self.budget.spent(int(pl_module.evaluations), float(pl_module.seconds))
        heard = trainer.strategy.reduce(torch.tensor(float(spent), device=pl_module.device), reduce_op="sum")
        trainer.should_stop = trainer.should_stop or bool(heard > 0)


class Metrics(Callback):
    """Hands each iteration's figures to the loggers, at the run's own step: the iteration."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, SteeringModule)
        row = pl_module.history[-1]
        for logger in trainer.loggers:
            record(logger, row, int(row["iteration"]))


FIGURES = {
    "reward": "reward {:.3f}",
    "heldout": "held-out {:.3f}",
    "kl_nats": "KL {:.2f}",
    "clip": "clipped {:.0%}",
    "train/denoising_loss": "loss {:.4f}",
    "queries": "{:,.0f} queries",
    "scoring": "scoring {:.0%}",
}


def scoring(history: list[dict[str, float]]) -> dict[str, float]:
    """The share of the last iteration's time that its rewards took, where it is known: a resumed run's first is not."""
    last, before = history[-1], history[-2] if len(history) > 1 else {"iteration": 0.0, "seconds": 0.0}
    took = last.get("seconds", 0.0) - before.get("seconds", 0.0)
    known = "reward_seconds" in last and took > 0 and last.get("iteration") == before.get("iteration", 0.0) + 1
    return {"scoring": last["reward_seconds"] / took} if known else {}


class ProgressBar(Callback):
    """One bar over the iterations, with the figures that matter; a line now and then where there is no terminal."""

    def __init__(self, iterations: int, limits: Divergence | None = None) -> None:
        self.iterations, self.console, self.limits = iterations, Console(stderr=True), limits or Divergence()
        figures = TextColumn(
            "{task.fields[figures]}", table_column=Column(no_wrap=True, ratio=1)
        )  # cut where it is narrow
        left = TextColumn(
            "{task.fields[left]}", table_column=Column(no_wrap=True)
        )  # rich's own forgets slow iterations
        columns = [TextColumn("{task.description}"), BarColumn(10), MofNCompleteColumn(), left, figures]
        self.bar = Progress(*columns, console=self.console, expand=True)
        self.printed = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero and self.console.is_terminal:
            self.bar.start()
        assert isinstance(pl_module, SteeringModule)
        self.started, self.begun = time.monotonic(), trainer.current_epoch
        name, first = type(pl_module.algorithm).__name__, "first rollout"
        self.task = self.bar.add_task(name, total=self.iterations, completed=self.begun, left="", figures=first)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, SteeringModule)
        row, done = dict(pl_module.history[-1]), trainer.current_epoch + 1
        clipped = [row[key] for key in row if "clip_fraction" in key and "initial" not in key]
        row |= {"clip": sum(clipped)} if clipped else {}
        row |= scoring(pl_module.history)
        figures = "  ".join(text.format(row[key]) for key, text in FIGURES.items() if key in row)
        figures = "  ".join(filter(None, [self.limits.warning(pl_module.history), figures]))
        now = time.monotonic()
        left = timedelta(seconds=round((now - self.started) / (done - self.begun) * (self.iterations - done)))
        self.bar.update(self.task, completed=done, left=f"{left} left", figures=figures)
        late = now - self.printed > 10 or done == self.iterations
        if trainer.is_global_zero and not self.console.is_terminal and late:
            self.printed = now
            line = f"iteration {done}/{self.iterations}  {left} left  {figures}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.console.is_terminal:  # elsewhere it was not started, and would print an empty line
            self.bar.stop()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self.console.is_terminal:
            self.bar.stop()
