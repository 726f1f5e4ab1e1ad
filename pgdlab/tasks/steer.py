"""task=steer: steers without training (guidance=NAME): the base, or the policy of a run (resume=runs/<name>)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgdlab.config.configuration import Config
from pgdlab.config.functions import edited_since
from pgdlab.config.groups import options
from pgdlab.config.runs import LAST, SUMMARY, run_folder, save_config, short, versions, write_json
from pgdlab.diffusion.policy import Policy
from pgdlab.evaluation.evaluate import Measured, headline, judge, load_weights, measure
from pgdlab.evaluation.pictures import before_after, domain_report, drawn, learning_curve, rewards
from pgdlab.evaluation.summary import sentence
from pgdlab.guidance.base import Guidance, Source, Steered, means
from pgdlab.guidance.learned import LearnedValue
from pgdlab.guidance.temperature import Settling
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.trainers.interaction import in_turn
from pgdlab.training.budget import Budget
from pgdlab.training.build import build_world, loggers_of, require_loggers
from pgdlab.training.checkpoint import asked as asked_by
from pgdlab.training.checkpoint import differences, load, require_base, require_own
from pgdlab.training.loggers import publish, record
from pgdlab.training.progress import Working
from pgdlab.world import World

READS = (
    "experiment", "domain", "policy.kernel", "policy.steps", "policy.guidance", "reward", "heldout", "guidance",
    "plan.iterations", "plan.samples", "plan.eval_samples", "plan.rollout_batch", "plan.max_failed", "budget", "runtime",
    "logger", "seed", "name",
)  # fmt: skip
RESUMES = (
    "policy.kernel", "policy.steps", "policy.guidance", "reward", "heldout", "guidance", "plan.iterations", "plan.samples",
    "plan.eval_samples", "plan.rollout_batch", "plan.max_failed", "budget", "runtime", "logger", "seed", "name",
)  # fmt: skip
INSTEAD = "guidance trains nothing"


def main(cfg: Config) -> int:
    """A new run folder, with the files of a run that trains. Exit code 1 where all is measured but a picture or a report
    failed."""
    if not cfg.nodes["guidance"]:
        raise ValueError(f"task=steer needs a way of steering: guidance=NAME, one of {', '.join(options('guidance'))}")
    return steer(cfg, cfg.make(Guidance, "guidance"), "steered", edited_since(cfg))


def steer(cfg: Config, guidance: Guidance, title: str, notes: dict[str, Any]) -> int:
    """Steers, measures, draws. title: of the steered samples among the evaluations. notes: what the summary says besides. With
    cfg.resume the policy is that run's."""
    started = time.perf_counter()
    run = Path(cfg.resume).resolve() if cfg.resume else None
    cfg = replace(cfg, resume=None)
    if not cfg.nodes["reward"]:
        raise ValueError("steering needs a reward to choose by, and a pretraining asked none: give reward=NAME")
    world = build_world(cfg)
    require_budget(cfg.stated(Budget, "budget"), world.plan.eval_samples)
    require_one_process(cfg)
    require_loggers(cfg)
    before = taken_over(world, run) if run else {"samples": 0, "queries": 0, "evaluations": 0}
    source = source_of(world, world.policy if run else world.reference)
    left = left_after(guidance, world)
    guidance.require(source, left)
    fitted = fitted_value(cfg, guidance)
    folder = run_folder(cfg)
    save_config(cfg, folder)
    loggers = loggers_of(cfg, folder, [])
    guidance, settling = guidance.settled(source)
    print(f"{guidance.law_for(source)}: {guidance.aims_at(source)}")
    if said := guidance.advice(source):
        print(said, file=sys.stderr)
    best, costs = search(guidance, source, left, loggers, settling)
    with torch.no_grad(), Working() as working:
        working.say(f"evaluating base and steered: {world.plan.eval_samples:,} samples")
        results, table = evaluated(source, best, title)
    summary = summarise(cfg, guidance, source, best, results) | costs | {"evaluations": table, "versions": versions()}
    summary |= totals(costs, before, fitted, world, run) | notes
    return finish(world, summary | {"seconds": time.perf_counter() - started}, results, folder, loggers)


