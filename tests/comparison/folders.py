"""Run folders that no run has made: with the config, summary and metrics of one, and figures that a test chooses."""

from __future__ import annotations

import csv
import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from pgdlab.comparison.comparison import Comparison, Problem, problems
from pgdlab.comparison.folders import read
from pgdlab.config.compose import compose
from pgdlab.config.configuration import Config
from pgdlab.config.runs import as_yaml
from tests.worlds import QUICK, usual

BEFORE, SAMPLES, ITERATIONS = 0.2, 16, 4


@functools.cache
def configuration(*overrides: str) -> Config:
    """The config of a run; later overrides win."""
    sizes = (f"plan.samples={SAMPLES}", f"plan.iterations={ITERATIONS}", "plan.group=4", "plan.eval_samples=8")
    return compose([*usual(overrides, (QUICK, *sizes)), *overrides])


def run(
    folder: Path, *overrides: str, seed: int = 0, after: float = 0.7, before: float = BEFORE, **figures: float
) -> Path:
    """A finished run. figures: of the steered samples."""
    cfg = replace(configuration(*overrides), seed=seed, name=folder.name)
    plan = cfg.nodes["plan"]
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(as_yaml(cfg))
    best = cfg.task == "best_of_n"
    queries = plan["iterations"] * plan["samples"]
    base = {
        "reward": before,
        "reward_stderr": 0.02,
        "heldout": 0.1,
        "heldout_stderr": 0.01,
        "kl_nats": 0.0,
        "diversity": 5.0,
    }
    tuned = {
        "reward": after,
        "reward_stderr": 0.02,
        "heldout": 0.35,
        "kl_nats": None if best else 3.0,
        "diversity": 4.0,
    }
    table = {"base/sde": base, ("best/sde" if best else "ema/sde"): tuned | figures}
    whole = {
        "reward_before": before, "reward_after": after, "reward_gain": after - before, "reward_gain_stderr": 0.01,
        "kl_nats": tuned["kl_nats"], "reward_queries": queries, "network_evaluations": 20 * queries, "training_seconds": 2.0,
        "iterations": plan["iterations"], "seed": seed, "evaluation_samples": plan["eval_samples"], "evaluations": table,
    }  # fmt: skip
    if best:
        whole |= {"candidates": queries / plan["eval_samples"], "kl_bound_nats": 1.0}
    (folder / "summary.json").write_text(json.dumps(whole))
    metrics(
        folder, [(k * plan["samples"], before + (after - before) * k / 4) for k in range(1, plan["iterations"] + 1)]
    )
    Image.new("RGB", (120, 60), "grey").save(folder / "before_after.png")
    return folder


def metrics(folder: Path, points: list[tuple[float, float]], nats: list[float] | None = None) -> None:
    """metrics.csv with these (queries, reward), and perhaps a KL a row."""
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["iteration", "queries", "reward", "kl_nats"])
        writer.writerows([i, q, r, nats[i - 1] if nats else ""] for i, (q, r) in enumerate(points, 1))


def found(folder: Path, **options: Any) -> list[Problem]:
    """The problems of all runs in a folder."""
    return problems(read([str(folder)]), Comparison(**options))
