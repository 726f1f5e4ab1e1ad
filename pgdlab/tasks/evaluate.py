"""task=evaluate: a finished run (resume=runs/<name>) on fresh noise, {base, raw, EMA} x {stochastic, ODE}."""

from __future__ import annotations

from pathlib import Path

from pgdlab.config.configuration import Config
from pgdlab.config.runs import write_json
from pgdlab.evaluation.evaluate import headline, shown, timed
from pgdlab.evaluation.pictures import before_after, domain_report
from pgdlab.training.build import build_world, steering
from pgdlab.training.fit import LAST


def main(cfg: Config) -> None:
    """Writes evaluation.json, before_after.png and the domain's own files to the run folder. Raises ValueError without a run."""
    if not cfg.resume:
        raise ValueError("task=evaluate needs a run: python run.py task=evaluate resume=runs/<name>")
    steering(cfg)
    world, folder = build_world(cfg), Path(cfg.resume)
    results, seconds = timed(world, folder / LAST)
    figures = {name: result.figures for name, result in results.items()}
    write_json(headline(results) | {"evaluations": figures, "seconds": seconds}, folder / "evaluation.json")
    before_after(world, results, folder)
    domain_report(world, results, folder)
    for name, row in figures.items():
        reward = f"{shown(row['reward'], 4)} +- {shown(row['reward_stderr'], 4, 1.96)}"
        print(f"{name:>9}  reward {reward}  KL {shown(row['kl_nats'])}")
    print(f"written to {folder / 'evaluation.json'}")
