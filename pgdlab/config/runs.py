"""Run folders: what a run leaves behind, and nothing else is needed to compare, resume or sample it."""

from __future__ import annotations

import atexit
import csv
import errno
import importlib.metadata
import itertools
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgdlab import __version__
from pgdlab.config import trust
from pgdlab.config.configuration import Config
from pgdlab.config.launch import launcher, rank
from pgdlab.config.program import program

CONFIG, SUMMARY, METRICS, COMMAND = "config.yaml", "summary.json", "metrics.csv", "command.txt"
LAST = Path("checkpoints") / "last.ckpt"
FAILURE = "failure.txt"  # why a run was given up, where whoever gave it up wrote it down
FOREIGN = ("wandb",)  # a folder in a run's whose links are made by its own program
PATIENCE = 2.0  # seconds that a process which was killed may take to leave its folder


def run_folder(cfg: Config, place: Path | None = None) -> Path:
    """runs/<name>, made; a name in use gets a number. Resuming uses the run's own. Absolute: what a reward does to the working
    directory moves no file. place: the working directory as it was, where a reward has been asked before.

    Raises ValueError where it cannot be written, where it has links in it, or in a process that nothing of a run started.
    """
    place = place or Path.cwd()
    if cfg.resume:
        require_no_links(place / cfg.resume)
        return (place / cfg.resume).resolve()
    if rank():  # the first process of a run chooses
        return aside() if launcher() != "own" else inherited()
    name = folder_name(cfg.task, cfg.name)
    for number in itertools.count(1):
        folder = place / "runs" / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            (folder / CONFIG).touch()
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise ValueError(f"cannot write the run folder {folder}: {error.strerror}") from error
    os.environ["PGDLAB_RUN"] = str(folder)
    return folder


def inherited() -> Path:
    """The folder of the process that started this one. Raises ValueError where nothing of a run did."""
    if "PGDLAB_RUN" not in os.environ:
        raise ValueError(
            f"this process has a rank, but neither a run nor torchrun or srun started it: start one, {program()} runtime=ddp, "
            "and the others are started by it"
        )
    return Path(os.environ["PGDLAB_RUN"])


