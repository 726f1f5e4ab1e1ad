"""Train or steer: costs of a delivered sample, and when training has paid, on folders with chosen figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgdlab.comparison.comparison import Problem
from pgdlab.comparison.delivery import break_even, delivered, delivery, even, level_of, needed, steered, trained
from pgdlab.comparison.delivery_charts import costs, distance, law_kl
from pgdlab.comparison.folders import read
from pgdlab.comparison.styles import styles
from tests.comparison.folders import found, metrics, run

NOISY = [
    (16, 0.2),
    (32, 0.5),
    (48, 0.3),
    (64, 0.6),
]  # with .8 at the end: never falling .2 .4 .4 .6 .8 at 0 16 32 48 64


def summary(folder: Path, **figures: object) -> None:
    """Changes figures of a run's summary."""
    file = folder / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | figures))


def study(folder: Path) -> Problem:
    """PPO to .8 and best-of-8 to .5, two seeds; the second PPO learns later."""
    for seed, points in enumerate((NOISY, [(q, 0.2) for q, _ in NOISY])):
        metrics(run(folder / f"ppo{seed}", seed=seed, after=0.8), points)
        run(folder / f"best{seed}", "task=best_of_n", seed=seed, after=0.5)
    (problem,) = found(folder)
    return problem


@pytest.mark.parametrize(("reward", "queries"), [(0.1, 0), (0.2, 0), (0.3, 8), (0.5, 40), (0.8, 64), (0.81, None)])
def test_queries_of_a_training_by_hand(reward: float, queries: float | None, tmp_path: Path) -> None:
    """A row's rollouts are those of the policy before its queries. The chance .5 of the second row is not taken."""
    metrics(run(tmp_path / "ppo", after=0.8), NOISY)
    (one,) = read([str(tmp_path)]).runs
    assert needed(one, reward) == (None if queries is None else pytest.approx(queries))


def test_after_how_many_samples_training_has_paid(tmp_path: Path) -> None:
    """Best-of-8 asks 8 times a sample (64 queries, 8 samples): 40 / 8 = 5 of them; the other seed comes to .5 half way between
    its last row, at 48, and the end: 56 / 8 = 7."""
    problem = study(tmp_path)
    ppo, best = (next(m for m in problem.methods if m.label == label) for label in ("ppo", "best of n"))
    assert (trained(ppo), steered(ppo), trained(best), steered(best)) == (True, False, False, True)
    result = break_even(ppo, best)
    assert result is not None
    assert (result.reached, result.seeds) == (2, 2)
    assert tuple(result.samples) == pytest.approx((6, 5, 7))  # type: ignore[arg-type]  # mean, and the ends of the bootstrap
    for seed, samples in ((0, 5), (1, 7)):
        cost = needed(ppo.runs[seed], 0.5)
        other = delivery(best.runs[seed])
        assert other is not None
        assert other.queries(samples) == pytest.approx(cost)  # there both have asked as often
    assert even(problem) == (["steered", "its reward", "ppo"], [["best of n", "0.500", "6 [5, 7]"]])


def test_a_reward_that_training_does_not_reach(tmp_path: Path) -> None:
    run(tmp_path / "ppo", after=0.4)
    run(tmp_path / "best", "task=best_of_n", after=0.5)
    (problem,) = found(tmp_path)
    assert even(problem)[1] == [["best of n", "0.500", "not reached by 1 of 1"]]


def test_one_of_two_seeds_that_does_not_reach_it(tmp_path: Path) -> None:
    """The mean of those that did would be too early."""
    study(tmp_path)
    summary(tmp_path / "ppo1", reward_after=0.4)
    assert even(found(tmp_path)[0])[1] == [["best of n", "0.500", "not reached by 1 of 2"]]


