"""The exact optimum of a world on points, and the exact figures of its policies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.oracle import linear_gaussian
from pgdlab.oracle.grid import induction, laws
from pgdlab.oracle.grid import optimum as grid
from pgdlab.oracle.tilted import GaussianMixture, tilt
from pgdlab.penalties.base import Penalties
from pgdlab.penalties.path_kl import PathKL
from pgdlab.rewards.analytic import Quadratic
from pgdlab.world import World


@dataclass(frozen=True)
class Figures:
    """Of R replicas of a policy: objective at the problem's own KL weights, expected reward, KLs in nats. Lists (R,). The last
    two are of the law of the final samples, E[r] - lambda KL(p || p_pre) and that KL: empty where it is not known."""

    objective: list[float]
    reward: list[float]
    path_kl: list[float]
    initial_kl: list[float]
    final_objective: list[float] = field(default_factory=list)
    final_kl: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, value: Any, lam: float = 0.0, final_kl: Tensor | None = None) -> Figures:
        """From an oracle's value, and the KL of the final samples where that is known."""
        known = cls(*(torch.as_tensor(getattr(value, name)).reshape(-1).tolist() for name in FIGURES[:4]))
        if final_kl is None:
            return known
        kl = final_kl.reshape(-1).tolist()
        objective = [r - lam * nats for r, nats in zip(known.reward, kl, strict=True)]
        return replace(known, final_objective=objective, final_kl=kl)

    @classmethod
    def join(cls, parts: list[Figures]) -> Figures:
        """Of several replicas."""
        return cls(*([x for part in parts for x in getattr(part, name)] for name in FIGURES))


FIGURES = ("objective", "reward", "path_kl", "initial_kl", "final_objective", "final_kl")


@dataclass(frozen=True)
class Truth:
    """The exact optimum of a world. best: attainable with Gaussian steps of the sampler's std; ceiling: by any policy;
    base: the pretrained policy. measure: the exact figures of a policy of this world. tilt: of the base's own final samples by
    exp(r / lambda), the most that E[r] - lambda KL of a law of samples can be; None where it is not known."""

    best: Figures
    ceiling: float
    base: Figures
    measure: Callable[[Policy], Figures]
    tilt: Figures | None = None


def declared(penalties: Penalties) -> PathKL:
    """The KL weights of a problem. Raises ValueError where it has none."""
    found = [penalty for penalty in penalties.each() if isinstance(penalty, PathKL)]
    if not found:
        raise ValueError("the problem of a certificate must have a KL weight: set penalty=path_kl in it")
    return found[0]


def truth(world: World, penalty: PathKL) -> Truth:
    """The optimum of a world on points at the KL weights of the problem's penalty, whatever penalty is trained with.

    By the linear-Gaussian oracle where all is affine and quadratic, else on a grid (1-D and 2-D). Raises ValueError where
    there is no oracle, and where nothing can be gained (eta 0 with rho fixed).
    """
    lam, lam0 = penalty.coefficient.item(), penalty.initial_coefficient.item()
    found = linear(world, lam, lam0) if affine(world) else gridded(world, lam, lam0)
    if found.best.objective[0] - found.base.objective[0] < 1e-9:
        raise ValueError("the optimum is the base itself (eta 0 with a fixed initial distribution): nothing to measure")
    return found


def affine(world: World) -> bool:
    """Whether base, tuned part and reward are of the linear-quadratic kind."""
    if not isinstance(world.reward, Quadratic):
        return False
    try:
        linear_gaussian.affine_chain(moved(world.policy), torch.zeros(1, dtype=torch.long))
    except ValueError:
        return False
    return True


def moved(policy: Policy) -> Policy:
    """A copy with every trained weight changed: it may be affine only where it starts."""
    other, g = copy.deepcopy(policy), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in (p for p in other.parameters() if p.requires_grad):
            p.add_(0.1 * torch.randn(p.shape, generator=g).to(p))
    return other


def linear_problem(world: World, lam: float, lam0: float) -> linear_gaussian.Problem:
    """The linear-quadratic problem of a world, a replica for every prompt."""
    assert isinstance(world.reward, Quadratic)
    reference = linear_gaussian.affine_chain(world.reference, torch.tensor(world.domain.train_conditions))
    slope, curvature = world.reward.slope, world.reward.curvature.diag()
    trains = world.policy.trains_denoiser, world.policy.trains_initial
    return linear_gaussian.Problem(reference, slope, curvature, lam, lam0, *trains)


def linear(world: World, lam: float, lam0: float) -> Truth:
    """In closed form."""
    problem, cond = linear_problem(world, lam, lam0), torch.tensor(world.domain.train_conditions)
    best = linear_gaussian.optimum(problem)

    def figures(chain: linear_gaussian.AffineChain) -> Figures:
        value = linear_gaussian.evaluate(chain, problem)
        return Figures.of(value, lam, linear_gaussian.final_kl(chain, problem.reference))

    def measure(policy: Policy) -> Figures:
        return figures(linear_gaussian.affine_chain(policy, cond))

    return Truth(figures(best.chain), best.ceiling[0].item(), figures(problem.reference), measure, tilted(problem))


def tilted(problem: linear_gaussian.Problem) -> Figures:
    """The exponential tilt of the reference's own samples, one replica."""
    mean, covariance = linear_gaussian.moments(problem.reference)[-1]
    samples = GaussianMixture(torch.ones(1, dtype=torch.float64), mean[:1], covariance[:1])
    best = tilt(samples, slope=problem.slope, curvature=problem.curvature, lam=problem.lam)
    return Figures([], [best.reward], [], [], [best.value], [best.kl])


def gridded(world: World, lam: float, lam0: float) -> Truth:
    """On a grid."""
    none = torch.zeros(1, dtype=torch.long)
    problem = induction.Problem(
        reference=world.reference, reward=lambda x: world.reward.score(x, none.expand(len(x))).value, lam=lam, lam0=lam0,
        trains_denoiser=world.policy.trains_denoiser, trains_initial=world.policy.trains_initial,
    )  # fmt: skip
    parts = [replace(problem, cond=prompt) for prompt in world.domain.train_conditions]
    best, base = grid.attainable(problem), grid.evaluate(world.reference, problem)
    known = laws.is_known(problem)

    def figures(policy: Policy, part: induction.Problem) -> Figures:
        return Figures.of(grid.evaluate(policy, part), lam, laws.final_kl(policy, part) if known else None)

    def measure(policy: Policy) -> Figures:
        return Figures.join([figures(policy, part) for part in parts])

    zero = torch.zeros(1, dtype=torch.float64) if known else None
    same = [Figures.of(best)] * len(parts), [Figures.of(base, lam, zero)] * len(parts)
    top = tilt_on_grid(problem) if known else None
    return Truth(Figures.join(same[0]), grid.ceiling(problem).objective, Figures.join(same[1]), measure, top)


def tilt_on_grid(problem: induction.Problem) -> Figures:
    """The exponential tilt of the reference's own samples, one replica."""
    value, reward, kl = laws.tilt(problem)
    return Figures([], [reward], [], [], [value], [kl])


def ideal_gain(world: World) -> float:
    """The mean reward that the exponential tilt of the chain's own samples has over theirs, at the weight of the path KL."""
    penalty = declared(world.penalties)
    problem = linear_problem(world, penalty.coefficient.item(), penalty.initial_coefficient.item())
    base = linear_gaussian.evaluate(problem.reference, problem).reward[0].item()
    return tilted(problem).reward[0] - base
