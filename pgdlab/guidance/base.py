"""What every way of steering without training shares: its law, what is sampled, what comes of it, and potentials of states."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.guidance.temperature import Settling, Target
from pgdlab.rewards.base import Outcome
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.noise import Noise, RowNoise, Stream
from pgdlab.rollout.sampler import Extras, Plain, Sampler
from pgdlab.rollout.trajectory import TENSORS, Trajectory
from pgdlab.trainers.interaction import OneShot, Request, in_turn
from pgdlab.trainers.reward_gradient import Slope, refuse_flat
from pgdlab.world import World

Law = Literal["T_full", "T_rho", "attainable", "T_data", "none"]
LAWS: dict[Law, str] = {
    "T_full": "p(x) exp(r(x) / lam) / Z, p the law of the samples of the {0}",
    "T_rho": "every step of the {0} tilted by exp(psi_h+1 - psi_h), psi = V / lam, from an initial state that stays",
    "attainable": "the best chain of Gaussian steps with the stds of the {0}",
    "T_data": "p(x) exp(r(x) / lam) / Z, p the law of the data as the {0} knows it",
    "none": "no law that is known beforehand",
}
Tilted = Literal["base", "policy"]


@dataclass(frozen=True)
class Source:
    """What is steered: the samples of a policy, the base or a tuned one, under the conditions of N slots. noise: of candidate k
    of slot i that of (iteration k, index i)."""

    world: World
    policy: Policy
    cond: Int[Tensor, " N"]
    noise: Noise

    @property
    def tuned(self) -> bool:
        """Whether it is another policy than the base."""
        return self.policy is not self.world.reference

    def request(self, noise: RowNoise, cond: Int[Tensor, " B"], ratio: bool, sampler: Sampler | None = None) -> Request:
        """Samples of the policy; ratio: with the densities that a tuned one is held against the base by."""
        ode = not self.policy.stochastic_steps
        extras = Extras(
            reference=ratio and self.tuned, estimates=self.world.reward.needs_estimates(), tuned_deterministic=ode
        )
        base = self.world.reference
        return Request(
            policy=self.policy, reference=base, noise=noise, cond=cond, extras=extras, sampler=sampler or Plain()
        )


@dataclass(frozen=True)
class Steered:
    """What a guidance returns of N slots, so far. value: (N,) rewards, -inf where not measured. queries, evaluations: reward
    queries and network rows so far. figures: of summary.json, by the names of docs/metrics.md. groups: where above 0, slots i,
    i + groups, ... come from one population and are not independent. kl_nats: of the paths to the base's, where it is known."""

    trajectory: Trajectory
    value: Float[Tensor, " N"]
    queries: int
    evaluations: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    groups: int = 0
    kl_nats: float | None = None

    def taking(self, new: Steered, take: Bool[Tensor, " M"]) -> Steered:
        """The first rows replaced by new's where `take` says so; costs add up."""
        rows = take.nonzero().squeeze(1)
        tensors = {name: getattr(self.trajectory, name).clone() for name in TENSORS}
        for name, x in tensors.items():
            x[rows] = getattr(new.trajectory, name)[rows]
        value = self.value.index_copy(0, rows, new.value[rows])
        queries, evaluated = self.queries + new.queries, self.evaluations + new.evaluations
        return Steered(replace(self.trajectory, **tensors), value, queries, evaluated)


class Guidance(ABC):
    """A way of steering at sampling time (the group `guidance`). A frozen dataclass."""

    @property
    def law(self) -> Law:
        """What it aims at."""
        return "none"

    def law_for(self, source: Source) -> Law:
        """What it aims at with this source: by default the same whatever that is."""
        return self.law

    @abstractmethod
    def steer(self, source: Source, queries: int) -> Iterator[Steered]:
        """For so many reward queries at most, what is there after each round; at least one candidate a slot. Raises ValueError
        where that cannot be, RewardError as training does."""

    def settled(self, source: Source) -> tuple[Guidance, Settling]:
        """With what is to be found out before it can begin, and what that cost: by default nothing is."""
        return self, Settling()

    def asks_before(self) -> int:
        """The reward queries of settled()."""
        return 0

    def refuse(self, source: Source) -> None:  # noqa: B027
        """Raises ValueError where it cannot steer this. By default it can steer anything."""

    def require(self, source: Source, queries: int) -> None:
        """Raises ValueError where it cannot steer this, or not with so many reward queries."""
        self.refuse(source)

    def advice(self, source: Source) -> str:
        """What is to be said before it begins; nothing by default."""
        return ""

    def aims_at(self, source: Source) -> str:
        """The law in words."""
        return LAWS[self.law].format("tuned policy" if source.tuned else "base")


