"""Small worlds for the tests of whole runs: a random base of some thousand weights on the real digits, tiny plans."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from pgdlab.config.compose import compose, instantiate
from pgdlab.config.tasks import require_read
from pgdlab.domains.image import SCHEDULER
from pgdlab.processes import whole
from pgdlab.rewards.base import Reward, Score
from pgdlab.training.build import build_world
from pgdlab.training.fit import fit
from pgdlab.training.module import SteeringModule

_FOLDERS = tempfile.TemporaryDirectory(prefix="pgdlab-bases-")

TINY = [
    "policy.steps=4", "plan.samples=8", "plan.group=4", "plan.iterations=2", "plan.eval_samples=4",
    "plan.checkpoint_every=1",
]  # fmt: skip
QUICK = "experiment=digits/quickstart"
BRIGHT = "reward={_target_: tests.worlds.Bright}"


@functools.cache
def base(size: int = 8, dropout: float = 0.0) -> Path:
    """A folder with a random base of a domain of size x size images."""
    from diffusers import DDPMScheduler, UNet2DModel

    folder = Path(_FOLDERS.name) / f"{size}-{dropout}"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet2DModel(
            sample_size=size, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
            block_out_channels=(4, 8), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
            num_class_embeds=11, attention_head_dim=4, dropout=dropout,
        )  # fmt: skip
    network.save_pretrained(folder / "unet")
    DDPMScheduler.from_config(SCHEDULER).save_pretrained(folder / "scheduler")
    return folder


@functools.cache
def graphs() -> tuple[str, ...]:
    """What puts a run on molecules: a small random base, of graphs of one atom (all valid) and of four."""
    from pgdlab.domains.qm9 import QM9

    folder = Path(_FOLDERS.name) / "graphs"
    QM9(width=8, pair_width=4, heads=2, layers=1).fresh(torch.Generator().manual_seed(0)).save(folder)
    return ("domain=qm9", f"domain.weights={folder}", "domain.train_conditions=[1,4]", "heldout=sensible")


class Bright(Reward):
    """Mean grey level; parts keep the darkest pixel."""

    differentiable = True

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(sample.flatten(1).mean(1), darkest=sample.flatten(1).amin(1))


class Patchy(Reward):
    """Mean grey level, which cannot be measured (NaN) where the first pixel is brighter than `limit`."""

    differentiable = True

    def __init__(self, *, limit: float = 0.8) -> None:
        super().__init__()
        self.limit = limit

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(sample.flatten(1).mean(1).masked_fill(sample[:, 0, 0, 0] > self.limit, torch.nan))


class OneClass(Reward):
    """Mean grey level, which cannot be measured (NaN) for any class but one."""

    differentiable = True

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of(sample.flatten(1).mean(1).masked_fill(cond != 0, torch.nan))


class Hanging(Bright):
    """Bright, but as slow as a server that does not answer, as long as there is a file `hang` in the working directory; another
    file says which process waits."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        late, waits = time.monotonic() + 300, Path(f"waits-{os.getpid()}")
        while Path("hang").exists() and time.monotonic() < late:
            waits.touch()
            time.sleep(0.05)
        waits.unlink(missing_ok=True)
        return super().score(sample, cond)


class Broken(Reward):
    """Raises for every sample."""

    def score(self, sample: Any, cond: Tensor) -> Score:
        raise KeyError("scorer went away")


EXACT = ("experiment=oracle/", "experiment=control/")  # what needs no base of images
POINTS = ("experiment=null", "heldout=null", "domain=gaussian", "reward=quadratic", "policy=affine")


def tiny(*overrides: str) -> list[str]:
    """The command line of a tiny run; later overrides win."""
    exact = any(
        o.startswith(("domain=gaussian", "domain=mixture", "domain=finite_set", "domain=lqr", *EXACT))
        for o in overrides
    )
    new = not any(o.startswith(("experiment=", "resume=")) for o in overrides)
    sizes = [*([QUICK] if new else []), *([] if exact else [f"domain.weights={base()}"]), *TINY]
    last = {word.partition("=")[0]: word for word in overrides}
    return [*usual(overrides, sizes), *last.values()]


def usual(overrides: Sequence[str], sizes: Iterable[str]) -> list[str]:
    """Those of the sizes that the task reads and that no override gives: a key is given once."""
    given = {word.partition("=")[0]: word.partition("=")[2] for word in overrides}
    task = given.get("task", "pretrain" if given.get("experiment", "").startswith("pretrain/") else "train")
    return [size for size in sizes if size.partition("=")[0] not in given and read_by(task, size)]


def read_by(task: str, override: str) -> bool:
    """Whether a new run of the task takes an override."""
    try:
        require_read(task, [(override.partition("=")[0], None)], resumed=False)
    except ValueError:
        return False
    return not override.startswith("plan.group=") or task not in ("best_of_n", "steer")


class Recorder(SteeringModule):
    """Keeps the gradient before clipping and the weights after it, of every update."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.gradients: list[dict[str, Tensor]] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        trained = ((n, p) for n, p in self.policy.named_parameters() if p.requires_grad)
        self.gradients.append({n: whole(p.grad).clone() for n, p in trained if p.grad is not None})
        super().on_before_optimizer_step(optimizer)

    def on_train_batch_end(self, *given: Any) -> None:
        super().on_train_batch_end(*given)
        self.weights.append({n: whole(p.detach()).clone() for n, p in self.policy.named_parameters()})


def recorder(*overrides: str, double: bool = False, nudge: float = 0.0) -> tuple[Recorder, Any]:
    """A module and its config; nudge: how far the trained weights are moved off the reference first."""
    cfg = compose(tiny(*overrides))
    module = Recorder(build_world(cfg), instantiate(cfg.nodes["trainer"]), instantiate(cfg.nodes["optimizer"]))
    if double:
        module.double()
        module.world.reference.double()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.policy.parameters():
            if p.requires_grad and nudge:
                p += nudge * torch.randn(p.shape, generator=g).to(p)
    return module, cfg


def fitted(
    folder: Path, *overrides: str, double: bool = False, nudge: float = 0.0, more: Sequence[Callback] = ()
) -> Recorder:
    """A recorder after its run in folder. more: callbacks."""
    module, cfg = recorder(*overrides, double=double, nudge=nudge)
    fit(module, cfg, folder, more)
    return module


def continued(folder: Path, done: int, *overrides: str) -> Recorder:
    """A recorder in fp64 after the rest of the run in folder, of which so many iterations are done."""
    module, cfg = recorder(*overrides, double=True)
    fit(module, cfg, folder, done=done)
    return module


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """||a - b|| / ||b|| over all tensors of two states with the same names."""
    assert a.keys() == b.keys()
    off, size = (
        torch.stack([x.double().norm() for x in some]).norm() for some in ([a[k] - b[k] for k in b], b.values())
    )
    return float(off / size)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bitwise."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)
