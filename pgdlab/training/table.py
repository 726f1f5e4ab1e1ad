"""metrics.csv: a row an iteration, on the disk when the iteration is over."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from pgdlab.config.runs import METRICS, naming, write


class Table(Logger):
    """A CSV file of the run folder. Its columns are sorted; a new one rewrites the file. (Lightning's own logger removes the file
    when a run is resumed, and writes its rows again afterwards: a kill in between loses them.)

    done: the rows that it starts with, which replace what is there, whole or not at all. Raises OSError, which names the file,
    where it cannot be written.
    """

    def __init__(self, folder: Path, done: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__()
        self.file = folder / METRICS
        self.rows = [dict(row) for row in done]
        self.columns = sorted({name for row in self.rows for name in row})
        self.rewrite()

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.file.parent)

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return self.log_dir

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Adds a row; its `step` is the iteration."""
        row = {**metrics, "step": step}
        self.rows.append(row)
        if row.keys() <= set(self.columns):
            with naming(self.file):
                self.append(row)
        else:
            self.columns = sorted({*self.columns, *row})
            self.rewrite()

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a line."""
        with self.file.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    @rank_zero_only
    def rewrite(self) -> None:
        """Writes all rows, whole or not at all; no file where there are none."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if not self.rows:
            self.file.unlink(missing_ok=True)
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write(text.getvalue(), self.file)
