"""task=train: steers the domain's base toward the reward, and shows what changed."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from pgdlab.config.configuration import Config
from pgdlab.config.runs import SUMMARY, run_folder, save_config, versions, write_json
from pgdlab.evaluation.evaluate import Measured, headline, timed
from pgdlab.evaluation.pictures import before_after, domain_report, learning_curve
from pgdlab.evaluation.summary import sentence
from pgdlab.training.build import build_module, device_of
from pgdlab.training.checks import examine, require
from pgdlab.training.findings import table
from pgdlab.training.fit import LAST, fit, over, ready
from pgdlab.training.loggers import publish
from pgdlab.training.module import SteeringModule


def main(cfg: Config) -> None:
    """Doctor, training, evaluation, pictures, summary."""
    started = time.perf_counter()
    module = build_module(cfg)
    done = ready(module, cfg)
    first = getattr(rank_zero_only, "rank", 0) == 0  # the other processes of a run follow the first one
    if first and not cfg.resume:
        findings = examine(module, cfg.nodes["runtime"]["precision"])
        table(findings)
        require(findings)
    folder = run_folder(cfg)
    if first:
        save_config(cfg, folder)
    trainer = fit(module, cfg, folder, done=done)
    if not trainer.is_global_zero:
        return
    if not over(module, cfg):
        print(f"stopped after iteration {int(module.iterations)}; go on with: python run.py resume={folder}")
        return
    world = module.world.to(device_of(cfg.nodes["runtime"]))  # Lightning leaves the policy on the CPU
    results, seconds = timed(world, folder / LAST)
    summary = summarise(cfg, module, results) | {
        "evaluation_seconds": seconds,
        "seconds": time.perf_counter() - started,
    }
    files = [before_after(world, results, folder), learning_curve(folder), *domain_report(world, results, folder)]
    write_json(summary, folder / SUMMARY)  # last: it says that the run is finished
    for logger in trainer.loggers:
        publish(logger, files, summary, int(module.iterations))
    print(sentence(summary, folder))


def summarise(cfg: Config, module: SteeringModule, results: dict[str, Measured]) -> dict[str, Any]:
    """summary.json: the headline, what it cost, and every evaluation; names in docs/metrics.md."""
    return headline(results) | {
        "reward_queries": int(module.queries),
        "network_evaluations": int(module.evaluations),
        "training_seconds": float(module.seconds),
        "iterations": int(module.iterations),
        "seed": cfg.seed,
        "evaluation_samples": module.world.plan.eval_samples,
        "evaluations": {name: result.figures for name, result in results.items()},
        "versions": versions(),
    }