def aside() -> Path:
    """A folder of their own for processes that torchrun or srun started after the first one, which alone keeps files."""
    folder = Path(tempfile.mkdtemp(prefix="pgdlab-rank-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def folder_name(task: str, name: str | None) -> str:
    """A run's folder under runs/: its name, with the task in front where it is not one that trains."""
    if not name or task in ("train", "pretrain"):
        return name or task
    return str(Path(name).with_name(f"{task}-{Path(name).name}"))


def save_config(cfg: Config, folder: Path) -> None:
    """The resolved config, which `resume` and the other tasks read back, and the command that made the run."""
    if not cfg.resume:
        write((cfg.command or f"{program()} {shlex.join(sys.argv[1:])}".strip()) + "\n", folder / COMMAND)
    own = replace(cfg, resume=None)  # a resumed run may have been extended: later ones start from that
    write(as_yaml(own), folder / CONFIG)


def as_yaml(cfg: Config) -> str:
    """The text of a config.yaml."""
    from omegaconf import OmegaConf  # yaml's own would not quote strings that OmegaConf reads as numbers

    return OmegaConf.to_yaml(OmegaConf.create(cfg.plain()))


def short(path: Path) -> Path:
    """A path as it is shown: from the working directory, where it lies there."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def go_on(folder: Path, cfg: Config) -> str:
    """The command that goes on with a run. A run folder is not believed what code it names: the command says it again."""
    words = [f"resume={short(folder)}", *trust.words(cfg.plain().items())]
    return " ".join([program(), *(shlex.quote(word) for word in words)])


def set_aside(folder: Path) -> None:
    """Before a finished run is extended: its summary becomes summary-<iterations>.json, since the run is not finished now."""
    file = folder / SUMMARY
    if not file.is_file():
        return
    try:
        done = int(json.loads(file.read_text())["iterations"])
    except (ValueError, KeyError, TypeError):
        done = 0  # a file that nobody can read
    file.replace(file.with_name(f"{file.stem}-{done}{file.suffix}"))


def links(folder: Path) -> list[Path]:
    """The links in a run folder, to files and to folders; the folder itself may be one."""
    found = []
    for place, folders, files in os.walk(folder):
        found += [Path(place) / name for name in [*folders, *files] if (Path(place) / name).is_symlink()]
        if Path(place) == Path(folder):
            folders[:] = [name for name in folders if name not in FOREIGN]
    return sorted(found)


def require_no_links(folder: Path) -> None:
    """Raises ValueError where a run folder has a link in it: writing the run's files would write somewhere else."""
    for link in links(folder):
        raise ValueError(
            f"{short(link)} is a link to {os.readlink(link)}: nothing is read or written through links in a run folder. "
            "Remove it, or put there what it leads to (the run folder itself may be a link)"
        )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """For one process at a time: training goes on in a run folder. Raises ValueError where another one is at it."""
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ValueError(f"cannot open the run folder {short(folder)}: {error.strerror}") from error
    late = time.monotonic() + PATIENCE
    try:
        while not locked(place):
            if time.monotonic() > late:
                raise ValueError(f"another process is training in {short(folder)}: wait until it has ended, or stop it")
            time.sleep(0.05)
        yield
    finally:
        os.close(place)


def locked(place: int) -> bool:
    """Whether an open folder is this process's now; True as well on a file system that has no locks."""
    import fcntl  # not on every system: nothing else here needs it

    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def write(text: str, path: Path) -> None:
    """Written whole or not at all."""
    write_bytes(text.encode(), path)


def write_bytes(content: bytes, path: Path) -> None:
    """Written whole or not at all, and through no link: what lies at the path, or where it is written first, is replaced."""
    part = path.with_name(f"{path.name}.part")
    with naming(path):
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


@contextmanager
def whole(folder: Path) -> Iterator[None]:
    """A folder is filled, or it is not there: half of one is removed where the disk fails, which is said with its name."""
    try:
        yield
    except Exception as error:  # libraries have kinds of their own for a full disk
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, ValueError):
            raise
        number = error.errno if isinstance(error, OSError) else None
        raise OSError(number or errno.EIO, str(error), str(short(folder))) from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Says which file it was, where the disk fails while it is written: the system's own error does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(short(path))) from error


def write_json(content: dict[str, Any], path: Path) -> None:
    """As `write`. A figure that is not finite, which JSON has no word for, becomes null; its name goes under `not_finite`."""
    names = [name for name, value in figures("", content) if isinstance(value, float) and not math.isfinite(value)]
    if names:
        content = finite(content) | {"not_finite": names}
        print(f"not finite, null in {short(path)}: {', '.join(names)}", file=sys.stderr)
    write(json.dumps(content, indent=2, allow_nan=False) + "\n", path)


def commit() -> dict[str, str]:
    """The commit of the package's checkout, with a + where files differ from it; nothing for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {}
    try:
        asked = ("describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+")
        done = subprocess.run(["git", "-C", str(root), *asked], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or not our files
        return {}
    return {"commit": done.stdout.strip()}


def figures(name: str, content: Any) -> Iterator[tuple[str, Any]]:
    """(name, figure) of everything inside; names of nested ones as a.b and a[0]."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from figures(f"{name}.{key}" if name else str(key), value)
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            yield from figures(f"{name}[{i}]", value)
    else:
        yield name, content


def finite(content: Any) -> Any:
    """With null for floats that are not finite."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("torch", "lightning", "diffusers", "torchmetrics", "peft", "numpy", "rdkit", "wandb")
    return {"pgdlab": __version__, **commit(), "python": platform.python_version()} | {
        n: importlib.metadata.version(n) for n in names
    }


def cells(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv as text, [] where there is none. Damaged rows are left out: a last line that is still
    being written, NUL bytes (left by a crash of the machine), a missing iteration, too few or too many cells, or no number."""
    path = folder / METRICS
    text = path.read_text(errors="replace") if path.is_file() else ""
    lines = [line for line in text[: text.rfind("\n") + 1].splitlines() if "\0" not in line]
    return [row for row in csv.DictReader(lines) if complete(row)]


def complete(row: dict[Any, Any]) -> bool:
    """Whether a row has its iteration and all cells, each a number or empty."""
    try:
        return bool(row["iteration"]) and len([float(cell) for cell in row.values() if cell != ""]) > 0
    except (KeyError, TypeError, ValueError):
        return False


def rows(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv as numbers, without empty cells and damaged rows."""
    return [{name: float(cell) for name, cell in row.items() if cell} for row in cells(folder)]
