"""A reward learned from answers, and trusted too far: what it promises beyond the true one, while the policy leaves its base."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

import pgdlab
from pgdlab import cli

POINTS = ["experiment=null", "domain=gaussian", "domain.mean=[0.0]", "domain.covariance=[[1.0]]"]
TRUE = ["slope=[1.5]", "curvature=[0.5]"]  # 1.5 x - x^2 / 2 in nats of the annotator: nothing beyond 1.5 is better
STEERED = ["trainer=adjoint_matching", "policy=affine", "policy.steps=10", "plan.samples=256", "optimizer.lr=0.02"]


def course(pairs: int, pessimism: float, overrides: list[str]) -> tuple[list[float], list[float]]:
    """Iteration by iteration of a policy that is tuned on a learned reward: KL in nats, and what it promises too much."""
    name, answers = f"p{pairs}-{pessimism:g}", Path(f"p{pairs}-{pessimism:g}.jsonl")
    told = ["annotator=simulated", "annotator.temperature=1", f"annotator.samples=runs/sample-{name}/samples.pt"]
    words = ["reward=preference", f"reward.folder=runs/preferences-{name}", f"reward.pessimism={pessimism}"]
    words += ["heldout=quadratic", *(f"heldout.{word}" for word in TRUE), "penalty.path_kl.coefficient=0.3"]
    for task in (
        ["task=sample", f"name={name}", f"plan.eval_samples={2 * pairs}"],
        [
            "task=annotate",
            "reward=quadratic",
            *(f"reward.{word}" for word in TRUE),
            *told,
            f"annotator.pairs={answers}",
        ],
        ["task=preferences", f"name={name}", f"preferences.pairs=[{answers}]"],
        [f"name={name}", *words, *STEERED, "plan.iterations=60", *overrides],
    ):
        given = {word.partition("=")[0]: word for word in [*POINTS, *task]}
        if code := cli.main(list(given.values())):
            raise SystemExit(code)
    run = pgdlab.load(f"runs/{name}").metrics
    excess = [proxy - true for proxy, true in zip(run["reward"], run["heldout"], strict=True)]
    return run["kl_nats"], [value + run["heldout"][0] for value in excess]


def main(overrides: list[str]) -> Path:
    """Twenty answers, twenty with pessimism, and five hundred, in one picture."""
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    for pairs, pessimism in ((20, 0.0), (20, 1.0), (500, 0.0)):
        axis.plot(*course(pairs, pessimism, overrides), label=f"{pairs} pairs, pessimism {pessimism:g}")
    axis.set(xlabel="KL from the base, nats", ylabel="learned reward - true gain, nats")
    axis.legend(frameon=False)
    figure.savefig("over_optimisation.png", dpi=120)
    return Path("over_optimisation.png")


if __name__ == "__main__":
    main(sys.argv[1:])
