"""Run folders: what a run leaves behind, and nothing else is needed to compare, resume or sample it."""

from __future__ import annotations

import csv
import importlib.metadata
import itertools
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgdlab import __version__
from pgdlab.config.configuration import Config

CONFIG, SUMMARY, METRICS, COMMAND = "config.yaml", "summary.json", "metrics.csv", "command.txt"
LAST = Path("checkpoints") / "last.ckpt"
FAILURE = "failure.txt"  # why a run was given up, where whoever gave it up wrote it down


def run_folder(cfg: Config) -> Path:
    """runs/<name>, made; a name in use gets a number. Resuming uses the run's own. Raises ValueError where it cannot be
    written, or in a process that was not started by the run's first one."""
    if cfg.resume:
        return Path(cfg.resume)
    others = any(int(os.environ.get(size, 1)) > 1 for size in ("LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
    if others or any(int(os.environ.get(rank, 0)) for rank in ("RANK", "SLURM_PROCID", "LOCAL_RANK")):
        if "PGDLAB_RUN" not in os.environ:
            raise ValueError(
                "several processes were started, as by torchrun or srun: start one, python run.py runtime=ddp, and the "
                "others are started by it"
            )
        return Path(os.environ["PGDLAB_RUN"])  # the processes of one run share the first one's choice
    name = folder_name(cfg.task, cfg.name)
    for number in itertools.count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            (folder / CONFIG).touch()
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise ValueError(f"cannot write the run folder {folder.resolve()}: {error.strerror}") from error
    os.environ["PGDLAB_RUN"] = str(folder)
    return folder


def folder_name(task: str, name: str | None) -> str:
    """A run's folder under runs/: its name, with the task in front where it is not one that trains."""
    if not name or task in ("train", "pretrain"):
        return name or task
    return str(Path(name).with_name(f"{task}-{Path(name).name}"))


def save_config(cfg: Config, folder: Path) -> None:
    """The resolved config, which `resume` and the other tasks read back, and the command that made the run."""
    if not cfg.resume:
        write(f"python run.py {shlex.join(sys.argv[1:])}".strip() + "\n", folder / COMMAND)
    own = replace(cfg, resume=None)  # a resumed run may have been extended: later ones start from that
    write(as_yaml(own), folder / CONFIG)


def as_yaml(cfg: Config) -> str:
    """The text of a config.yaml."""
    from omegaconf import OmegaConf  # yaml's own would not quote strings that OmegaConf reads as numbers

    return OmegaConf.to_yaml(OmegaConf.create(cfg.plain()))


def write(text: str, path: Path) -> None:
    """Written whole or not at all."""
    part = path.with_suffix(".part")
    with naming(path):
        part.write_text(text)
        part.replace(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Says which file it was, where the disk fails while it is written: the system's own error does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_json(content: dict[str, Any], path: Path) -> None:
    """As `write`. Raises ValueError for what is not finite."""
    write(json.dumps(content, indent=2, allow_nan=False) + "\n", path)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("torch", "lightning", "diffusers", "torchmetrics", "peft", "numpy", "rdkit", "wandb")
    return {"pgdlab": __version__, "python": platform.python_version()} | {
        n: importlib.metadata.version(n) for n in names
    }


def cells(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv as text, [] where there is none. Damaged rows are left out: a last line that is still
    being written, NUL bytes (left by a crash of the machine), a missing iteration, too few or too many cells, or no number."""
    path = folder / METRICS
    text = path.read_text(errors="replace") if path.is_file() else ""
    lines = [line for line in text[: text.rfind("\n") + 1].splitlines() if "\0" not in line]
    return [row for row in csv.DictReader(lines) if whole(row)]


def whole(row: dict[Any, Any]) -> bool:
    """Whether a row has its iteration and all cells, each a number or empty."""
    try:
        return bool(row["iteration"]) and len([float(cell) for cell in row.values() if cell != ""]) > 0
    except (KeyError, TypeError, ValueError):
        return False


def rows(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv as numbers, without empty cells and damaged rows."""
    return [{name: float(cell) for name, cell in row.items() if cell} for row in cells(folder)]
