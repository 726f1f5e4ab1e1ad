"""task=evaluate: a finished run (resume=runs/<name>) on fresh noise, {base, raw, EMA} x {stochastic, ODE}."""

from __future__ import annotations

from pgdlab.config.compose import load_run
from pgdlab.config.configuration import Config
from pgdlab.config.functions import edited_since
from pgdlab.config.program import program
from pgdlab.config.runs import run_folder, short, write_json
from pgdlab.config.tasks import changed
from pgdlab.evaluation.evaluate import headline, shown, timed
from pgdlab.evaluation.pictures import before_after, domain_report
from pgdlab.training.build import build_world, steering, tell_loggers
from pgdlab.training.checkpoint import load, require_own
from pgdlab.training.fit import LAST

READS = ()  # there is nothing to evaluate without a run
RESUMES = (
    "domain", "policy.kernel", "policy.steps", "policy.guidance", "reward", "heldout", "plan.eval_samples",
    "plan.rollout_batch", "plan.max_failed", "runtime", "seed", "logger",
)  # fmt: skip


def main(cfg: Config) -> None:
    """Writes evaluation.json, before_after.png and the domain's own files to the run folder. Raises ValueError without a run."""
    if not cfg.resume:
        raise ValueError(f"task=evaluate needs a run: {program()} task=evaluate resume=runs/<name>")
    steering(cfg)
    edited = edited_since(cfg)
    world, folder = build_world(cfg), run_folder(cfg)
    require_own(load(folder / LAST), folder)
    results, seconds = timed(world, folder / LAST)
    figures = {name: result.figures for name, result in results.items()}
    own = [f"task={cfg.task}", "logger=csv"]  # which is none of the run's: it changes no figure
    trained = load_run(folder, own, instead={} if cfg.objects else None).plain()
    apart = {"resume": cfg.resume, "logger": cfg.nodes["logger"]}
    given = {"overrides": changed(cfg.plain(), trained | apart)}  # of the run that was trained
    write_json(
        headline(results) | {"evaluations": figures, "seconds": seconds} | given | edited, folder / "evaluation.json"
    )
    before_after(world, results, folder)
    domain_report(world, results, folder)
    for name, row in figures.items():
        reward = f"{shown(row['reward'], 4)} +- {shown(row['reward_stderr'], 4, 1.96)}"
        print(f"{name:>9}  reward {reward}  KL {shown(row['kl_nats'])}")
    tell_loggers(cfg, folder, {"evaluation": figures})
    print(f"written to {short(folder) / 'evaluation.json'}")
