"""What comes after training, tried on a few samples before it: figures, pictures, files. A fault there would cost the run."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from pgdlab.diffusion.files import write_base
from pgdlab.rollout.trajectory import Samples, Trajectory
from pgdlab.world import World

LARGEST = 50_000_000  # weights that are written for a try: more would fill the temporary folder

Verdict = Literal["ok", "warning", "failed"]


class Tried(NamedTuple):
    """How a part went, and what to say of it."""

    verdict: Verdict
    message: str


@torch.no_grad()
def rehearse(world: World, trajectory: Trajectory) -> Tried:
    """metrics, show, report and export of the domain, into a temporary folder. The first fault decides."""
    with tempfile.TemporaryDirectory(prefix="pgdlab-doctor-") as folder:
        parts = list(tries(world, trajectory, Path(folder)))
    faults = [part for part in parts if part.verdict == "failed"] or [part for part in parts if part.verdict != "ok"]
    return faults[0] if faults else Tried("ok", ", ".join(part.message for part in parts))


def tries(world: World, trajectory: Trajectory, folder: Path) -> Iterator[Tried]:
    """Each part for itself."""
    domain, sample, cond = world.domain, trajectory.sample, trajectory.cond
    groups = {"base": Samples(sample, cond), "tuned": Samples(sample, cond, torch.zeros(len(cond)))}
    picture, known = folder / "before_after.png", tried("metrics", lambda: domain.metrics(sample, cond))
    yield known if isinstance(known, Tried) else finite(known)
    shown = tried("show", lambda: domain.show({"before": sample, "after": sample}, picture))
    yield shown if isinstance(shown, Tried) else Tried("ok", "a picture")
    told = tried("report", lambda: domain.report(groups, folder))
    yield told if isinstance(told, Tried) else written(told)
    yield exported(world, folder)


def tried(name: str, call: Callable[[], Any]) -> Any:
    """What a call gives, or how it failed: the domain may be anybody's, so its faults may be of any kind."""
    try:
        return call()
    except ValueError as error:  # it says itself what to do
        return Tried("failed", f"the domain's {name}: {error}")
    except Exception as error:
        return Tried("failed", f"the domain's {name} raised {type(error).__name__}: {str(error)[:300]}")


def finite(figures: dict[str, Any]) -> Tried:
    """Numbers by name; of a few samples a figure may not be known."""
    bad = [k for k, v in figures.items() if not isinstance(v, (int, float))]
    if bad:
        return Tried(
            "failed", f"the domain's metrics give {bad[0]} as a {type(figures[bad[0]]).__name__}, not a number"
        )
    odd = [name for name, value in figures.items() if not math.isfinite(value)]
    if odd:
        return Tried("warning", f"not finite of so few samples: {', '.join(odd[:5])}")
    return Tried("ok", f"{len(figures)} figures")


def written(files: list[Path]) -> Tried:
    """Files that are there."""
    gone = [file.name for file in files if not file.is_file()]
    return Tried("failed", f"the domain's report names {gone[0]}, which it did not write") if gone else Tried(
        "ok", f"{len(files)} files"
    )  # fmt: skip


def exported(world: World, folder: Path) -> Tried:
    """An export can be made later too, so a fault in it stops no run."""
    size = sum(p.numel() for p in world.policy.denoiser.parameters())
    if size > LARGEST:
        return Tried("ok", f"an export of {size:,} weights was not tried")
    try:
        write_base(world.policy.denoiser, folder / "run" / "export", {"note": "a try"})
    except ValueError as error:
        return Tried("ok", f"no export: {error}")
    except Exception as error:
        return Tried("warning", f"the export raised {type(error).__name__}: {str(error)[:300]}")
    return Tried("ok", "an export")
