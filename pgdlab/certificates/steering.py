"""Steering without training held against the law that it aims at, on problems of one dimension where that is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.credit.critic import Perceptron
from pgdlab.credit.fitted import facts_of, save
from pgdlab.diffusion.analytic import Mixture
from pgdlab.diffusion.initial import Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.domains.points import Gaussian, GaussianMixture
from pgdlab.guidance.base import EstimateReward, Guidance, Potential, Source
from pgdlab.guidance.best_of_n import BestOfN
from pgdlab.guidance.gradient import Gradient
from pgdlab.guidance.learned import LearnedValue
from pgdlab.guidance.metropolis import Metropolis
from pgdlab.guidance.search import Search
from pgdlab.guidance.smc import SMC
from pgdlab.guidance.soft_best_of_n import SoftBestOfN
from pgdlab.guidance.svdd import SVDD
from pgdlab.guidance.value import ValueGuidance
from pgdlab.guidance.weights import normalised
from pgdlab.oracle.grid import law as laws
from pgdlab.oracle.grid.induction import Problem as GridProblem
from pgdlab.oracle.grid.law import Law
from pgdlab.oracle.grid.optimum import attainable
from pgdlab.rewards.analytic import Above, Quadratic
from pgdlab.rewards.base import Reward
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.plan import Plan
from pgdlab.training.value_fit import ValueFit, collected, fit
from pgdlab.world import World

STEPS = 10
BINS = 64  # of about equal mass under the law aimed at
RUNTIME = {"_target_": "lightning.pytorch.Trainer", "accelerator": "cpu"}
PATHS = 2048  # of the base, that a value is fitted to
MORE = (256, 1024, 4096)  # n at which the bias of importance weights is told besides, from the grid alone


@dataclass(frozen=True, kw_only=True)
class Steering:
    """How long the certificate of guidances is. particles: n of the methods that have it; draws: samples of a cell, in
    populations of n."""

    name: str = "steering"
    particles: tuple[int, ...] = (4, 16, 64)
    draws: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.particles or min(self.particles) < 2:
            raise ValueError(f"particles is {self.particles}; it must hold numbers of 2 or more")
        if self.draws < 20 * max(self.particles):
            raise ValueError(f"draws is {self.draws}; intervals take 20 populations of {max(self.particles)} at least")


@dataclass(frozen=True)
class Line:
    """A problem of one dimension. constant: what the quadratic reward of the package leaves out."""

    mixture: bool
    reward: Reward
    lam: float
    constant: float = 0.0

    @cached_property
    def world(self) -> World:
        """10 steps of DDPM on N(0, 1), or on .7 N(-1, .3^2) + .3 N(1, .3^2)."""
        two = GaussianMixture(weights=(0.7, 0.3), means=((-1.0,), (1.0,)), std=(0.3, 0.3))
        domain = two if self.mixture else Gaussian()
        initial = Standard(space=domain.space, num_conditions=1, std=1.0)
        policy = Policy(domain.base(), domain.space, initial, DDIM(), STEPS)
        plan = Plan(iterations=1, samples=PATHS, group=1, rollout_batch=10**9, pass_size=10**9)
        return World(domain=domain, policy=policy, reference=policy, reward=self.reward, plan=plan, noise=Noise(0))

    def value(self, x: Float[Tensor, "P 1"]) -> Float[Tensor, " P"]:
        """r."""
        return self.reward.score(x, torch.zeros(len(x), dtype=torch.long)).value + self.constant


PROBLEMS: dict[str, Callable[[], Line]] = {
    "gauss, linear": lambda: Line(False, Quadratic(), 0.5),
    "gauss, quadratic": lambda: Line(False, Quadratic(slope=(4.0,), curvature=(1.0,)), 0.5, -4.0),
    "gauss, indicator": lambda: Line(False, Above(threshold=1.5), 0.2),
    "mixture, linear": lambda: Line(True, Quadratic(), 0.5),
    "mixture, quadratic": lambda: Line(True, Quadratic(slope=(1.0,), curvature=(1.0,)), 0.25, -0.25),
    "mixture, indicator": lambda: Line(True, Above(threshold=1.2), 0.2),
}


@dataclass(frozen=True)
class Cell:
    """A method on a problem. law: aimed at; exact: E[r] of it, None where no law is known. reward: of one draw, half: of its 95 %
    interval over populations. kl, tv: of the draws to the law, in BINS bins; kl_half likewise. runs: populations."""

    problem: str
    method: str
    n: int
    law: str
    runs: int
    reward: float
    half: float
    exact: float | None
    kl: float | None
    kl_half: float | None
    tv: float | None

    @property
    def bias(self) -> float | None:
        """In E[r]."""
        return None if self.exact is None else self.reward - self.exact


@dataclass(frozen=True)
class Method:
    """A guidance with n of its own. law: a name of LAWS, or that of best-of-n."""

    name: str
    n: int
    law: str
    guidance: Guidance


def methods(suite: Steering, line: Line, run: Path) -> Iterator[Method]:
    """What is measured on a problem. run: the folder of its fitted value."""
    lam, learned, middle = line.lam, LearnedValue(run=run), suite.particles[len(suite.particles) // 2]
    ways: dict[str, dict[str, Any]] = {"smc": {}, "smc, learned value": {"potential": learned}}
    if line.reward.differentiable:
        ways |= {"smc, twisted": {"twist": 1e3}}
    for n in suite.particles:
        yield Method("best_of_n", n, "best of n", BestOfN())
        yield Method("soft_best_of_n", n, "T_full", SoftBestOfN(lam=lam))
        for name, how in ways.items():
            yield Method(name, n, "T_full", SMC(lam=lam, scored="all", particles=n, **how))
    few: dict[str, dict[str, Any]] = {
        "smc, 3 states": {"scored": (0.4, 0.7, 0.9)},
        "smc, learned value, twisted": {"potential": learned, "twist": 2.0},
    }
    few |= {f"smc, {form}": {"form": form, "threshold": 1.0} for form in ("max", "sum")}
    for name, how in few.items():
        given: dict[str, Any] = {"lam": lam, "scored": "all", "particles": middle} | how
        yield Method(name, middle, "T_full", SMC(**given))
    potentials: dict[str, Potential] = {"svdd": EstimateReward(), "svdd, learned value": learned}
    for name, potential in potentials.items():
        yield Method(name, middle, "T_rho", SVDD(lam=lam, candidates=middle, potential=potential))
    yield Method("metropolis", 2 * middle, "T_full", Metropolis(lam=lam))
    yield Method("search", middle, "none", Search())
    for form in ("tilted", "next", "own"):
        guided = ValueGuidance(lam=lam, potential=learned, form=form)
        yield Method(f"value, {form}", 1, "attainable", guided)
    for shift in ("next", "own", "score") if line.reward.differentiable else ():
        along = Gradient(lam=lam, form=shift, bound=None)
        yield Method(f"gradient, {shift}", 1, along.law, along)


@dataclass(frozen=True)
class Rate:
    """n times the bias of E[r] of one draw by n importance weights, exactly, for every n, and what it tends to."""

    each: dict[int, float]
    leading: float


def certify(suite: Steering, folder: Path) -> Iterator[tuple[Cell, Rate]]:
    """Every cell, and the rate of its problem."""
    for name, make in PROBLEMS.items():
        line = make()
        known, leading = exact_laws(line)
        rate = Rate({n: n * bias(line, known, n) for n in (*suite.particles, *MORE)}, leading)
        run = folder / name.replace(", ", "-")
        fitted(line, suite.seed, run)
        for method in methods(suite, line, run):
            yield measured(suite, name, line, method, known), rate


def bias(line: Line, known: dict[str, Law], n: int) -> float:
    """Of E[r] of soft best-of-n."""
    return laws.soft_best_of(known["base"], line.value, line.lam, n).expected - known["T_full"].expected


def exact_laws(line: Line) -> tuple[dict[str, Law], float]:
    """By name, on the grid; T_rho is T_full here, where the initial state decides nothing (eta 1)."""
    base = laws.chain_law(line.world.reference, line.value)
    full, _ = laws.tilted(base, line.value, line.lam)
    best = attainable(GridProblem(reference=line.world.reference, reward=line.value, lam=line.lam, tolerance=5e-3))
    guided = laws.chain_law(line.world.reference, line.value, best.mean)
    known = {"base": base, "T_full": full, "T_rho": full, "attainable": guided, "T_data": tilted_data(line, base)}
    return known, laws.leading_bias(base, line.value, line.lam)


def tilted_data(line: Line, base: Law) -> Law:
    """T_data: the data's own law, tilted."""
    data = line.world.domain.base()
    assert isinstance(data, Mixture)
    parts = torch.distributions.Normal(data.means[:, 0], data.spread[:, 0].sqrt())
    mass = parts.log_prob(base.nodes[:, None]).exp() @ data.weights
    return laws.tilted(replace(base, mass=mass / mass.sum()), line.value, line.lam)[0]