def require_budget(budget: Budget, slots: int) -> None:
    """Raises ValueError for a budget that steering cannot keep to."""
    if budget.evaluations or budget.seconds:
        raise ValueError("the budget of steering is reward queries: budget.queries, or plan.iterations x plan.samples")
    if (budget.queries or slots) < slots:
        raise ValueError(
            f"budget.queries is {budget.queries}; it must be at least plan.eval_samples, {slots}: a candidate for each"
        )


def require_one_process(cfg: Config) -> None:
    """Raises ValueError for a runtime whose processes would have to share the work."""
    runtime = cfg.nodes["runtime"]
    if runtime.get("strategy", "auto") != "auto" or runtime.get("num_nodes", 1) != 1:
        raise ValueError(f"task={cfg.task} is one process's: runtime=cpu or runtime=gpu")


def given(world: World) -> int:
    """The reward queries of steering: those of training, and one for each slot at least."""
    return max(world.plan.iterations * world.plan.samples, world.plan.eval_samples)


def left_after(guidance: Guidance, world: World) -> int:
    """The reward queries that a search for lambda leaves. Raises ValueError where it leaves none for some slot."""
    pilot, queries = guidance.asks_before(), given(world)
    if pilot and queries - pilot < world.plan.eval_samples:
        raise ValueError(
            f"guidance.lam asks {pilot} samples of the base first, of {queries} reward queries: lower its samples, or raise "
            "plan.iterations"
        )
    return queries - pilot


def taken_over(world: World, run: Path) -> dict[str, int]:
    """Puts a run's averaged weights into the world's policy; what they have cost."""
    state = load(run / LAST)
    require_own(state, run)
    load_weights(world.policy, state["state_dict"], run / LAST)
    require_base(world.reference, state, run / LAST)
    counters = state["current_model_state"]
    return {"samples": asked_by(state)} | {name: int(counters[name]) for name in ("queries", "evaluations")}


def source_of(world: World, policy: Policy) -> Source:
    """A slot for every sample of the evaluation, on its conditions and noise."""
    cond = in_turn(world.domain.train_conditions, world.plan.eval_samples).to(world.device)
    return Source(world, policy, cond, Noise(world.noise.seed, Stream.EVALUATE))


def search(
    guidance: Guidance, source: Source, left: int, loggers: list[Any], settling: Settling
) -> tuple[Steered, dict[str, Any]]:
    """What the guidance returns for the queries that are left, and its costs; a row of metrics.csv after each round."""
    world, started, number = source.world, time.perf_counter(), 0
    before = world.reward.unique_queries()
    queries = left + settling.queries
    working = Working()
    for number, best in enumerate(guidance.steer(source, left), 1):
        best = replace(
            best, queries=best.queries + settling.queries, evaluations=best.evaluations + settling.evaluations
        )
        asked_now = world.reward.unique_queries()
        unique = {} if asked_now is None or before is None else {"unique_queries": asked_now - before}
        reward = best.value[best.value.isfinite()].mean().item()
        working.say(f"{best.queries:,} of {queries:,} reward queries: reward of what is kept {reward:.3f}")
        row = {"iteration": number, "reward": reward, "queries": best.queries, "evaluations": best.evaluations}
        for logger in loggers:
            record(logger, row | unique | {"seconds": time.perf_counter() - started}, number)
            logger.save()
    costs: dict[str, Any] = {
        "reward_queries": best.queries,
        "network_evaluations": best.evaluations,
        "iterations": number,
    }
    if settling.lam is not None:
        costs |= {"lam": settling.lam, "pilot_queries": settling.queries}
    return best, costs | {"training_seconds": time.perf_counter() - started}


