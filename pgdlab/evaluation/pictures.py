"""Pictures of a run: samples before and after with the same noise, and the learning curve."""

from __future__ import annotations

from pathlib import Path

import torch

from pgdlab.config.runs import rows
from pgdlab.evaluation.evaluate import Measured, shown
from pgdlab.rollout.trajectory import Samples
from pgdlab.world import World

SHOWN = 40  # samples a grid


def before_after(world: World, results: dict[str, Measured], folder: Path) -> Path:
    """before_after.png: the same noise through the base and through the tuned policy (averaged weights)."""
    kind = "sde" if "base/sde" in results else "ode"
    samples = {}
    for title, name in (("before", "base"), ("after", "ema")):
        result = results[f"{name}/{kind}"]
        samples[f"{title}: reward {shown(result.figures['reward'])}"] = result.trajectory.sample[:SHOWN]
    world.domain.show(samples, folder / "before_after.png")
    return folder / "before_after.png"


def domain_report(world: World, results: dict[str, Measured], folder: Path) -> list[Path]:
    """The domain's own files of the base and of the tuned policy (averaged weights)."""
    kind, groups = "sde" if "base/sde" in results else "ode", {}
    for title, name in (("base", "base"), ("tuned", "ema")):
        result = results[f"{name}/{kind}"]
        reward = result.reward.where(result.measured, torch.nan)
        groups[title] = Samples(result.trajectory.sample, result.trajectory.cond, reward)
    return world.domain.report(groups, folder)


def learning_curve(folder: Path) -> Path:
    """learning_curve.png: reward (and held-out reward) and KL against reward queries, from metrics.csv."""
    panels = {"reward": ["reward", "heldout"], "nats from the base": ["path_kl_nats", "initial_kl_nats"]}
    return curves(folder, "queries", "reward queries", panels)


def pretraining_curve(folder: Path) -> Path:
    """learning_curve.png: the loss, and what the samples of its course were like, against seconds, from metrics.csv."""
    panels = {
        "loss": ["train/denoising_loss"],
        "share of the samples": ["probe/valid", "probe/vun"],
        "KID": ["probe/kid"],
    }
    return curves(folder, "seconds", "seconds of training", panels)


def curves(folder: Path, key: str, label: str, panels: dict[str, list[str]]) -> Path:
    """A panel for every title of which a column is known."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    course = rows(folder)
    panels = {t: [n for n in names if any(n in r for r in course)] for t, names in panels.items()}
    panels = {title: names for title, names in panels.items() if names}
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.5), squeeze=False, layout="constrained")
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        for name in names:
            known = [r for r in course if name in r]
            dot = "o" if len(known) < 20 else None  # a line through one point cannot be seen
            x, y = ([r[column] for r in known] for column in (key, name))
            axis.plot(x, y, label=name.split("/")[-1], marker=dot)
        axis.set(xlabel=label, ylabel=title)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "learning_curve.png", dpi=120)
    plt.close(figure)
    return folder / "learning_curve.png"
