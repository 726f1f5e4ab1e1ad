"""Exact optima of 1-D and 2-D chains under any reward, and exact evaluation of any policy, by backward induction.

J = E[sum_h r_h] - lam sum_h E[KL_h] - lam0 KL(rho || rho_pre). Tabulated is the expectation of the value after each stochastic
step as a function of that step's mean; values in between are quintic splines, deterministic steps
are composed exactly, and expectations are taken against the step's Gaussian with jumps located within a cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.gaussian import Gaussian
from pgdlab.oracle.grid.induction import Induction, Problem, around, spaced, start_of, union, walk, within
from pgdlab.oracle.grid.quadrature import sampled
from pgdlab.oracle.grid.rules import VALUE, Attainable, Ceiling, Follow, Rule, Stay
from pgdlab.oracle.grid.spline import Box
from pgdlab.oracle.grid.start import Begin, Best, Given, Tilted

COARSE = 0.6  # of the nodes: the second grid, from which the error is estimated
ROUNDS = 8  # of moving the grids to where the optimum goes
ESCAPES = 1e-4  # the largest probability of leaving the grids

FINER = 0.3  # of the prior's std: the narrowest rho that the grid of s_0 is made for


@dataclass(frozen=True)
class Solution:
    """objective = reward - lam path_kl - lam0 initial_kl; KLs in nats.

    rho: mean and std of s_0, one row (of a ceiling's rho, which is no Gaussian, the moments). error: estimated, of
    objective and reward: twice their larger difference to a grid of .6 of the nodes; by chance two grids can agree where a
    reward jumps. left: the probability of leaving the grids.
    """

    objective: float
    reward: float
    path_kl: float
    initial_kl: float
    rho: Gaussian
    error: float
    left: float
    induction: Induction

    def value(self, x: Float[Tensor, "P D"], h: int) -> Float[Tensor, " P"]:
        """V_h at states x of step h = 0 .. H: expected reward - lam KL from action h on. Differentiable in x."""
        return self.induction.channels(x, h)[:, VALUE]

    @torch.no_grad()
    def mean(self, x: Float[Tensor, "P D"], h: int) -> Float[Tensor, "P D"]:
        """The mean of s_{h+1} at states x of step h = 0 .. H-1."""
        return self.induction.mean(x, h)


def attainable(problem: Problem) -> Solution:
    """The optimum among Gaussian steps of the reference's std, and Gaussian rho: within reach of a diffusion policy.

    V_h(x) = max_m E_{N(m, std_h^2 I)}[r_h + V_{h+1}] - lam |m - m_pre(x)|^2 / (2 std_h^2).
    """
    rule: Rule = Attainable(problem.lam) if problem.trains_denoiser else Stay(problem.lam)
    return solve(problem, rule, Best() if problem.trains_initial else Given(None))


def ceiling(problem: Problem) -> Solution:
    """The optimum among all policies: V_h(x) = lam log E_pre[exp((r_h + V_{h+1}) / lam)]; rho likewise with lam0."""
    rule: Rule = Ceiling(problem.lam) if problem.trains_denoiser else Stay(problem.lam)
    return solve(problem, rule, Tilted() if problem.trains_initial else Given(None))


def bounded(problem: Problem, box: float) -> Solution:
    """The largest E[reward] with |m - m_pre| <= box std_h in every coordinate; KL costs nothing, rho is the prior.

    V_h(x) = max_m E_{N(m, std_h^2 I)}[r_h + V_{h+1}]; objective = reward. Raises ValueError for box <= 0.
    """
    if box <= 0:
        raise ValueError(f"box is {box}; it must be above 0: the number of stds by which a mean may move")
    return solve(problem, Attainable(0.0, box), Given(None))


def evaluate(policy: Policy, problem: Problem) -> Solution:
    """J, E[reward] and KLs of a policy, exactly. Deterministic steps are the reference's.

    Raises ValueError for a policy with other stds than the reference's: its KL would be infinite.
    """
    if policy.steps != problem.reference.steps or not torch.allclose(policy.std, problem.reference.std):
        raise ValueError(
            "policy and reference must share schedule, steps and kernel: else the KL of a step is infinite"
        )
    return solve(problem, Follow(policy, problem.cond, problem.lam), Given(start_of(policy, problem.cond)))


@torch.no_grad()
def solve(problem: Problem, rule: Rule, begin: Begin) -> Solution:
    """On two grids; raises ValueError where they disagree by more than the tolerance or states leave them."""
    rough = placed(problem, rule, begin, int(COARSE * problem.nodes))
    solution = on_grid(problem, rule, begin, rough.induction.boxes, problem.nodes, rough.induction.reach)
    error = 2 * max(abs(solution.objective - rough.objective), abs(solution.reward - rough.reward))
    if solution.left > ESCAPES:
        raise ValueError(
            f"states leave the grids with probability {solution.left:.1e}: the optimum runs away. Raise lam, or bound "
            "the reward"
        )
    if not error <= problem.tolerance:
        # the error of a reward that jumps falls with the square of the number of nodes, a smooth one's much faster
        enough = math.ceil(2 * problem.nodes * math.sqrt(error / problem.tolerance)) if math.isfinite(error) else "more"
        raise ValueError(
            f"the error is about {error:.1e}, above the tolerance {problem.tolerance:.1e}: take about points={enough} "
            f"(now {problem.nodes}), or a larger tolerance"
        )
    return replace(solution, error=error)


def placed(problem: Problem, rule: Rule, begin: Begin, points: int) -> Solution:
    """On grids where the reference goes, and where the rule goes on them, until it goes nowhere else."""
    boxes, reach = around(walk(problem.prior(), problem.mean, problem.reference)), rule.reach(0.0)
    for _ in range(ROUNDS):
        solution = on_grid(problem, rule, begin, boxes, points, reach)
        states = walk(solution.rho, solution.mean, problem.reference)
        wanted = rule.reach(solution.induction.pull(states))
        if within(around(states), boxes) and wanted <= reach + 1:
            return solution
        boxes, reach = union(boxes, around(states)), max(wanted, reach)
    raise ValueError(f"the optimum still runs away after {ROUNDS} grids: raise lam, or bound the reward")


def on_grid(problem: Problem, rule: Rule, begin: Begin, boxes: list[Box], points: int, reach: float) -> Solution:
    """Backward induction on one set of grids; its error is not known yet."""
    induction, prior = Induction(problem, rule, boxes, points, reach), problem.prior()
    box = spaced(boxes[0], FINER * float(prior.std.min()), points)
    lam0, weight = problem.start_weight, rule.weight
    merge = partial(begin.merge, lam0=lam0, weight=weight)
    values = sampled(partial(induction.channels, h=0), box, induction.watched, merge)
    start = begin.start(values, box, prior, lam0)
    value, kl, left = start.channels.tolist()
    return Solution(
        objective=value - lam0 * start.kl, reward=value + weight * kl, path_kl=kl,
        initial_kl=start.kl, rho=start.rho, error=math.inf, left=left, induction=induction,
    )  # fmt: skip