def evaluated(source: Source, best: Steered, title: str) -> tuple[dict[str, Measured], dict[str, Any]]:
    """The base and what is steered, named as before and after of a run that trains, and the table of all evaluations, which has
    the policy that is steered too where that is not the base."""
    world, kind = source.world, "sde" if source.policy.stochastic_steps else "ode"
    before, after = measure(world, world.reference), judge(world, best.trajectory, best.kl_nats)
    if best.groups:
        own = {"reward_stderr": between(after.reward, after.measured, best.groups), "heldout_stderr": None}
        after.figures.update({name: value for name, value in own.items() if name in after.figures})
    table = {f"base/{kind}": before.figures}
    if source.tuned:
        table |= {f"ema/{kind}": measure(world, source.policy).figures}
    return {f"base/{kind}": before, f"ema/{kind}": after}, table | {f"{title}/{kind}": after.figures}


def between(value: Tensor, known: Tensor, groups: int) -> float | None:
    """The standard error of a mean over samples of which every `groups`-th shares a population."""
    each = [value[g::groups][known[g::groups]].double().mean() for g in range(groups)]
    return means(torch.stack(each))[1]


def summarise(
    cfg: Config, guidance: Guidance, source: Source, best: Steered, results: dict[str, Measured]
) -> dict[str, Any]:
    """The headline, the law, and what the guidance says of itself: names in docs/metrics.md."""
    found = headline(results) | {
        "law": guidance.law_for(source),
        "law_in_words": guidance.aims_at(source),
        **best.figures,
    }
    if best.groups:
        before, after = results.values()
        gain, known = after.reward - before.reward, after.measured & before.measured
        found |= {"reward_gain_stderr": between(gain, known, best.groups)}
    return found | {"seed": cfg.seed, "evaluation_samples": source.world.plan.eval_samples}


def values_of(guidance: Guidance) -> Iterator[LearnedValue]:
    """The fitted values that it, or a guidance inside of it, follows."""
    for part in vars(guidance).values():
        if isinstance(part, LearnedValue):
            yield part
        elif isinstance(part, Guidance):
            yield from values_of(part)


def fitted_value(cfg: Config, guidance: Guidance) -> dict[str, int]:
    """What the value that steers has cost; nothing without one. Raises ValueError for one of another reward."""
    potential = next(values_of(guidance), None)
    if potential is None:
        return {}
    for key, own, other in differences("reward", cfg.nodes["reward"], potential.fitted.facts.get("reward")):
        raise ValueError(
            f"{short(potential.fitted.run)} has the value of another reward: {key} is {other!r} there, and {own!r} here"
        )
    return potential.costs()


def totals(
    costs: dict[str, Any], before: dict[str, int], fitted: dict[str, int], world: World, run: Path | None
) -> dict[str, Any]:
    """Costs with those of the training before and of the value, and the share of a returned sample."""
    asked, rows = fitted.get("queries", 0), fitted.get("evaluations", 0)
    whole: dict[str, Any] = {
        "samples": before["samples"] + asked + given(world),
        "candidates": costs["reward_queries"] / world.plan.eval_samples,
        "reward_queries": before["queries"] + asked + costs["reward_queries"],
        "network_evaluations": before["evaluations"] + rows + costs["network_evaluations"],
    }
    whole |= {"value_queries": asked, "value_evaluations": rows} if fitted else {}
    return whole | (
        {}
        if run is None
        else {
            "steered_run": short(run).as_posix(),
            "training_queries": before["queries"],
            "training_evaluations": before["evaluations"],
        }
    )


def finish(
    world: World, summary: dict[str, Any], results: dict[str, Measured], folder: Path, loggers: list[Any]
) -> int:
    """Draws, and writes summary.json last: it says that the run is finished. One round is no curve."""
    course: dict[str, Callable[[], list[Path]]] = {"learning_curve.png": lambda: [learning_curve(folder)]}
    if summary["iterations"] == 1:
        course = {"rewards.png": lambda: [rewards(results, folder)]}
    files, failed = drawn(
        {
            "before_after.png": lambda: [before_after(world, results, folder)],
            **course,
            "the domain's report": lambda: domain_report(world, results, folder),
        }
    )
    write_json(summary | ({"failed": failed} if failed else {}), folder / SUMMARY)
    for logger in loggers:
        publish(logger, files, summary, summary["iterations"])
    print(sentence(summary, folder))
    return 1 if failed else 0
