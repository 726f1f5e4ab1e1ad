"""prompts.csv: the rewards of every iteration, prompt by prompt."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback

from pgdlab.config.runs import naming, write
from pgdlab.trainers.prompts import PromptRewards
from pgdlab.training.module import SteeringModule

PROMPTS = "prompts.csv"
COLUMNS = ("iteration", "number", "prompt", "samples", "reward_mean", "reward_std")


class PromptTable(Callback):
    """A file of the run folder with a row for each prompt that an iteration has drawn, on the disk when the iteration is over;
    none where there is one prompt. done: iterations of the checkpoint that a run goes on from: later rows are dropped."""

    def __init__(self, folder: Path, texts: Sequence[str] | None, done: int) -> None:
        self.file, self.texts, self.done = folder / PROMPTS, texts, done

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero and self.file.is_file():
            write(lines([COLUMNS, *kept(self.file, self.done)]), self.file)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, SteeringModule)
        found = pl_module.prompts
        if trainer.is_global_zero and found is not None:
            assert self.texts is not None
            rows = list(rows_of(found, self.texts, int(pl_module.iterations)))
            with naming(self.file), self.file.open("a", newline="", encoding="utf-8") as file:
                file.write(lines(rows if file.tell() else [COLUMNS, *rows]))


def rows_of(found: PromptRewards, texts: Sequence[str], iteration: int) -> Iterator[tuple[str, ...]]:
    """The rows of an iteration; a figure that is not known is an empty cell."""
    columns = (found.number, found.samples, found.mean, found.std)
    for number, samples, *figures in zip(*(column.tolist() for column in columns), strict=True):
        shown = (repr(x) if x == x else "" for x in figures)
        yield (str(iteration), str(number), " ".join(texts[number].split()), str(samples), *shown)


def kept(file: Path, done: int) -> list[list[str]]:
    """The rows up to an iteration, without those that are damaged: a last line that was still being written, NUL bytes."""
    text = file.read_text(errors="replace", encoding="utf-8")
    whole = (line for line in text[: text.rfind("\n") + 1].splitlines() if "\0" not in line)
    return [row for row in csv.reader(whole) if len(row) == len(COLUMNS) and row[0].isdecimal() and int(row[0]) <= done]


def lines(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
