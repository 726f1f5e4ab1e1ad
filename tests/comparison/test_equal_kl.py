"""Rewards at equal KL: by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pgdlab.comparison.charts import at_equal_kl
from pgdlab.comparison.equal_kl import frontier, reached
from pgdlab.comparison.statistics import Interval
from pgdlab.comparison.styles import styles
from tests.comparison.folders import BEFORE, found, metrics, run


def test_the_first_time_that_a_curve_comes_to_a_level() -> None:
    """It falls back and comes again: what counts is the first time. A step to the side (equal KL) takes the earlier reward."""
    points = np.array([(0.0, 0.2), (1.0, 0.4), (1.0, 0.5), (0.5, 0.1), (2.0, 0.8)])
    assert reached(points, 0.0) == 0.2
    assert reached(points, 0.5) == pytest.approx(0.3)
    assert reached(points, 1.0) == pytest.approx(0.4)
    # from (0.5, 0.1) to (2.0, 0.8): a third of the way at 1.0, two thirds at 1.5
    assert reached(points, 1.5) == pytest.approx(0.1 + 0.7 * 2 / 3)
    assert reached(points, 2.0) == pytest.approx(0.8)


def test_levels_are_those_that_every_seed_of_every_method_reached(tmp_path: Path) -> None:
    """ppo comes to 4 and 2 nats, grpo to 8: the common ones are 0.5, 1 and 2."""
    for name, seed, nats, rewards in (("ppo", 0, [0, 1, 4], [0.2, 0.4, 0.7]), ("ppo", 1, [0, 1, 2], [0.2, 0.6, 0.8]),
                                      ("grpo", 0, [4, 8, 9], [0.6, 0.9, 0.95])):  # fmt: skip
        folder = run(tmp_path / f"{name}{seed}", f"trainer={name}", seed=seed)
        metrics(folder, list(zip([16, 32, 48], rewards, strict=True)), nats)
    run(tmp_path / "silent", "trainer=reinforce")
    (problem,) = found(tmp_path)
    equal = frontier(problem)
    assert equal is not None
    assert equal.levels == [0.5, 1.0, 2.0]
    assert equal.unknown == ["reinforce"]
    ppo = [value.value for value in equal.rewards["ppo"] if isinstance(value, Interval)]
    # seed 0: .3, .4, .4 + .3 / 3 = .5; seed 1: .4, .6, .8
    assert ppo == pytest.approx([0.35, 0.5, 0.65])
    assert equal.rewards["grpo"] == pytest.approx([0.2 + 0.4 / 8, 0.2 + 0.4 / 4, 0.2 + 0.4 / 2])
    assert BEFORE == 0.2
    chart = at_equal_kl(problem, styles(["ppo", "grpo", "reinforce"]))
    assert chart is not None
    assert chart.svg.startswith("<svg")
    assert chart.pdf.startswith(b"%PDF")
    assert chart.png.startswith(b"\x89PNG")


def test_one_method_with_a_kl_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    folder = run(tmp_path / "ppo", "trainer=ppo")
    metrics(folder, [(16, 0.3)], [1.0])
    run(tmp_path / "grpo", "trainer=grpo")
    assert frontier(found(tmp_path)[0]) is None
