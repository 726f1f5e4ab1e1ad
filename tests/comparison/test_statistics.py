"""Estimators against rliable's own figures, tests against enumeration by hand, coverage against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pgdlab.comparison.statistics import (  # fmt: skip
    ALPHA,
    POWER,
    coverage,
    holm,
    improvement,
    interval,
    iqm,
    mean,
    median,
    optimality_gap,
    power,
    profile,
    seeds_needed,
    sign_flip,
)

X = np.array(
    [[0.6, 0.69, 0.518], [0.333, 0.464, 0.303], [0.618, 1.002, 0.452], [0.414, 0.747, 0.707], [0.632, 0.321, 0.591]]
)
Y = np.array(  # Y[0, 0] is X[1, 0]: a tie
    [[0.333, 0.097, 0.363], [-0.07, 0.113, -0.053], [0.429, 0.12, 0.581], [0.547, 0.444, -0.255], [0.338, 0.485, 0.534]]
)
Z = np.array(
    [[0.441, 0.757, 0.606], [0.657, 1.218, 0.658], [0.89, 1.165, 0.725], [0.866, 0.933, 0.919], [0.532, 0.923, 1.308],
     [0.436, 1.158, 0.936], [0.708, 1.5, 1.129]]
)  # fmt: skip
# what rliable 1.2.0 (with pandas 2.3.3, numpy 2.2.6) returned for these arrays: aggregate_*, probability_of_improvement
RLIABLE = {
    "x": (X, (0.5532222222222222, 0.5194, 0.5594666666666667, 0.44066666666666676)),
    "z": (Z, (0.8585454545454545, 0.8972857142857144, 0.8792857142857143, 0.19109523809523798)),
}


@pytest.mark.parametrize(("scores", "expected"), RLIABLE.values(), ids=RLIABLE)
def test_estimators_are_those_of_rliable(scores: np.ndarray, expected: tuple[float, ...]) -> None:
    found = [f(scores) for f in (iqm, median, mean, optimality_gap)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_improvement_is_that_of_rliable() -> None:
    assert improvement(X, Y) == pytest.approx(0.7933333333333333, abs=1e-12)
    assert improvement(Z, Y) == pytest.approx(0.9714285714285714, abs=1e-12)
    assert improvement(X, Y) + improvement(Y, X) == pytest.approx(1)
    assert improvement(X, X) == pytest.approx(0.5)


def test_performance_profile_is_that_of_rliable() -> None:
    """rliable 1.2.0, create_performance_profile({"x": X}, thresholds); its scores are strictly above."""
    thresholds = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(profile(X, thresholds), PROFILE, atol=1e-12)
    assert profile(X, np.array([1.002])) == 0


PROFILE = [1.0, 1.0, 9 / 15, 1 / 15, 1 / 15]


def test_estimators_take_leading_dimensions() -> None:
    both = np.stack([X, Y])
    for f in (iqm, median, mean, optimality_gap):
        np.testing.assert_allclose(f(both), [f(X), f(Y)], atol=1e-15)
    np.testing.assert_allclose(improvement(both, both[::-1]), [improvement(X, Y), improvement(Y, X)], atol=1e-15)


def test_the_interval_is_that_of_rliable() -> None:
    """rliable 1.2.0, get_interval_estimates({"x": X}, [IQM, mean], reps=50000). Both are Monte Carlo: the ends of 20,000
    resamples scatter by about .001; .004 is four times that."""
    for f, (low, high) in zip((iqm, mean), INTERVALS, strict=True):
        found = interval(X, f, resamples=20_000)
        assert found.value == f(X)
        assert found.low == pytest.approx(low, abs=0.004)
        assert found.high == pytest.approx(high, abs=0.004)


INTERVALS = [(0.44555556, 0.64111111), (0.473, 0.6464)]


def test_the_bootstrap_of_the_mean_of_two_seeds_by_hand() -> None:
    """Two seeds a < b of one domain: the means are a, (a + b) / 2, b with probabilities 1/4, 1/2, 1/4."""
    found = interval(np.array([[1.0], [3.0]]), mean)
    assert found == (2.0, 1.0, 3.0)
    assert interval(np.array([[1.0], [3.0]]), mean, level=0.4) == (2.0, 2.0, 2.0)


def test_domains_are_resampled_apart() -> None:
    """Stratified: with domains at 0 and 10 and no spread within, every resample is the same."""
    scores = np.array([[0.0, 10.0]] * 4)
    assert interval(scores, mean) == (5.0, 5.0, 5.0)
    assert interval(scores, lambda s: s[..., 1].mean(-1)) == (10.0, 10.0, 10.0)


def test_paired_seeds_are_drawn_together() -> None:
    """y is x moved by 1, seed by seed: the difference of their means is 1 in every resample, though x scatters."""
    x = np.array([[0.0], [5.0], [9.0], [20.0]])
    assert interval(x + 1, lambda a, b: mean(a) - mean(b), x) == pytest.approx((1.0, 1.0, 1.0))
    assert interval(x, mean).high - interval(x, mean).low > 5


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        interval(np.array([[1.0], [np.nan]]), mean)


@pytest.mark.parametrize(("seeds", "expected"), [(3, 0.73), (5, 0.90), (10, 0.93)])
def test_coverage_of_few_seeds(seeds: int, expected: float) -> None:
    """1,000 trials: standard error .014 at .73, .008 at .93; .03 is above twice the larger."""
    assert coverage(seeds) == pytest.approx(expected, abs=0.03)


def test_sign_flips_by_hand() -> None:
    """1, 2, 3: of eight sums only +6 and -6 are as far; 1, 2, -3 sums to 0: all are."""
    assert sign_flip(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert sign_flip(np.array([1.0, 2.0, -3.0])) == 1
    assert sign_flip(np.array([4.0, -1.0, 2.0])) == 4 / 8  # +-5, +-7
    assert sign_flip(np.array([0.1, 0.2, 0.3])) == 2 / 8  # rounding does not break a tie with itself


def test_the_least_p_value() -> None:
    assert [sign_flip(np.arange(1.0, seeds + 1)) for seeds in (5, 6)] == [0.0625, 0.03125]


def test_many_seeds_are_tested_on_random_signs() -> None:
    """Against the normal approximation of the sum of signed differences, and scipy's exact permutation for the limit."""
    differences = np.random.default_rng(3).normal(0.25, 1, 40)
    z = differences.sum() / math.sqrt((differences**2).sum())
    assert sign_flip(differences) == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.01)
    assert 0 < sign_flip(np.ones(40)) < 1e-4


