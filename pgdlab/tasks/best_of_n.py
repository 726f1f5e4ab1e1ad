"""task=best_of_n: steers without training: as many samples of the base as the run would train on, the best are kept."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from pgdlab.config.configuration import Config
from pgdlab.config.functions import edited_since
from pgdlab.config.runs import SUMMARY, run_folder, save_config, versions, write_json
from pgdlab.evaluation.evaluate import Measured, headline, judge, measure
from pgdlab.evaluation.pictures import before_after, domain_report, drawn, learning_curve
from pgdlab.evaluation.summary import sentence
from pgdlab.guidance.best_of_n import Best, best_of_n, kl_bound
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.trainers.interaction import in_turn
from pgdlab.training.budget import Budget
from pgdlab.training.build import build_world, loggers_of, require_loggers
from pgdlab.training.loggers import publish, record
from pgdlab.training.progress import Working
from pgdlab.world import World

READS = (
    "experiment", "domain", "policy.kernel", "policy.steps", "policy.guidance", "reward", "heldout", "plan.iterations",
    "plan.samples", "plan.eval_samples", "plan.rollout_batch", "plan.max_failed", "budget", "runtime", "logger", "seed", "name",
)  # fmt: skip
RESUMES = READS
INSTEAD = "best-of-n trains nothing"


def main(cfg: Config) -> int:
    """Of the run that the config describes, or of a run that there is (resume=runs/<name>): its base, reward and plan. Exit code
    1 where all is measured but a picture or a report failed."""
    started = time.perf_counter()
    edited, cfg = edited_since(cfg), replace(cfg, resume=None)
    if not cfg.nodes["reward"]:
        raise ValueError("best-of-n needs a reward to choose by, and a pretraining asked none: give reward=NAME")
    world = build_world(cfg)
    require_budget(cfg.stated(Budget, "budget"), world.plan.eval_samples)
    require_loggers(cfg)
    folder = run_folder(cfg)
    save_config(cfg, folder)
    loggers = loggers_of(cfg, folder, [])
    best, seconds, costs = search(world, loggers)
    with torch.no_grad(), Working() as working:
        working.say(f"evaluating base and best: {world.plan.eval_samples:,} samples")
        before, after = measure(world, world.reference), judge(world, best.trajectory, None)
    kind = "sde" if world.policy.stochastic_steps else "ode"
    results = {f"base/{kind}": before, f"ema/{kind}": after}  # as of a run that trains: before and after
    whole = {"evaluations": {f"base/{kind}": before.figures, f"best/{kind}": after.figures}, "versions": versions()}
    whole |= {"training_seconds": seconds, "seconds": time.perf_counter() - started}
    summary = summarise(cfg, world, results) | costs | whole | edited
    files, failed = drawn(
        {
            "before_after.png": lambda: [before_after(world, results, folder)],
            "learning_curve.png": lambda: [learning_curve(folder)],
            "the domain's report": lambda: domain_report(world, results, folder),
        }
    )
    write_json(
        summary | ({"failed": failed} if failed else {}), folder / SUMMARY
    )  # last: it says that the run is finished
    for logger in loggers:
        publish(logger, files, summary, summary["iterations"])
    print(sentence(summary, folder))
    return 1 if failed else 0


def require_budget(budget: Budget, slots: int) -> None:
    """Raises ValueError for a budget that best-of-n cannot keep to."""
    if budget.evaluations or budget.seconds:
        raise ValueError("the budget of best-of-n is reward queries: budget.queries, or plan.iterations x plan.samples")
    if (budget.queries or slots) < slots:
        raise ValueError(
            f"budget.queries is {budget.queries}; it must be at least plan.eval_samples, {slots}: a candidate for each"
        )


def search(world: World, loggers: list[Any]) -> tuple[Best, float, dict[str, int]]:
    """The best candidates, the seconds that they took, and their costs; a row of metrics.csv after each round."""
    plan, started = world.plan, time.perf_counter()
    cond = in_turn(world.domain.train_conditions, plan.eval_samples)
    before = world.reward.unique_queries()
    noise, costs = Noise(world.noise.seed, Stream.EVALUATE), {}
    candidates = plan.iterations * plan.samples
    working = Working()
    for number, best in enumerate(best_of_n(world, cond, noise, candidates), 1):
        costs = {"queries": best.queries, "evaluations": best.evaluations}
        asked = world.reward.unique_queries()
        unique = {} if asked is None or before is None else {"unique_queries": asked - before}
        reward = best.value[best.value.isfinite()].mean().item()
        working.say(
            f"{best.queries:,} of {max(candidates, plan.eval_samples):,} candidates: reward of the best {reward:.3f}"
        )
        row = {"iteration": number, "reward": reward, **costs, **unique, "seconds": time.perf_counter() - started}
        for logger in loggers:
            record(logger, row, number)
            logger.save()
    totals = {"reward_queries": best.queries, "network_evaluations": best.evaluations, "iterations": number}
    return best, time.perf_counter() - started, totals


def summarise(cfg: Config, world: World, results: dict[str, Measured]) -> dict[str, Any]:
    """The headline, with what is particular to best-of-n: names in docs/comparison.md."""
    plan = world.plan
    samples = max(plan.iterations * plan.samples, plan.eval_samples)
    particular = {"candidates": samples / plan.eval_samples, "kl_bound_nats": kl_bound(samples, plan.eval_samples)}
    return headline(results) | particular | {"seed": cfg.seed, "evaluation_samples": plan.eval_samples}