@dataclass(frozen=True, kw_only=True)
class Tilt(Guidance):
    """A guidance with a temperature.

    lam: lambda, in units of the reward; the law is tilted by exp(r / lam); or a Target that it is to reach. tilted: whose law,
    where a tuned policy makes the samples: "base" weighs them with the ratio of the densities, so that the law is the same as
    from the base; "policy" does not, and the reward counts twice: training at lambda_1, steering at lambda_2 is
    1/lambda = 1/lambda_1 + 1/lambda_2.
    """

    lam: float | Target = 0.1
    tilted: Tilted = "base"

    def __post_init__(self) -> None:
        if not isinstance(self.lam, Target) and not self.lam > 0:
            raise ValueError(f"lam is {self.lam}; it must be above 0 (for the highest reward take guidance=best_of_n)")

    @property
    def law(self) -> Law:
        return "T_full"

    @property
    def temperature(self) -> float:
        """lambda, which a target has been searched for before."""
        assert not isinstance(self.lam, Target), "settled() comes first"
        return self.lam

    def asks_before(self) -> int:
        return self.lam.samples if isinstance(self.lam, Target) else 0

    @torch.no_grad()
    def settled(self, source: Source) -> tuple[Guidance, Settling]:
        """By samples of the law that is tilted, on noise of their own, conditions in turn."""
        if not isinstance(self.lam, Target):
            return self, Settling()
        world, pilot = source.world, range(self.lam.samples)
        whose = replace(source, policy=world.reference) if self.ratio else source
        cond = in_turn(world.domain.train_conditions, len(pilot)).to(world.device)
        request = whose.request(Noise(source.noise.seed, Stream.PILOT).of(0, pilot), cond, False)
        found = OneShot().collect(world, request)
        seen = found.rewards.measured
        lam = self.lam.solve(found.rewards.total[seen], found.trajectory.cond[seen])
        return replace(self, lam=lam), Settling(lam, found.rewards.queries, found.evaluations)

    @property
    def ratio(self) -> bool:
        """Whether samples of a tuned policy are weighed with the ratio of the densities."""
        return self.tilted == "base"

    def refuse(self, source: Source) -> None:
        if source.tuned and self.ratio and not source.policy.stochastic_steps:
            raise ValueError(
                "a tuned policy without noise (eta 0) has no density relative to the base: guidance.tilted=policy"
            )

    def aims_at(self, source: Source) -> str:
        whose = "tuned policy" if source.tuned and not self.ratio else "base"
        return LAWS[self.law].format(whose).replace("lam", f"{self.temperature:g}")

    def log_weight(self, found: Steered) -> Float[Tensor, " N"]:
        """r / lambda + log p_base / p_policy of whole paths, where that is asked; -inf where the reward is not measured."""
        return found.value.double() / self.temperature - log_ratio(found.trajectory)


def log_ratio(trajectory: Trajectory, h: int | None = None) -> Float[Tensor, " B"]:
    """log p_policy / p_base of the paths up to state h (None: the sample), fp64; 0 where the reference was not asked."""
    if not trajectory.log_ratio.shape[1]:
        return torch.zeros(len(trajectory.cond), dtype=torch.float64, device=trajectory.cond.device)
    return trajectory.initial_log_ratio.double() + trajectory.log_ratio[:, :h].sum(1)


