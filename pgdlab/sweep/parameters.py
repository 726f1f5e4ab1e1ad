"""A sweep's parameters: W&B's distributions, their bounds, and the values that trials get from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from pgdlab.config.schema import ConfigError, nearest

Settings = Mapping[str, Any]
ENDS = (0.0, 0.5, 1.0)  # shares of the draws at which values are checked: all between lowest and highest,
TAILS = (0.001, 0.5, 0.999)  # or nearly all, where there is no lowest and no highest


@dataclass(frozen=True)
class Distribution:
    """One of W&B's. quantile: settings and a share in [0, 1] -> the value below which this share of the draws lie; needs: keys
    that must be given; defaults: of those that need not be; shares: where values are checked; own: whether Ray Tune has it."""

    quantile: Callable[[Settings, float], Any]
    needs: tuple[str, ...] = ()
    defaults: tuple[tuple[str, float | int], ...] = ()
    shares: tuple[float, ...] = ENDS
    own: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """All that may be given."""
        return (*self.needs, *(key for key, _ in self.defaults))


def choice(p: Settings, share: float) -> Any:
    """One of the values, the first ones for low shares."""
    values = p["values"]
    ends = list(itertools.accumulate(p.get("probabilities") or [1 / len(values)] * len(values)))
    return next((value for value, end in zip(values, ends, strict=True) if share < end), values[-1])


def whole(p: Settings, share: float) -> int:
    """A whole number from min to max."""
    return int(min(p["min"] + math.floor(share * (p["max"] - p["min"] + 1)), p["max"]))


def uniform(p: Settings, share: float) -> float:
    """Between min and max."""
    return float(p["min"] + share * (p["max"] - p["min"]))


def log_uniform(p: Settings, share: float) -> float:
    """Between min and max, the logarithm uniform. The law of the inverse's logarithm is the same."""
    return float(p["min"] * (p["max"] / p["min"]) ** share)


def normal(p: Settings, share: float) -> float:
    """With mean mu and standard deviation sigma."""
    return NormalDist(p["mu"], p["sigma"]).inv_cdf(share)


def log_normal(p: Settings, share: float) -> float:
    """Whose logarithm is normal."""
    return math.exp(normal(p, share))


def beta(p: Settings, share: float) -> float:
    """Between 0 and 1, with density proportional to x^(a - 1) (1 - x)^(b - 1)."""
    from scipy.special import betaincinv

    return float(betaincinv(p["a"], p["b"], share))


def stepped(quantile: Callable[[Settings, float], float]) -> Callable[[Settings, float], float | int]:
    """The nearest multiple of q."""
    return lambda p, share: multiple(quantile(p, share), p["q"])


def multiple(value: float | int, q: float | int) -> float | int:
    """The multiple of q that is nearest; a whole number where q is one, as with W&B."""
    return round(value / q) * q


RANGE, STEP, GAUSSIAN = ("min", "max"), (("q", 1),), (("mu", 0.0), ("sigma", 1.0))
BETA = (("a", 1.0), ("b", 1.0))
DISTRIBUTIONS = {
    "categorical": Distribution(choice, ("values",), own=True),
    "categorical_w_probabilities": Distribution(choice, ("values", "probabilities")),
    "int_uniform": Distribution(whole, RANGE, own=True),
    "uniform": Distribution(uniform, RANGE, own=True),
    "q_uniform": Distribution(stepped(uniform), RANGE, STEP, own=True),
    "log_uniform_values": Distribution(log_uniform, RANGE, own=True),
    "q_log_uniform_values": Distribution(stepped(log_uniform), RANGE, STEP, own=True),
    "inv_log_uniform_values": Distribution(log_uniform, RANGE),
    "normal": Distribution(normal, (), GAUSSIAN, TAILS),
    "q_normal": Distribution(stepped(normal), (), GAUSSIAN + STEP, TAILS),
    "log_normal": Distribution(log_normal, (), GAUSSIAN, TAILS),
    "q_log_normal": Distribution(stepped(log_normal), (), GAUSSIAN + STEP, TAILS),
    "beta": Distribution(beta, (), BETA),
    "q_beta": Distribution(stepped(beta), (), BETA + STEP),
}
BAYES = ("categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values")  # what Optuna has too
EXPONENTS = ("log_uniform", "q_log_uniform", "inv_log_uniform")  # their min and max are exponents of e
WORDS = ("value", "values", "probabilities", "min", "max", "q", "mu", "sigma", "a", "b", "distribution")


@dataclass(frozen=True)
class Parameter:
    """A parameter that varies. kind: its distribution; settings: that one's keys, with W&B's defaults."""

    name: str
    kind: str
    settings: dict[str, Any]

    @property
    def distribution(self) -> Distribution:
        """What its kind means."""
        return DISTRIBUTIONS[self.kind]

    @property
    def probes(self) -> list[Any]:
        """Values to be checked before anything starts: all that are listed, or those at both ends and in the middle."""
        if "values" in self.settings:
            return list(self.settings["values"])
        return [self.distribution.quantile(self.settings, share) for share in self.distribution.shares]

    def offers(self, value: Any) -> bool:
        """Whether it can be drawn: one of the values, or within the bounds that there are."""
        p = self.settings
        if "values" in p:
            return value in p["values"]
        number = type(value) in (int, float)
        return number and p.get("min", -math.inf) <= value <= p.get("max", math.inf)

    def value(self, drawn: Any) -> Any:
        """A trial's value, of what Ray Tune drew: the value, which has no whole numbers of its own in steps, or a share."""
        if not self.distribution.own:
            return self.distribution.quantile(self.settings, drawn)
        return multiple(drawn, self.settings["q"]) if isinstance(self.settings.get("q"), int) else drawn


