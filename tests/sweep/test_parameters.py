"""W&B's distributions: the values of every draw, against their definitions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pgdlab.sweep.parameters import DISTRIBUTIONS, Parameter, read_parameter

LAWS: dict[str, tuple[dict[str, Any], Any]] = {  # settings, and the share of the draws that is at most x
    "int_uniform": ({"min": 1, "max": 7}, lambda x: math.floor(x) / 7),
    "uniform": ({"min": 0.5, "max": 2.5}, lambda x: (x - 0.5) / 2),
    "q_uniform": ({"min": 32, "max": 128, "q": 32}, lambda x: min(1, (x + 16 - 32) / 96)),
    "log_uniform_values": ({"min": 1e-5, "max": 0.1}, lambda x: math.log10(x / 1e-5) / 4),
    "q_log_uniform_values": ({"min": 2, "max": 32, "q": 2}, lambda x: min(1, math.log2((x + 1) / 2) / 4)),
    "inv_log_uniform_values": ({"min": 1e-5, "max": 0.1}, lambda x: 1 - math.log10(0.1 / x) / 4),
    "normal": ({"mu": 1.0, "sigma": 2.0}, lambda x: (1 + math.erf((x - 1) / 2 / math.sqrt(2))) / 2),
    "q_normal": ({"mu": 1, "sigma": 2, "q": 1}, lambda x: (1 + math.erf((x + 0.5 - 1) / 2 / math.sqrt(2))) / 2),
    "log_normal": ({}, lambda x: (1 + math.erf(math.log(x) / math.sqrt(2))) / 2),
    "q_log_normal": ({}, lambda x: (1 + math.erf(math.log(x + 0.5) / math.sqrt(2))) / 2),
    "beta": ({"a": 2, "b": 2}, lambda x: 3 * x**2 - 2 * x**3),
    "q_beta": ({"a": 2, "b": 2, "q": 0.25}, lambda x: (lambda y: 3 * y**2 - 2 * y**3)(min(1, x + 0.125))),
    "categorical": ({"values": [1, 2, 3, 4]}, lambda x: x / 4),
    "categorical_w_probabilities": (
        {"values": [1, 2, 3], "probabilities": [0.25, 0.5, 0.25]},
        lambda x: [0, 0.25, 0.75, 1][x],
    ),
}


def parameter(kind: str, **settings: Any) -> Parameter:
    found = read_parameter("x", {"distribution": kind, **settings}, "random")
    assert isinstance(found, Parameter)
    return found


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_a_quantile_inverts_the_distribution(kind: str) -> None:
    """P(X <= quantile(u)) >= u, and anything lower has less; equal where the distribution has no jumps. The closed forms are
    written from W&B's definitions, not from the code."""
    settings, below = LAWS[kind]
    p = parameter(kind, **settings)
    values = [p.distribution.quantile(p.settings, (i + 0.5) / 200) for i in range(200)]
    assert values == sorted(values)
    for i, value in enumerate(values):
        assert below(value) >= (i + 0.5) / 200 - 1e-9
    for value in {*values[:-1]}:  # as many draws as the law says
        assert sum(v <= value for v in values) / 200 == pytest.approx(below(value), abs=0.0051)


def test_a_whole_step_gives_whole_numbers() -> None:
    """As with W&B: 96 and not 96.0, which no whole-number key takes."""
    whole = parameter("q_uniform", min=32, max=128, q=32)
    assert [repr(v) for v in whole.probes] == ["32", "64", "128"]
    assert repr(whole.value(96.0)) == "96"
    assert repr(parameter("q_uniform", min=32, max=128, q=32.0).value(96.0)) == "96.0"
    assert repr(parameter("q_uniform", min=0.0, max=1.0, q=0.25).value(0.75)) == "0.75"
    assert repr(parameter("q_log_normal", mu=3).value(0.5)) == "20"  # e^3 = 20.09; W&B's q is 1
    assert repr(parameter("q_log_uniform_values", min=2, max=64, q=2).value(8.0)) == "8"


def test_what_is_checked_first_are_both_ends_and_the_middle() -> None:
    assert parameter("uniform", min=1, max=2.5).probes == [1.0, 1.75, 2.5]
    assert parameter("int_uniform", min=1, max=3).probes == [1, 2, 3]
    assert parameter("log_uniform_values", min=1e-4, max=1e-2).probes == pytest.approx([1e-4, 1e-3, 1e-2])
    assert parameter("categorical", values=["a", None]).probes == ["a", None]
    assert parameter("normal", mu=1, sigma=0.1).probes == pytest.approx([1 - 0.309, 1, 1 + 0.309], abs=1e-3)


def test_random_draws_follow_the_law(tmp_path: Path) -> None:
    """Through Ray Tune's own sampling: the shares of three values drawn with probabilities."""
    tune = pytest.importorskip("ray.tune")
    import numpy as np

    from pgdlab.sweep.engine import domain

    p = parameter("categorical_w_probabilities", values=["a", "b", "c"], probabilities=[0.7, 0.2, 0.1])
    drawn = [p.value(u) for u in domain(p, tune).sample(size=4000, random_state=np.random.default_rng(0))]
    # three standard errors of a share of 4,000
    assert drawn.count("a") / 4000 == pytest.approx(0.7, abs=3 * math.sqrt(0.7 * 0.3 / 4000))
    assert drawn.count("c") / 4000 == pytest.approx(0.1, abs=3 * math.sqrt(0.1 * 0.9 / 4000))
