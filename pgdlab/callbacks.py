"""Lightning callbacks of a run: checkpoints, metrics, a graceful stop, and the progress bar."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pgdlab.loggers import record
from pgdlab.module import SteeringModule


class Average(WeightAveraging):
    """Exponential moving average of the trained weights, saved beside the raw ones in every checkpoint.

    By lerp, a + w (b - a): what is shared with the live module, as the base under adapters, stays bit for bit; Lightning's
    own d a + (1 - d) b rounds and would move it with every update.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Lightning would overwrite the live weights (and counters) with the average; a checkpoint has both."""


class Checkpoint(LightningCheckpoint):
    """Saves `path` every few iterations, at the last one, and when the run is asked to stop.

    Lightning writes checkpoints atomically: one that is killed while saving keeps the one before.
    """

    def __init__(self, path: Path, every: int, iterations: int) -> None:
        super().__init__()
        self.path, self.every, self.iterations = path, every, iterations

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if done % self.every == 0 or done == self.iterations or trainer.should_stop:
            trainer.save_checkpoint(self.path)


class GracefulStop(Callback):
    """SIGTERM ends the run after the current iteration, with a checkpoint; all processes agree on which."""

    def __init__(self) -> None:
        self.asked = False
        self.before: Any = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self.ask)

    def ask(self, *_: Any) -> None:
        self.asked = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        asked = torch.tensor(float(self.asked), device=pl_module.device)
        trainer.should_stop = trainer.should_stop or bool(trainer.strategy.reduce(asked, reduce_op="sum") > 0)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)


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
}


class ProgressBar(Callback):
    """One bar over the iterations, with the figures that matter; a line now and then where there is no terminal."""

    def __init__(self, iterations: int) -> None:
        self.iterations, self.console = iterations, Console(stderr=True)
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self.bar = Progress(*columns, TextColumn("{task.fields[figures]}"), console=self.console)
        self.printed = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero and self.console.is_terminal:
            self.bar.start()
        assert isinstance(pl_module, SteeringModule)
        name, done = type(pl_module.algorithm).__name__, trainer.current_epoch
        self.task = self.bar.add_task(name, total=self.iterations, completed=done, figures="first rollout")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, SteeringModule)
        row, done = dict(pl_module.history[-1]), trainer.current_epoch + 1
        clipped = [row[key] for key in row if "clip_fraction" in key and "initial" not in key]
        row |= {"clip": sum(clipped)} if clipped else {}
        figures = "  ".join(text.format(row[key]) for key, text in FIGURES.items() if key in row)
        self.bar.update(self.task, completed=done, figures=figures)
        late = time.monotonic() - self.printed > 10 or done == self.iterations
        if trainer.is_global_zero and not self.console.is_terminal and late:
            self.printed = time.monotonic()
            self.console.print(f"iteration {done}/{self.iterations}  {figures}", highlight=False, soft_wrap=True)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.bar.stop()