def means(values: Float[Tensor, " N"]) -> tuple[float | None, float | None]:
    """Mean and its standard error, None where they are not known."""
    known = values.double()
    error = (known.std() / len(known) ** 0.5).item() if len(known) > 1 else None
    return (known.mean().item() if len(known) else None), error


class Valued(NamedTuple):
    """Values of P states in units of the reward, which of them are known, and the reward queries that they cost. gradient: in the
    states, where it was asked for."""

    value: Float[Tensor, " P"]
    measured: Bool[Tensor, " P"]
    queries: int = 0
    gradient: Float[Tensor, "P *D"] | None = None

    def times(self, factor: float) -> Valued:
        """In other units. fp64."""
        gradient = None if self.gradient is None else self.gradient * factor
        return self._replace(value=self.value.double() * factor, gradient=gradient)


class Potential(ABC):
    """V_h(s), what a state is thought to be worth, in units of the reward. asks: whether it costs a reward query a state.
    through: whether its gradient goes through the x0 estimate. Any potential leaves the law of particles right; a good one
    needs fewer of them."""

    asks: ClassVar[bool] = False
    through: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, world: World, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], h: int, cond: Tensor
    ) -> Valued:
        """Of states x of step h with the x0 estimates x0."""

    def refuse(self, world: World) -> None:  # noqa: B027
        """Raises ValueError where it has no values. By default it has."""

    def slope(self, world: World, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], h: int, cond: Tensor) -> Valued:
        """With the gradient in x, which requires one; where it goes through x0, that is a function of x. Called with gradients
        enabled."""
        raise NotImplementedError

    def refuse_slope(self, world: World) -> None:
        """Raises ValueError where it has no gradient. By default it has none."""
        raise ValueError(f"{type(self).__name__} has no gradient in the states: take another guidance.potential")

    def temperature(self) -> float | None:
        """The one lambda at which it is log E[exp(r / lam)] lam; None where it is made for none."""
        return None

    def costs(self) -> dict[str, int]:
        """Reward queries and network rows that it has cost before, `queries` and `evaluations`."""
        return {"queries": 0, "evaluations": 0}


def require_temperature(potential: Potential, lam: float | Target) -> None:
    """Raises ValueError for a soft value of another lambda: scaled, it is not that of this one."""
    if (own := potential.temperature()) is None:
        return
    if isinstance(lam, Target):
        raise ValueError(f"a soft value is that of one lambda, {own:g}: guidance.lam={own:g}, no target")
    if not math.isclose(own, lam):
        raise ValueError(
            f"guidance.lam is {lam:g}, and the value was fitted for {own:g}: a soft value is that of one lambda. Set "
            f"guidance.lam={own:g}, or fit another with value.lam={lam:g}"
        )


@dataclass(frozen=True, kw_only=True)
class EstimateReward(Potential):
    """V_h(s) = r(decode(x0hat_h(s))). The x0 estimate is that of the step: no further network row. Estimates that cannot be
    scored are not measured, however many they are."""

    asks: ClassVar[bool] = True
    through: ClassVar[bool] = True

    def __call__(
        self, world: World, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], h: int, cond: Tensor
    ) -> Valued:
        seen = Outcome(world.domain.decoder(x0), cond, world.policy.steps)
        paid = guarded(world.reward, seen, max_failed=1.0)
        return Valued(paid.total, paid.measured, paid.queries)

    def refuse(self, world: World) -> None:
        if world.reward.needs_estimates():
            raise ValueError(
                f"reward {world.reward.called} pays intermediate states, and the guidance scores those itself: take the reward "
                "inside it, or guidance=soft_best_of_n"
            )

    def slope(self, world: World, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], h: int, cond: Tensor) -> Valued:
        slope = Slope(world, x0.detach().clone())
        paid = guarded(slope, Outcome(torch.arange(len(x), device=x.device), cond, world.policy.steps), max_failed=1.0)
        (gradient,) = torch.autograd.grad(x0, x, slope.gradient)
        return Valued(paid.total, paid.measured, paid.queries, gradient)

    def refuse_slope(self, world: World) -> None:
        refuse_flat(world)