def fitted(line: Line, seed: int, run: Path) -> None:
    """A soft value of the problem, in a folder as task=value leaves it."""
    world = replace(line.world, noise=Noise(seed))
    how = ValueFit(lam=line.lam, critic=Perceptron(hidden=64), updates=1000, batch=512)
    with torch.no_grad():
        paths, costs = collected(world, lambda text: None)
    value, _ = fit(how, world, paths, RUNTIME, bar=False)
    save(value, {"of": "soft", "lam": line.lam, "reward": None, **facts_of(world), **costs}, run)


def measured(suite: Steering, problem: str, line: Line, method: Method, known: dict[str, Law]) -> Cell:
    """The draws of a method against its law."""
    x, weight = drawn(suite, line, method)
    law = laws.best_of(known["base"], method.n) if method.law == "best of n" else known.get(method.law)
    each = (weight * line.value(x.reshape(-1, 1)).reshape(x.shape)).sum(1)
    half = 1.96 * each.std().item() / len(each) ** 0.5
    found = (problem, method.name, method.n, method.law, len(x), each.mean().item(), half)
    if law is None:
        return Cell(*found, None, None, None, None)
    borders = laws.bins(law, BINS)
    kl, tv, error = laws.divergences(laws.sampled(x, weight, borders), laws.in_bins(law, borders))
    return Cell(*found, law.expected, kl, 1.96 * error, tv)


