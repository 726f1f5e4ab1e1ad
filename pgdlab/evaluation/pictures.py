"""Pictures of a run: samples before and after with the same noise, the learning curve, and how rewards are spread."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pgdlab.config.runs import rows
from pgdlab.evaluation.evaluate import Measured, shown
from pgdlab.rollout.trajectory import Samples
from pgdlab.world import World

SHOWN = 40  # samples a grid
BARS = 30  # of a histogram


def drawn(drawings: Mapping[str, Callable[[], list[Path]]]) -> tuple[list[Path], list[str]]:
    """The files of drawings, and what failed, which is said: a picture must not cost the figures of a run."""
    files, failed = [], []
    for name, draw in drawings.items():
        try:
            files += draw()
        except Exception as error:  # of a domain's own code as well
            failed.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}")
            print(f"error: {failed[-1]}; the figures are kept", file=sys.stderr)
    return files, failed


def before_after(world: World, results: dict[str, Measured], folder: Path, name: str = "before_after.png") -> Path:
    """before_after.png: the same noise through the base and through the tuned policy (averaged weights)."""
    kind = "sde" if "base/sde" in results else "ode"
    samples, cond = {}, results[f"base/{kind}"].trajectory.cond[:SHOWN]
    for title, which in (("before", "base"), ("after", "ema")):
        result = results[f"{which}/{kind}"]
        samples[f"{title}: reward {shown(result.figures['reward'])}"] = result.trajectory.sample[:SHOWN]
    world.domain.show(samples, folder / name, cond)
    return folder / name


def domain_report(world: World, results: dict[str, Measured], folder: Path) -> list[Path]:
    """The domain's own files of the base and of the tuned policy (averaged weights), or its environment's."""
    kind = "sde" if "base/sde" in results else "ode"
    chosen = {title: results[f"{name}/{kind}"] for title, name in (("base", "base"), ("tuned", "ema"))}
    if world.environment is not None:
        ways = {title: result.episodes.ways() for title, result in chosen.items() if result.episodes is not None}
        return world.environment.report(ways, folder)
    groups = {
        title: Samples(r.trajectory.sample, r.trajectory.cond, r.reward.where(r.measured, torch.nan))
        for title, r in chosen.items()
    }
    return world.domain.report(groups, folder)


def rewards(results: Mapping[str, Measured], folder: Path) -> Path:
    """rewards.png: how many samples of the base, and of what came of it, have which reward."""
    found = {name.partition("/")[0]: result.reward[result.measured].double().cpu() for name, result in results.items()}
    every = torch.cat([*found.values()])
    low, high = every.min().item(), every.max().item()
    edges = torch.linspace(low, high if high > low else low + 1, BARS + 1).tolist()
    with panels(folder / "rewards.png", 1, (5.0, 3.5)) as (_, (axis,)):
        for title, name in (("before", "base"), ("after", "ema")):
            value = found[name].tolist()
            axis.hist(value, edges, label=title, histtype="stepfilled", alpha=0.5)
        axis.set(xlabel="reward", ylabel="samples")
        axis.legend(frameon=False)
    return folder / "rewards.png"


def learning_curve(folder: Path) -> Path:
    """learning_curve.png: reward (and held-out reward) and KL against reward queries, from metrics.csv; of an environment return,
    success and KL against its steps; where none was asked the loss against iterations."""
    if not any("reward" in row for row in rows(folder)):
        return curves(folder, "iteration", "iterations", {"loss": ["train/loss"]})
    nats = {"nats from the base": ["path_kl_nats", "initial_kl_nats"]}
    if any("return" in row for row in rows(folder)):
        return curves(folder, "queries", "environment steps", {"return": ["return"], "success": ["success"]} | nats)
    return curves(folder, "queries", "reward queries", {"reward": ["reward", "heldout"]} | nats)


def pretraining_curve(folder: Path) -> Path:
    """learning_curve.png: the loss, and the metrics of samples drawn on the way, against seconds, from metrics.csv."""
    titles = {
        "loss": ["train/denoising_loss", "probe/denoising_loss"], "share of the samples": ["probe/valid", "probe/vun"],
        "KID": ["probe/kid", "probe/kid_random"],
    }  # fmt: skip
    return curves(folder, "seconds", "seconds of training", titles)


def curves(folder: Path, key: str, label: str, titles: dict[str, list[str]]) -> Path:
    """A panel for every title of which a column is known."""
    course = rows(folder)
    known = {t: [n for n in names if any(n in r for r in course)] for t, names in titles.items()}
    known = {title: names for title, names in known.items() if names}
    with panels(folder / "learning_curve.png", len(known), (5.0 * len(known), 3.5)) as (_, axes):
        for axis, (title, names) in zip(axes, known.items(), strict=True):
            for name in names:
                points = [(r[key], r[name]) for r in course if name in r]
                dot = "o" if len(points) < 20 else None  # a line through one point cannot be seen
                short = name.split("/")[-1]
                alone = sum(other.endswith(f"/{short}") for other in names) < 2
                axis.plot(*zip(*points, strict=True), label=short if alone else name, marker=dot)
            axis.set(xlabel=label, ylabel=title)
            axis.legend(frameon=False)
    return folder / "learning_curve.png"


@contextmanager
def panels(path: Path, count: int, size: tuple[float, float], dpi: int = 120, **how: Any) -> Iterator[Any]:
    """A matplotlib figure and its axes, side by side; the drawing is written to the path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=size, squeeze=False, layout="constrained", **how)
    yield figure, list(axes[0])
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=dpi)
    plt.close(figure)