def test_one_seed_has_no_interval_and_no_common_seed_no_figure(tmp_path: Path) -> None:
    metrics(run(tmp_path / "ppo", after=0.8), NOISY)
    run(tmp_path / "best", "task=best_of_n", after=0.5)
    assert even(found(tmp_path)[0])[1] == [["best of n", "0.500", "5"]]
    run(tmp_path / "other" / "ppo", seed=1)
    run(tmp_path / "other" / "best", "task=best_of_n", seed=2)
    assert even(found(tmp_path / "other")[0])[1][0][2] == "-"


def test_costs_of_a_delivered_sample(tmp_path: Path) -> None:
    """Training: 64 queries once, and the sampler's 20 rows. Best-of-8: 8 queries and 160 rows every time. A policy that is
    steered has both; what an older version has not written is not known."""
    problem = study(tmp_path)
    ppo, best = (next(m for m in problem.methods if m.label == label).runs[0] for label in ("ppo", "best of n"))
    assert delivery(ppo) == delivery(ppo).__class__(64.0, 0.0, 20.0)
    assert delivery(best) == delivery(ppo).__class__(0.0, 8.0, 160.0)
    own = {"candidates": 2.0, "training_queries": 64, "steered_run": "runs/a", "network_evaluations": 1280 + 320}
    summary(best.folder, **own)
    assert delivery(next(r for r in read([str(tmp_path)]).runs if r.folder == best.folder)).rows is None  # type: ignore[union-attr]
    summary(best.folder, training_evaluations=1280)
    tuned = next(r for r in read([str(tmp_path)]).runs if r.folder == best.folder)
    assert delivery(tuned) == delivery(ppo).__class__(64.0, 2.0, 40.0)
    names, lines = delivered(problem)
    assert names[1:] == [
        "network rows a sample",
        "reward",
        "queries once",
        "queries a sample",
        "queries for 100",
        "queries for 10,000",
    ]
    assert lines == [
        ["ppo", "20", "0.800", "64", "0.00", "64", "64"], ["best of n", "160", "0.500", "0", "8.00", "800", "80,000"],
    ]  # fmt: skip


def test_equal_rows_are_together(tmp_path: Path) -> None:
    """Of methods at the same rows the better one is first, though it costs two rows in a hundred more."""
    assert level_of([20.0, 20.4, 21.2, 160.0]) == {20.0: 20.0, 20.4: 20.0, 21.2: 21.2, 160.0: 160.0}
    run(tmp_path / "ppo", after=0.3)
    run(tmp_path / "best", "task=best_of_n", after=0.5)
    summary(tmp_path / "best", network_evaluations=8 * 20.4)
    assert [line[:2] for line in delivered(found(tmp_path)[0])[1]] == [["best of n", "20"], ["ppo", "20"]]


def test_nothing_to_say_without_both(tmp_path: Path) -> None:
    run(tmp_path / "ppo")
    run(tmp_path / "grpo", "trainer=grpo")
    (problem,) = found(tmp_path)
    assert delivered(problem) == even(problem) == ([], [])
    look = styles(["ppo", "grpo"])
    assert costs(problem, look) is None
    assert law_kl(problem, look) is None


def test_charts(tmp_path: Path) -> None:
    problem = study(tmp_path)
    look = styles([m.label for m in problem.methods])
    assert costs(problem, look) is not None
    for seed in (0, 1):
        summary(tmp_path / f"best{seed}", kl_bound_nats=None)
    assert law_kl(found(tmp_path)[0], look) is None  # a best-of-n that says no KL
    summary(tmp_path / "best1", kl_bound_nats=2.5)
    summary(tmp_path / "best0", kl_estimate_nats=1.5)
    (problem,) = found(tmp_path)
    assert law_kl(problem, look) is not None
    ppo, best = (next(m for m in problem.methods if m.label == label) for label in ("ppo", "best of n"))
    assert [distance(run) for run in (ppo.runs[0], best.runs[0], best.runs[1])] == [
        (True, 3.0),
        (False, 1.5),
        (False, 2.5),
    ]
