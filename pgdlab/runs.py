"""Run folders: what a run leaves behind, and nothing else is needed to compare, resume or sample it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

CONFIG, SUMMARY, METRICS = "config.yaml", "summary.json", "metrics.csv"


def run_folder(cfg: Any) -> Path:
    """runs/<name>, made; a name in use gets a number. Resuming uses the run's own. Raises ValueError where it cannot be
    written."""
    if cfg.resume:
        return Path(cfg.resume)
    inherited = os.environ.get("PGDLAB_RUN")  # the processes of one run share the first one's choice
    if inherited:
        return Path(inherited)
    root, name = Path("runs"), cfg.name or cfg.task
    folder, number = root / name, 2
    while folder.exists():
        folder, number = root / f"{name}-{number}", number + 1
    try:
        folder.mkdir(parents=True)
        (folder / CONFIG).touch()
    except OSError as error:
        raise ValueError(f"cannot write the run folder {folder.resolve()}: {error.strerror}") from error
    os.environ["PGDLAB_RUN"] = str(folder)
    return folder


def save_config(cfg: Any, folder: Path) -> None:
    """The resolved config, which `resume` and the other tasks read back."""
    from omegaconf import OmegaConf

    (folder / CONFIG).write_text(OmegaConf.to_yaml(cfg, resolve=True))


def write_json(content: dict[str, Any], path: Path) -> None:
    """Written whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    part.replace(path)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("pgdlab", "torch", "lightning", "diffusers", "torchmetrics", "peft", "numpy", "rdkit", "wandb")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}