def test_sign_flips_keep_their_promise() -> None:
    """Under symmetry p <= .25 at most a quarter of the time: 1,000 trials, standard error .014."""
    g = np.random.default_rng(0)
    share = np.mean([sign_flip(g.standard_normal(6)) <= 0.25 for _ in range(1000)])
    assert share == pytest.approx(0.25, abs=0.045)


def test_holm_by_hand() -> None:
    """Sorted .01, .02, .03, .4 times 4, 3, 2, 1, never falling."""
    assert holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("effect", [0.7, 1.0, 1.5])
def test_the_seeds_needed_have_the_power_that_is_promised(effect: float) -> None:
    """By the noncentral t distribution, exactly; the formula is good to about .03 at these sizes."""
    five = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    differences = five / five.std(ddof=1) + effect
    n = seeds_needed(differences)
    assert n is not None
    critical = stats.t.ppf(1 - ALPHA / 2, n - 1)
    share = stats.nct.sf(critical, n - 1, effect * math.sqrt(n)) + stats.nct.cdf(
        -critical, n - 1, effect * math.sqrt(n)
    )
    assert share == pytest.approx(POWER, abs=0.04) if n > 11 else share > POWER - 0.04


@pytest.mark.parametrize(
    ("effect", "comparisons"), [(1.0, 1), (1.3, 1), (1.4, 1), (1.5, 1), (1.8, 1), (1.2, 3), (1.6, 3), (1.8, 10)]
)
def test_few_seeds_have_the_power_of_the_test_itself(effect: float, comparisons: int) -> None:
    """The sign-flip test of 1,000 fresh draws: standard error .013 at .8; .04 is three of them. One seed fewer is too few,
    where the p-value could fall that low at all."""
    five = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    n = seeds_needed(five / five.std(ddof=1) + effect, comparisons)
    assert n is not None
    g = np.random.default_rng(7)

    def found(seeds: int) -> float:
        return float(np.mean([comparisons * sign_flip(g.normal(effect, 1, seeds)) <= ALPHA for _ in range(1000)]))

    assert found(n) > POWER - 0.04
    if n > 6 and comparisons * 2 / 2 ** (n - 1) <= ALPHA:
        assert found(n - 1) < POWER + 0.04


def test_where_all_signs_must_agree_the_power_is_known() -> None:
    """Six seeds, all of one sign: Phi(1.5)^6 (and Phi(-1.5)^6, 1e-7) = .66; one comparison at effect 0 is 2 / 2^6."""
    assert power(1.5, 6) == pytest.approx(stats.norm.cdf(1.5) ** 6, abs=0.03)
    assert power(0.0, 6) == pytest.approx(2 / 64, abs=0.016)  # four errors of 2,000 trials
    assert power(0.0, 7) == pytest.approx(6 / 128, abs=0.019)
    assert power(1.5, 6, comparisons=2) == 0
    five = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    assert seeds_needed(five / five.std(ddof=1) + 1.5) == 7
    assert seeds_needed(five / five.std(ddof=1) - 1.5) == 7


def test_the_seeds_needed_allow_the_exact_test() -> None:
    clear = np.array([1.0, 1.001, 0.999])
    assert seeds_needed(clear) == 6
    for comparisons in (1, 3, 10, 28):
        n = seeds_needed(clear, comparisons)
        assert n is not None
        assert comparisons * 2 / 2**n <= ALPHA
    assert seeds_needed(np.array([1.0, -1.0])) is None
    assert seeds_needed(np.array([1.0])) is None
    assert seeds_needed(np.array([0.5, 0.5])) == 6