@torch.no_grad()
def drawn(suite: Steering, line: Line, method: Method) -> tuple[Float[Tensor, "R n"], Float[Tensor, "R n"]]:
    """Weighted populations: of particles all n, of the others the one that is returned."""
    guidance = method.guidance
    slots = max(20, suite.draws // (2 if isinstance(guidance, (ValueGuidance, Gradient)) else method.n))
    source = Source(line.world, line.world.reference, conditions(slots), Noise(suite.seed, Stream.EVALUATE))
    if isinstance(guidance, SMC):
        guidance.refuse(source)
        found = guidance.population(source, method.n, slots)
        return found.trajectory.sample.double().reshape(slots, method.n), normalised(found.log_weight)
    queries = slots * method.n * (STEPS + 1 if isinstance(guidance, (SVDD, Gradient)) else 1)
    *_, kept = guidance.steer(source, queries)
    sample = kept.trajectory.sample.double()
    return sample, torch.ones_like(sample)


def conditions(slots: int) -> Int[Tensor, " N"]:
    """The only one there is."""
    return torch.zeros(slots, dtype=torch.long)


def steering_table(cells: list[Cell]) -> list[list[str]]:
    """A row a cell."""
    return [
        [
            cell.problem, cell.method, str(cell.n), cell.law, f"{cell.reward:.3f} ± {cell.half:.3f}", shown(cell.exact),
            shown(cell.bias, sign=True), f"{shown(cell.kl)} ± {shown(cell.kl_half)}" if cell.kl is not None else "-",
            shown(cell.tv),
        ]
        for cell in cells
    ]  # fmt: skip


def rates(cells: list[Cell], known: dict[str, Rate]) -> list[list[str]]:
    """n times the bias of importance weights at every n, exactly and as measured, beside its leading term, and of particles."""
    rows = []
    for problem, rate in known.items():
        rows.append([problem, "soft_best_of_n, exactly", *(f"{x:.2f}" for x in (*rate.each.values(), rate.leading))])
        for method in ("soft_best_of_n", "smc"):
            some = [cell for cell in cells if (cell.problem, cell.method) == (problem, method)]
            each = [f"{cell.n * (cell.bias or 0):.2f} ± {cell.n * cell.half:.2f}" for cell in some]
            rows.append([problem, method, *each, *["-"] * (len(rate.each) + 1 - len(each))])
    return rows


def shown(figure: float | None, sign: bool = False) -> str:
    """Three decimals."""
    return "-" if figure is None else f"{figure:{'+' if sign else ''}.3f}"


HEAD = ["problem", "method", "n", "law", "E[r]", "of the law", "bias", "KL to it", "TV"]
