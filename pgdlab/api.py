"""The Python API: train, load, compare. Mistakes are ValueErrors, most of them ConfigErrors; nothing ends the program."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgdlab.cli import check_run, configuration
from pgdlab.config import trust
from pgdlab.config.compose import draft
from pgdlab.config.configuration import Config
from pgdlab.config.functions import DIFFERS
from pgdlab.config.groups import parse_one
from pgdlab.config.schema import ConfigError
from pgdlab.config.targets import as_yaml
from pgdlab.config.tasks import changed, require_read
from pgdlab.guest import CHOICE, guest
from pgdlab.results import Handed, Page, Run
from pgdlab.rewards.function import Images, as_reward, record, require_images
from pgdlab.trainers.base import Algorithm
from pgdlab.training.fit import make_trainer

TRAINING = ("train", "pretrain", "best_of_n", "steer")


def train(
    experiment: str | None = None,
    *,
    reward: Any = None,
    heldout: Any = None,
    trainer: Any = None,
    images: Images = "tensor",
    overrides: Sequence[str] = (),
    resume: str | Path | None = None,
) -> Run:
    """Trains, as `pgdlab experiment=NAME OVERRIDES...` does, in a new folder under runs/, and returns the run.

    experiment: a name of configs/experiment, the quickstart by default. overrides: as on the command line, `key=value`.
    reward, heldout: a function (samples, prompts) -> scores, a torchmetrics.Metric, or a Reward, see pgdlab.rewards.function;
    images: "pil" for functions of PIL images. With a reward and without a heldout there is no held-out reward. trainer: an
    Algorithm. resume: the folder of a run to go on with, whose functions are given again.

    The first Ctrl-C ends the run after its iteration, with a checkpoint, and returns it unfinished; the second raises
    KeyboardInterrupt. Raises ValueError for whatever the command line would refuse; one process only.
    """
    handed = given(reward, heldout, trainer, images)
    cfg = resumed(handed, resume, experiment, overrides) if resume else begun(handed, experiment, overrides)
    if cfg.task not in TRAINING:
        raise ConfigError(f"task is {cfg.task!r}; pgdlab.train does {', '.join(TRAINING)}")
    with guest():
        if make_trainer(cfg.nodes["runtime"], logger=False).world_size > 1:
            raise ConfigError("the Python API trains in one process: start several from the command line")
        try:
            importlib.import_module(f"pgdlab.tasks.{cfg.task}").main(cfg)
        except SystemExit as end:
            raise RuntimeError(f"something in the run asked to end the program: sys.exit({end.code!r})") from end
        goes_on = cfg.resume if cfg.task in ("train", "pretrain") else None
        return Run(Path(goes_on or os.environ[CHOICE]).resolve(), handed)


def load(
    folder: str | Path, *, reward: Any = None, heldout: Any = None, trainer: Any = None, images: Images = "tensor"
) -> Run:
    """The run in a folder. A reward function or a trainer that a program handed over is not in there: evaluate() needs it
    given again, sample() and export() do without the reward. Raises ConfigError where the folder holds no run."""
    handed, path = given(reward, heldout, trainer, images), Path(folder).expanduser()
    handed.saved(path, ["task=sample"])  # with the path that was given, for the message
    return Run(path.resolve(), handed)


def compare(folders: str | Path | Sequence[str | Path], *, name: str | None = None, **options: Any) -> Page:
    """Compares run folders (patterns are allowed) as `task=compare` does, in runs/compare or runs/compare-<name>.

    options: those of pgdlab.comparison.comparison.Comparison. Raises ValueError where there is nothing to compare.
    """
    from pgdlab.comparison.comparison import Comparison
    from pgdlab.tasks.compare import main

    one = isinstance(folders, (str, Path))
    listed = [str(folders)] if one else [str(folder) for folder in folders]  # type: ignore[union-attr]
    known = {f.name for f in dataclasses.fields(Comparison)} - {"folders", "name"}
    if options.keys() - known:
        raise ConfigError(f"compare takes {', '.join(sorted(known))}, not {', '.join(sorted(options.keys() - known))}")
    cfg = configuration(["task=compare", "compare=runs"])
    node = {**cfg.nodes["compare"], **as_yaml(options), "folders": listed, "name": name}
    with guest():
        main(replace(cfg.with_nodes(compare=node), command=f"pgdlab.compare({listed!r})"))
        return Page.of(Path(os.environ[CHOICE]).resolve())


def given(reward: Any, heldout: Any, trainer: Any, images: Images) -> Handed:
    """What a program handed over. Raises ValueError for what cannot be a reward or a trainer, and for images of no function."""
    rewards = {"reward": reward, "heldout": heldout}
    require_images(images)
    if images != "tensor" and reward is None and heldout is None:
        raise ConfigError(f"images is {images!r}, but no function is given: it says what reward and heldout are shown")
    objects: dict[str, Any] = {slot: as_reward(x, images) for slot, x in rewards.items() if x is not None}
    nodes: dict[str, Any] = {slot: record(x) for slot, x in objects.items()}
    if trainer is not None:
        if not isinstance(trainer, Algorithm) or not dataclasses.is_dataclass(trainer):
            raise ConfigError(f"trainer is {trainer!r}; it must be an Algorithm, a dataclass such as PPO(clip=0.3)")
        trust.allow(type(trainer).__module__)  # in this process, whose user handed it over
        objects["trainer"], nodes["trainer"] = trainer, as_yaml(trainer)
    return Handed(objects, nodes)


def begun(handed: Handed, experiment: str | None, overrides: Sequence[str]) -> Config:
    """The configuration of a new run. Raises ConfigError where an override contradicts what was handed over, or the task has
    no use for it."""
    words = [*([] if experiment is None else [f"experiment={experiment}"]), *overrides]
    keys = top(overrides)
    for slot in handed.objects:
        if slot in keys:
            raise ConfigError(f"{slot} is given twice: as an object and in the overrides")
    drafted = draft(words)  # what the task is
    require_read(drafted.task, [(slot, None) for slot in handed.objects], resumed=False)
    judge = "heldout" in handed.objects
    if judge:  # the experiment's, or the one that goes with a reward, is then not there to be announced or checked
        words.append("heldout=null")
    cfg = handed.on(configuration(words))
    if judge and "reward" in keys:
        print(f"held-out reward: {handed.nodes['heldout']['recorded']}, which was handed over", file=sys.stderr)
    if "reward" in handed.objects and "heldout" not in {*handed.objects, *keys}:
        cfg = cfg.with_nodes(heldout=None)  # the experiment's judges another reward
    return replace(cfg, command=typed(experiment, handed, overrides))


def resumed(handed: Handed, folder: str | Path, experiment: str | None, overrides: Sequence[str]) -> Config:
    """The configuration of a run that goes on. Raises ConfigError where it would be another run."""
    if experiment is not None:
        raise ConfigError("resume names a run, which has its experiment: give one of the two")
    path = Path(folder).expanduser()
    for slot, was in handed.before(path).items():
        require_same(slot, handed, was or {}, path)
    top(overrides)
    cfg = handed.saved(path, overrides, called="resume")
    require_read(cfg.task, [(slot, None) for slot in handed.objects], resumed=False)
    check_run(cfg)
    trust.require_addresses(cfg.nodes, path)
    return cfg


def require_same(slot: str, handed: Handed, was: dict[str, Any], path: Path) -> None:
    """Raises ConfigError where an object is not what a run began with, as far as its folder tells: an older folder has the
    names of functions alone, and lacks settings that have come to be since."""
    now = dict(handed.nodes[slot])
    if slot == "trainer":
        differ = {key: value for key, value in changed(now, was).items() if known(was, key)}
        said = ", ".join(f"{slot}.{key} would be {value!r}" for key, value in differ.items())
        if differ:
            raise ConfigError(f"the trainer of {path} is not this one: {said}. It cannot change when a run resumes")
        return
    if str(was.get("recorded")).split(" ")[0] != str(now["recorded"]).split(" ")[0]:
        raise ConfigError(f"the {slot} of {path} is not {now['recorded']}: it cannot change when a run resumes")
    if was.get("digest") and now["digest"] and was["digest"] != now["digest"]:
        raise ConfigError(f"{slot} is {now['recorded']}, but {DIFFERS}")
    if was.get("images", now["images"]) != now["images"]:
        raise ConfigError(f"images is {now['images']!r}, but the {slot} of {path} began with images={was['images']!r}")


def known(node: Any, key: str) -> bool:
    """Whether a node has a full key."""
    first, _, rest = key.partition(".")
    return isinstance(node, dict) and first in node and (not rest or known(node[first], rest))


def top(overrides: Sequence[str]) -> set[str]:
    """The slots and settings that overrides are about. Raises ConfigError for `resume`, whose checks they would pass by."""
    keys = {parse_one(word)[0].split(".")[0].rpartition("@")[2] for word in overrides}
    if "resume" in keys:
        raise ConfigError("resume is an argument here: pgdlab.train(resume=FOLDER), and not in the overrides")
    return keys


def typed(experiment: str | None, handed: Handed, overrides: Sequence[str]) -> str:
    """The call that began a run, as a reader would repeat it."""
    words = [repr(experiment)] if experiment is not None else []
    names = {slot: str(node.get("recorded") or node["_target_"]) for slot, node in handed.nodes.items()}
    words += [f"{slot}=<{name}>" for slot, name in names.items()]
    words += [f"overrides={list(overrides)!r}"] if overrides else []
    return f"pgdlab.train({', '.join(words)})"