def read_parameter(name: str, p: Any, method: str) -> Any:
    """A Parameter, or the mapping of one with a single `value`. Raises ConfigError where nothing could be drawn, where W&B would
    refuse or misread it, and for what the method cannot do."""
    require_mapping(name, p)
    if "value" in p:
        if p.keys() - {"value", "distribution"} or p.get("distribution", "constant") != "constant":
            raise ConfigError(f"{name} has a value, beside which nothing else can be given: {', '.join(map(str, p))}")
        return dict(p)
    kind = kind_of(name, p)
    distribution = DISTRIBUTIONS[kind]
    given = {key: item for key, item in p.items() if key != "distribution"}
    if not {*distribution.needs} <= given.keys():
        raise ConfigError(f"{name} is {kind}, which needs {', '.join(distribution.needs)}")
    for key in given.keys() - {*distribution.keys}:
        raise ConfigError(f"{name}.{key} has no meaning for {kind}, which takes {', '.join(distribution.keys)}")
    settings = dict(distribution.defaults) | given
    require_values(name, settings)
    require_bounds(name, kind, settings)
    if method == "grid" and kind != "categorical":
        raise ConfigError(f"{name} must have values in a grid")
    if method == "bayes" and kind not in BAYES:
        raise ConfigError(f"{name} is {kind}; with bayes it must be another, such as q_uniform or log_uniform_values")
    return Parameter(name, kind, settings)


def require_mapping(name: str, p: Any) -> None:
    """Raises ConfigError for a parameter that is no mapping of keys that W&B has."""
    if not isinstance(p, dict) or not p:
        raise ConfigError(f"{name} is {p!r}; it must have values: [...], value: ..., or min: and max:")
    if "parameters" in p:
        raise ConfigError(f"{name} is nested; it must be a dotted key, as in optimizer.lr")
    for key in p.keys() - {*WORDS}:
        raise ConfigError(f"{name}.{key} is not offered.{nearest(str(key), WORDS)}")


def kind_of(name: str, p: Settings) -> str:
    """The distribution's name, given or told by the keys that there are, as by W&B."""
    listed = "categorical_w_probabilities" if "probabilities" in p else "categorical"
    ranged = "int_uniform" if type(p.get("min")) is type(p.get("max")) is int else "uniform"
    kind = str(p.get("distribution") or (listed if "values" in p or "probabilities" in p else ranged))
    if kind == "categorical" and "probabilities" in p:  # W&B's documentation, if not its schema
        kind = listed
    if kind in EXPONENTS:
        raise ConfigError(
            f"{name} has distribution {kind!r}, whose min and max are exponents of e. Did you mean {kind}_values, which "
            "takes the values themselves?"
        )
    if kind == "constant":
        raise ConfigError(f"{name} is constant, which needs value")
    if kind not in DISTRIBUTIONS:
        raise ConfigError(f"{name} has distribution {kind!r}.{nearest(kind, DISTRIBUTIONS)}")
    return kind


def require_values(name: str, p: Settings) -> None:
    """Raises ConfigError for settings of another type than W&B's."""
    for key in ("values", "probabilities"):
        if key in p and not (isinstance(p[key], list) and p[key]):
            raise ConfigError(f"{name}.{key} is {p[key]!r}; it must be a list of one value or more")
    for key in p.keys() - {"values", "probabilities"}:
        if type(p[key]) not in (int, float) or not math.isfinite(p[key]):
            raise ConfigError(f"{name}.{key} is {p[key]!r}, which must be a number (in YAML: 1.0e-4)")
    chances = p.get("probabilities", [])
    if any(type(c) not in (int, float) or not 0 <= c <= 1 for c in chances):
        raise ConfigError(f"{name}.probabilities is {chances!r}; each must be a number from 0 to 1")
    if chances and (len(chances) != len(p["values"]) or abs(sum(chances) - 1) > 1e-6):
        raise ConfigError(
            f"{name}.probabilities is {chances!r}; it must be one for each of the {len(p['values'])} values, which add up to 1"
        )


def require_bounds(name: str, kind: str, p: Settings) -> None:
    """Raises ConfigError for a distribution from which nothing can be drawn."""
    low, high, q = p.get("min"), p.get("max"), p.get("q")
    if low is not None and high is not None and high <= low:
        raise ConfigError(f"{name}.max is {high!r}; it must be above {name}.min, {low!r}")
    if kind == "int_uniform" and not type(low) is type(high) is int:
        raise ConfigError(f"{name} is int_uniform, whose min and max must be whole numbers: {low!r}, {high!r}")
    if "log_uniform" in kind and low is not None and low <= 0:
        raise ConfigError(f"{name}.min is {low!r}; it must be above 0 for {kind}")
    for key in ("q", "sigma", "a", "b"):
        if key in p and p[key] <= 0:
            raise ConfigError(f"{name}.{key} is {p[key]!r}; it must be above 0")
    if q and any(abs(math.remainder(end, q)) > 1e-9 * q for end in (low, high) if end is not None):
        raise ConfigError(f"{name}.min and max must be multiples of q, {q}")
