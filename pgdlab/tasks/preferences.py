"""task=preferences: fits an ensemble of scores to pairs, which reward=preference loads, and judges it on pairs held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pgdlab.config.configuration import Config
from pgdlab.config.runs import run_folder, save_config, short
from pgdlab.domains.base import Domain
from pgdlab.evaluation.pictures import panels
from pgdlab.preferences.gallery import seen
from pgdlab.preferences.pairs import Pairs
from pgdlab.preferences.public import read
from pgdlab.training.reward_model import RewardModel, fit, judged

READS = ("experiment", "domain", "preferences", "runtime", "seed", "name")
INSTEAD = "it learns from pairs alone"


def main(cfg: Config) -> None:
    """Writes preference.safetensors, preference.json (the card: figures) and reliability.png into the run's folder."""
    how, domain = cfg.stated(RewardModel, "preferences"), cfg.make(Domain, "domain")
    pairs = read(how.pairs, how.layout)
    with torch.no_grad():
        x, known = seen(pairs.sources, domain.space.shape, domain.decoder)
    cond = conditions(pairs, domain, how.conditional) if known is None else known
    if (apart := (cond[pairs.rows[:, 0]] != cond[pairs.rows[:, 1]]).nonzero()).numel():
        raise ValueError(
            f"pair {int(apart[0]) + 1} is of samples of different prompts: which is better says nothing of either prompt"
        )
    ensemble, parts = fit(
        pairs, x, cond, how, conditions=domain.conditioning.size, seed=cfg.seed, runtime=cfg.nodes["runtime"]
    )
    figures = judged(ensemble, pairs, x, cond, parts.held_out)
    folder = run_folder(cfg)
    save_config(cfg, folder)
    facts = {
        "kind": domain.decoder.gives, "domain": f"{type(domain).__module__}.{type(domain).__qualname__}",
        "pairs": len(pairs), "samples": len(x), "fitted": len(parts.train), "held_out": figures,
        "left_out": len(pairs) - len(parts.train) - len(parts.held_out),
    }  # fmt: skip
    ensemble.save(folder, facts)
    draw(figures["reliability"], folder / "reliability.png")
    print(told(facts, figures))
    print(
        f"reward=preference reward.folder={short(folder)} steers by it; figures in {short(folder) / 'preference.json'}"
    )


def conditions(pairs: Pairs, domain: Domain, conditional: bool) -> Int[Tensor, " N"]:
    """Of pictures: the condition whose text their prompt is. Raises ValueError where conditions matter and a prompt is none."""
    cond = torch.zeros(len(pairs.sources), dtype=torch.long)
    if conditional:
        for row, prompt in zip(pairs.rows, pairs.prompts, strict=True):
            cond[row] = domain.conditioning.numbers([prompt])[0]
    return cond


def told(facts: dict[str, Any], figures: dict[str, Any]) -> str:
    """The figures in a sentence."""
    best = f" (the best possible is {figures['best_accuracy']:.3f})" if "best_accuracy" in figures else ""
    lost = f"; {facts['left_out']} left out, with a sample on each side" if facts["left_out"] else ""
    return (
        f"{facts['pairs']} pairs of {facts['samples']} samples: {facts['fitted']} fitted, {figures['pairs']} held out{lost}. "
        f"Held out: accuracy {figures['accuracy']:.3f}{best}, log loss {figures['log_loss']:.3f}, ECE {figures['ece']:.3f}, "
        f"disagreement {figures['disagreement']:.2f} nats"
    )


def draw(table: list[dict[str, float]], path: Path) -> None:
    """The accuracy of held-out pairs against the confidence in them: on the diagonal where probabilities are right."""
    with panels(path, 1, (4.0, 3.6)) as (_, (axis,)):
        axis.plot([0.5, 1], [0.5, 1], color="0.7", linewidth=1)
        axis.scatter(
            [r["confidence"] for r in table], [r["accuracy"] for r in table], s=[6 + r["pairs"] for r in table]
        )
        axis.set(xlabel="confidence", ylabel="accuracy of held-out pairs")
