"""task=train: steers the domain's base toward the reward, and shows what changed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.utilities import rank_zero_only

from pgdlab.config.configuration import Config
from pgdlab.config.runs import (  # fmt: skip
    SUMMARY,
    go_on,
    held,
    rows,
    run_folder,
    save_config,
    set_aside,
    versions,
    write_json,
)
from pgdlab.config.signals import Stopped
from pgdlab.evaluation.evaluate import Measured, headline, timed, unseen
from pgdlab.evaluation.pictures import before_after, domain_report, drawn, learning_curve
from pgdlab.evaluation.summary import sentence
from pgdlab.training.build import build_module, device_of
from pgdlab.training.checks import examine, require
from pgdlab.training.divergence import Divergence
from pgdlab.training.findings import table
from pgdlab.training.fit import LAST, asked_for, fit, over, ready, stopped_by
from pgdlab.training.loggers import publish
from pgdlab.training.module import SteeringModule

READS = (
    "experiment", "domain", "policy", "initial", "reward", "heldout", "trainer", "penalty", "plan", "optimizer", "runtime",
    "logger", "budget", "divergence", "seed", "name",
)  # fmt: skip
UNSEEN = "before_after_unseen.png"
RESUMES = ("reward.function", "heldout.function", "plan", "budget", "runtime", "logger")


def main(cfg: Config) -> int:
    """Doctor, training, evaluation, pictures, summary. Exit code 0; 3 where the run diverged or learnt nothing; 128 and the
    number of a signal that stopped it; 1 where all is measured but a picture or a report failed."""
    started, place = time.perf_counter(), Path.cwd()
    module = build_module(cfg)
    done = ready(module, cfg)
    first = getattr(rank_zero_only, "rank", 0) == 0  # the other processes of a run follow the first one
    if first and not cfg.resume:
        findings = examine(module, cfg.nodes["runtime"]["precision"])
        table(findings)
        require(findings)
    folder = run_folder(cfg, place)
    if not first:
        fit(module, cfg, folder, done=done)
        return 0
    with held(folder):
        if 0 < done < module.world.plan.iterations:
            set_aside(folder)
        save_config(cfg, folder)
        trainer = fit(module, cfg, folder, done=done)
        if not over(module, cfg):
            print(f"stopped after iteration {int(module.iterations)}; go on with: {go_on(folder, cfg)}")
            return 128 + stopped_by(trainer)
        try:
            return finish(cfg, module, trainer, folder, started)
        except KeyboardInterrupt as stop:
            raise Stopped.of(stop, f"while it was measured: all is trained; go on with: {go_on(folder, cfg)}") from None
        except ValueError as error:  # of a reward, a disk, a logger
            raise ValueError(f"{error}. All is trained; measure it with: {go_on(folder, cfg)}") from error


def finish(cfg: Config, module: SteeringModule, trainer: lightning.Trainer, folder: Path, started: float) -> int:
    """Measures what was trained. The figures are on the disk before anything is drawn; summary.json comes last: it says that
    the run is finished."""
    world = module.world.to(device_of(cfg.nodes["runtime"]))  # Lightning leaves the policy on the CPU
    measuring = time.perf_counter()
    results, _ = timed(world, folder / LAST)
    new = unseen(world)
    summary = summarise(cfg, module, results) | {
        "samples": asked_for(module, trainer),
        "evaluation_seconds": time.perf_counter() - measuring,
        "seconds": time.perf_counter() - started,
    }
    if new:
        summary["unseen"] = headline(new)
    verdict = cfg.stated(Divergence, "divergence").verdict(rows(folder), summary)
    summary |= verdict.facts
    files, failed = drawn(
        {
            "before_after.png": lambda: [before_after(world, results, folder)],
            UNSEEN: lambda: [before_after(world, new, folder, UNSEEN)] if new else [],
            "learning_curve.png": lambda: [learning_curve(folder)],
            "the domain's report": lambda: domain_report(world, results, folder),
        }
    )
    write_json(summary | ({"failed": failed} if failed else {}), folder / SUMMARY)
    for logger in trainer.loggers:
        publish(logger, files, summary, int(module.iterations))
    print(sentence(summary, folder))
    return 1 if failed else verdict.code


def summarise(cfg: Config, module: SteeringModule, results: dict[str, Measured]) -> dict[str, Any]:
    """summary.json: the headline, what it cost, and every evaluation; names in docs/metrics.md."""
    return headline(results) | {
        "kl_is_bound": module.algorithm.of_samples,
        "reward_queries": int(module.queries),
        "network_evaluations": int(module.evaluations),
        "training_seconds": float(module.seconds),
        "iterations": int(module.iterations),
        "seed": cfg.seed,
        "evaluation_samples": module.world.plan.eval_samples,
        "evaluations": {name: result.figures for name, result in results.items()},
        "versions": versions(),
    }
