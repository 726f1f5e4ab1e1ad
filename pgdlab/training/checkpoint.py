"""What a checkpoint must hold before anything is made of it: numbers only, of this run, of this model, on this base."""

from __future__ import annotations

import json
import pickle
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from pgdlab.config import renamed
from pgdlab.config.compose import RESUMABLE
from pgdlab.config.configuration import Config
from pgdlab.config.runs import CONFIG, LAST, short
from pgdlab.diffusion.digest import digest
from pgdlab.diffusion.policy import Policy, frozen_weights
from pgdlab.training.module import SteeringModule

NOT_OF_THE_RUN = (
    *RESUMABLE,
    "name",
    "resume",
    "sweep",
    "experiment",
    "certificate",
    "compare",
    "engine",
    "guidance",
    "value",
)
COUNTERS = ("iterations", "queries", "evaluations", "seconds")
TRAINING = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "averaging_state", "epoch", "global_step")
LARGEST = 2**53
OTHER_BASE = "{path} was made on another base than the one that is loaded now: put its weights back, or start a new run"


def of_the_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run the one it is, out of its configuration in today's names: all that resuming may not change."""
    return {key: value for key, value in renamed.run(dict(config)).items() if key not in NOT_OF_THE_RUN}


class Origin(Callback):
    """Writes into every checkpoint which run it is of, and on how many samples it was trained."""

    def __init__(self, cfg: Config, samples: int) -> None:
        """samples: of an iteration, from now on."""
        self.run, self.samples = json.dumps(of_the_run(cfg.plain())), samples
        self.before = (0, 0)  # iterations, and samples of all of them

    def on_load_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.before = int(checkpoint["current_model_state"]["iterations"]), asked(checkpoint)

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"run": self.run, "samples": self.asked(pl_module)}

    def asked(self, module: SteeringModule) -> int:
        """Samples that the reward was asked for, those that were asked again counted once."""
        iterations, samples = self.before
        return samples + (int(module.iterations) - iterations) * self.samples


def asked(state: Mapping[str, Any]) -> int:
    """The samples of a checkpoint's run; those of earlier versions have the queries."""
    return int(state.get("samples", state["current_model_state"]["queries"]))


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's contents: numbers, tensors, and text. Nothing in it is executed.

    Raises ValueError where it is missing, truncated, damaged or not a checkpoint of this program.
    """
    require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch does not compare checksums
        if broken:
            raise zipfile.BadZipFile(f"{broken} is damaged")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message tells how to execute it all the same
        raise ValueError(
            f"{short(path)} holds more than numbers: no pgdlab run wrote it, and it was not executed"
        ) from error
    except Exception as error:  # torch raises many kinds for a broken file
        raise ValueError(f"{path} cannot be read ({error}); it is damaged, truncated or not a checkpoint") from error
    parts = [state.get(name) for name in ("current_model_state", "state_dict")] if isinstance(state, dict) else [None]
    if not all(isinstance(part, dict) and part.keys() >= {"iterations", "queries"} for part in parts):
        raise ValueError(f"{path} is not a checkpoint of a pgdlab run")
    require_numbers(state, path)
    return renamed.checkpoint(state)


def require_file(path: Path) -> None:
    """Raises ValueError where there is no file, or something else: a folder, a pipe, a link to itself."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        raise ValueError(
            f"there is no checkpoint at {path}: the run stopped before its first one; start it anew"
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(kind):
        raise ValueError(f"{path} is {'a folder' if stat.S_ISDIR(kind) else 'no file'}; it must be a checkpoint")


def require_numbers(state: dict[str, Any], path: Path) -> None:
    """Raises ValueError for counters that no run has, and for weights that are not finite."""
    for part in ("current_model_state", "state_dict"):
        for name, x in state[part].items():
            if not isinstance(x, Tensor):
                raise ValueError(f"{path} is damaged: {name} is no tensor")
            if name in COUNTERS and not (x.numel() == 1 and 0 <= x.item() < LARGEST):
                raise ValueError(f"{path} is damaged: {name} is {x.tolist()}; it must be from 0 to {LARGEST}")
            if x.is_floating_point() and not bool(x.isfinite().all()):
                raise ValueError(
                    f"{path} holds weights that are not finite ({name}): the run diverged, or the file is damaged. It "
                    "cannot be used; start anew"
                )


def require_whole(state: dict[str, Any], path: Path) -> None:
    """Raises ValueError where a checkpoint lacks what training goes on from."""
    missing = [name for name in TRAINING if name not in state]
    if missing:
        raise ValueError(
            f"{path} has no {missing[0]}: training cannot go on from it. task=evaluate, sample and export need only weights"
        )


def require_fit(model: nn.Module, saved: dict[str, Tensor], path: Path) -> None:
    """Raises ValueError where the saved weights are not those of this model, by name or shape. Frozen weights, which checkpoints
    of earlier versions hold too, must be the model's own."""
    own, frozen = model.state_dict(), frozen_weights(model)
    wrong = sorted(own.keys() ^ (saved.keys() - frozen.keys()))
    wrong += [n for n in own.keys() & saved.keys() if own[n].shape != saved[n].shape]
    if wrong:
        raise ValueError(
            f"{path} holds another model than this config's: {len(wrong)} weights differ in name or shape, such as {wrong[0]}"
        )
    for name in frozen.keys() & saved.keys():
        if not torch.equal(saved[name], frozen[name].cpu()):
            raise ValueError(OTHER_BASE.format(path=path))


def require_base(reference: Policy, state: dict[str, Any], path: Path) -> None:
    """Raises ValueError where a checkpoint's run had another reference: its KL and its gain would be to two bases."""
    if not any(state.get("base") == digest(reference, adapted) for adapted in (True, False)):
        raise ValueError(OTHER_BASE.format(path=path))


def require_own(state: dict[str, Any], folder: Path) -> None:
    """Raises ValueError where the checkpoint in a run folder is another run's than config.yaml beside it. Keys that only one of
    them has are of another version; checkpoints of earlier versions do not say."""
    if "run" not in state:
        return
    try:
        theirs = renamed.run(json.loads(state["run"]))
        own = of_the_run(yaml.safe_load((folder / CONFIG).read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{short(folder / LAST)} does not say whose it is: {error}") from error
    for key, here, there in differences("", own, theirs):
        raise ValueError(
            f"{short(folder / LAST)} is the checkpoint of another run than {CONFIG} beside it: {key} is {there!r} there, and "
            f"{here!r} here"
        )


def differences(key: str, own: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """(key, own, other) of what both state differently. Where files lie may change: what is in them is compared elsewhere."""
    if isinstance(own, dict) and isinstance(other, dict):
        for name in sorted(own.keys() & other.keys()):
            yield from differences(f"{key}.{name}" if key else name, own[name], other[name])
    elif isinstance(own, list) and isinstance(other, list) and len(own) == len(other):
        for i, (a, b) in enumerate(zip(own, other, strict=True)):
            yield from differences(f"{key}[{i}]", a, b)
    elif own != other and not all(isinstance(value, str) and "/" in value for value in (own, other)):
        yield key, own, other
