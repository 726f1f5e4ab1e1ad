"""Statistics of a few runs: robust means with bootstrap intervals, exact paired tests, their coverage and power.

Scores are (S, T): S seeds of T domains, higher is better. Estimators take any leading dimensions. The definitions are those of
rliable (Agarwal et al. 2021, arXiv:2108.13264); the tests hold them against its code.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

Values = np.ndarray | np.floating[Any]  # one for each entry of the leading dimensions
LEVEL = 0.95  # of intervals
ALPHA = 0.05  # of tests
FEWEST = 6  # paired seeds: with 5 the two-sided sign-flip p-value cannot fall below .0625
POWER = 0.8
EXACT = 16  # seeds up to which every sign is tried
SIMULATED = 12  # seeds up to which the power is that of the test itself, above that of a formula
TRIALS = 2000  # of a simulation: standard error .009 at a power of .8


def iqm(scores: Float[np.ndarray, "*B S T"]) -> Values:
    """Interquartile mean: of the middle half of all S T scores; floor(S T / 4) are cut at each end."""
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return flat[..., cut : flat.shape[-1] - cut].mean(-1)


def median(scores: Float[np.ndarray, "*B S T"]) -> Values:
    """Median over domains of the mean over seeds."""
    return np.median(scores.mean(-2), axis=-1)


def mean(scores: Float[np.ndarray, "*B S T"]) -> Values:
    """Mean over seeds and domains."""
    return scores.mean((-2, -1))


def optimality_gap(scores: Float[np.ndarray, "*B S T"]) -> Values:
    """1 - mean of min(score, 1): how far from 1 on average, where more than 1 does not make up for less."""
    return 1 - np.minimum(scores, 1.0).mean((-2, -1))


def improvement(x: Float[np.ndarray, "*B S T"], y: Float[np.ndarray, "*B R T"]) -> Values:
    """P(x > y) + P(x = y) / 2 for a random seed of each, mean over domains: Mann-Whitney's U / (S R)."""
    difference = x[..., :, None, :] - y[..., None, :, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean((-3, -2)).mean(-1)


def profile(scores: Float[np.ndarray, "*B S T"], thresholds: Float[np.ndarray, " K"]) -> Values:
    """Performance profile: the share of all runs with a score above each threshold."""
    return (scores[..., None, :, :] > thresholds[:, None, None]).mean((-2, -1))


def resampled(shape: tuple[int, int], resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Seeds (resamples, S, T) drawn with replacement within each domain: stratified."""
    return generator.integers(0, shape[0], (resamples, *shape))


class Interval(NamedTuple):
    """An estimate with the ends of its interval."""

    value: float
    low: float
    high: float


def interval(
    scores: Float[np.ndarray, "S T"], estimator: Callable[..., Values], *paired: Float[np.ndarray, "S T"],
    resamples: int = 2000, level: float = LEVEL, seed: int = 0,
) -> Interval:  # fmt: skip
    """Percentile interval of the stratified bootstrap (Efron & Tibshirani 1993, ch. 13). paired: further scores for the
    estimator, whose seeds are the same and are drawn together. Raises ValueError for scores that are not finite."""
    if not all(np.isfinite(x).all() for x in (scores, *paired)):
        raise ValueError("scores must be finite: leave the runs out whose are not")
    rows = resampled((scores.shape[0], scores.shape[1]), resamples, np.random.default_rng(seed))
    drawn = [np.take_along_axis(np.broadcast_to(x, rows.shape), rows, axis=1) for x in (scores, *paired)]
    low, high = percentiles(estimator(*drawn), level)
    return Interval(float(estimator(scores, *paired)), float(low), float(high))


def percentiles(estimates: Values, level: float) -> np.ndarray:
    """The two ends between which the share `level` of the estimates lies, as much above as below."""
    return np.asarray(np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2], axis=0))


@functools.cache
def coverage(seeds: int, domains: int = 1, trials: int = 1000, resamples: int = 500, level: float = LEVEL) -> float:
    """How often the interval of the interquartile mean holds the truth, measured on normal scores, for which that is 0."""
    generator, hits = np.random.default_rng(0), 0
    for _ in range(trials):
        scores = generator.standard_normal((seeds, domains))
        rows = resampled((seeds, domains), resamples, generator)
        low, high = percentiles(iqm(np.take_along_axis(scores[None], rows, axis=1)), level)
        hits += int(low <= 0 <= high)
    return hits / trials


def sign_flip(differences: Float[np.ndarray, " S"], draws: int = 2**EXACT, seed: int = 0) -> float:
    """Two-sided p-value that paired differences are symmetric about 0: the share of all 2^S choices of signs whose sum is
    at least as far from 0 (Fisher 1935). Above EXACT seeds, of `draws` random choices and the one that was observed."""
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences)))) if len(differences) <= EXACT else None
    if signs is None:
        random = np.random.default_rng(seed).integers(0, 2, (draws, len(differences))) * 2 - 1
        signs = np.vstack([np.ones(len(differences)), random])
    sums, observed = np.abs(signs @ differences), abs(differences.sum())
    return float((sums >= observed - 1e-12 * np.abs(differences).sum()).mean())


def holm(p: Sequence[float]) -> list[float]:
    """P-values of several tests, corrected (Holm 1979): sorted, times the number of those left, never falling; at most 1."""
    order, adjusted, floor = np.argsort(p, kind="stable"), [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        floor = max(floor, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = floor
    return adjusted


def power(effect: float, seeds: int, comparisons: int = 1) -> float:
    """How often sign_flip() of `seeds` normal differences with mean `effect` standard deviations, corrected for the number of
    comparisons, is at most ALPHA: of TRIALS, the same at every call. At most EXACT seeds."""
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=seeds - 1))).reshape(-1, seeds - 1)
    drawn = effect + np.random.default_rng(0).standard_normal((EXACT, TRIALS))[:seeds].T
    sums = np.abs(drawn[:, :1] + drawn[:, 1:] @ signs.T)  # the other half of the signs gives the same
    p = (sums >= sums[:, :1] - 1e-12).mean(1)  # the first signs are those that were observed
    return float((comparisons * p <= ALPHA).mean())


def seeds_needed(differences: Float[np.ndarray, " S"], comparisons: int = 1) -> int | None:
    """Paired seeds at which a difference as large and as scattered as this one would be found with probability POWER.

    n = (z_a + z_b)^2 s^2 / d^2 + z_a^2 / 2 (Guenther 1981: the normal formula, corrected for the t distribution), d and s the
    mean and standard deviation of the differences, z_a = z(1 - ALPHA / (2 comparisons)), z_b = z(POWER); at least FEWEST, and so
    many that the exact p-value can fall that low: 2 comparisons / 2^n <= ALPHA. Up to SIMULATED the number rises until power()
    is that high: with few seeds nearly all signs have to agree, which the formula does not know. None where d is 0, or there is
    one seed.
    """
    if len(differences) < 2 or differences.mean() == 0:
        return None
    z = norm.ppf(1 - ALPHA / (2 * comparisons))
    spread = differences.std(ddof=1) / abs(differences.mean())
    found = (z + norm.ppf(POWER)) ** 2 * spread**2 + z**2 / 2
    least = max(FEWEST, math.ceil(math.log2(2 * comparisons / ALPHA)))
    if spread < 1e-12:  # equal up to rounding
        return least
    first = max(least, math.ceil(found))
    enough = (n for n in range(first, SIMULATED + 1) if power(1 / spread, n, comparisons) >= POWER)
    return next(enough, max(first, SIMULATED + 1))
