"""Small worlds with known answers: a Gaussian denoiser that can be moved, rewards with closed forms, no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pgdlab.diffusion.conditioning import Conditioning, NoLabels
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.initial import Diagonal, InitialDistribution, Standard
from pgdlab.diffusion.kernels import DDIM
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.schedules import DiffusersSchedule
from pgdlab.diffusion.space import Dense, Space
from pgdlab.domains.base import Decoder, Identity, LabelledDomain
from pgdlab.functional.gaussian import expand
from pgdlab.penalties.base import Penalties, Penalty
from pgdlab.rewards.base import Reward, Score
from pgdlab.rollout.memory import Capacity
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.plan import Plan
from pgdlab.world import World

BETA_START, BETA_END = 0.1, 0.6
CLASS_MEANS = ((0.0, 0.0), (1.0, -0.5), (0.3, 0.3))  # the last one stands for "no class"


def tiny_schedule(times: int = 4, **more: Any) -> DiffusersSchedule:
    """betas linear from .1 to .6; every time is a step if there are as many steps; the last step has no noise."""
    config = {
        "num_train_timesteps": times, "beta_schedule": "linear", "beta_start": BETA_START, "beta_end": BETA_END,
        "prediction_type": "sample", "clip_sample": False, "timestep_spacing": "leading", "set_alpha_to_one": True,
    }  # fmt: skip
    return DiffusersSchedule(config | more)


class GaussianDenoiser(Denoiser):
    """E[x0|x_t] for data N(mean[cond], std^2 I), exactly, plus shift[t] + gain[t] x, which can be trained.

    x0 and x_t are jointly Gaussian with cov(x0, x_t) = alpha std^2 and var x_t = alpha^2 std^2 + sigma^2.
    """

    def __init__(self, schedule: DiffusersSchedule, std: float = 0.5, trained: bool = True) -> None:
        super().__init__()
        self.schedule, self.data_std = schedule, std
        self.register_buffer("means", torch.tensor(CLASS_MEANS, dtype=torch.float64))
        rows = (schedule.train_times, self.means.shape[1])
        self.shift = nn.Parameter(torch.zeros(rows, dtype=torch.float64), requires_grad=trained)
        self.gain = nn.Parameter(torch.zeros(rows, dtype=torch.float64), requires_grad=trained)
        self.rows = 0

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.rows += len(x)
        alpha, sigma = expand(self.schedule.alpha(t), x), expand(self.schedule.sigma(t), x)
        mean, var = self.means[cond].to(x.dtype), self.data_std**2
        regression = alpha * var / (alpha**2 * var + sigma**2)
        return mean + regression * (x - alpha * mean) + self.shift[t] + self.gain[t] * x

    def frozen(self) -> Denoiser:
        copy = GaussianDenoiser(self.schedule, self.data_std, trained=False).to(self.shift.dtype)
        copy.shift.data.copy_(self.shift.detach())
        copy.gain.data.copy_(self.gain.detach())
        return copy


class Quadratic(Reward):
    """sum_d slope_d x_d - curvature_d x_d^2."""

    differentiable = True

    def __init__(self, slope: tuple[float, ...] = (1.0, -0.5), curvature: tuple[float, ...] = (0.8, 0.3)) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float64))
        self.register_buffer("curvature", torch.tensor(curvature, dtype=torch.float64))

    def score(self, sample: Any, cond: Tensor) -> Score:
        return Score.of((self.slope * sample - self.curvature * sample.square()).sum(1))


class Failing(Reward):
    """A reward whose scorer fails where the first coordinate is above a threshold; the value there is rubbish."""

    def __init__(self, reward: Reward, above: float = 0.5) -> None:
        super().__init__()
        self.reward, self.above, self.differentiable = reward, above, reward.differentiable

    def score(self, sample: Any, cond: Tensor) -> Score:
        score, failed = self.reward.score(sample, cond), sample[:, 0] > self.above
        return replace(score, value=torch.where(failed, 1e6, score.value), measured=~failed)


@dataclass(frozen=True, kw_only=True)
class TinyDomain(LabelledDomain):
    """Two classes of Gaussian points in the plane; decodes to the points themselves."""

    name: str = "tiny"
    space: Space = field(default_factory=lambda: Dense((2,)))
    conditioning: Conditioning = field(default_factory=lambda: NoLabels(2))
    decoder: Decoder = field(default_factory=Identity)
    train_conditions: tuple[int, ...] = (0,)

    def base(self) -> Denoiser:
        return GaussianDenoiser(tiny_schedule())

    def fresh(self, generator: torch.Generator) -> Denoiser:
        return self.base()

    def data(self, split: str) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(0)
        cond = torch.arange(4096) % 2
        noise = torch.randn(4096, 2, dtype=torch.float64, generator=g)
        return torch.tensor(CLASS_MEANS, dtype=torch.float64)[cond] + 0.5 * noise, cond

    def metrics(self, sample: Tensor, cond: Tensor) -> dict[str, float]:
        return {}

    def show(self, rows: dict[str, Tensor], path: Path, cond: Tensor | None = None) -> None: ...


@dataclass(frozen=True)
class FastNoise(Noise):
    """Noise for large statistics: fp64, one draw for all samples (so only good for whole batches)."""

    def steps(self, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
        g = torch.Generator().manual_seed(1000 * self.seed + iteration)
        return iter(torch.randn(len(index), steps, *shape, dtype=torch.float64, generator=g).unbind(1))


def moved(policy: Policy, seed: int = 0, size: float = 1.0) -> Policy:
    """The policy with everything that trains off its start, by about `size` in x0 units: the optimum of nothing."""
    g = torch.Generator().manual_seed(seed)
    scale = {"shift": 0.5, "gain": 0.25, "mean": 0.5, "log_scale": 0.2}
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if p.requires_grad:
                amount = size * scale.get(name.split(".")[-1], 0.1)
                p += amount * torch.randn(p.shape, generator=g, dtype=torch.float64).to(p)
    return policy


def tiny_policy(
    eta: float = 1.0,
    times: int = 4,
    steps: int | None = None,
    denoiser: bool = True,
    rho: bool = False,
    **schedule: Any,
) -> Policy:
    """fp64. denoiser, rho: what is trained."""
    space = Dense((2,))
    kind: type[InitialDistribution] = Diagonal if rho else Standard
    initial = kind(space=space, num_conditions=2, std=1.0).double()
    exact = GaussianDenoiser(tiny_schedule(times, **schedule), trained=denoiser)
    return Policy(exact, space, initial, DDIM(eta=eta), steps or times)


def tiny_world(
    policy: Policy | None = None, reference: Policy | None = None, reward: Reward | None = None,
    penalty: Penalty | dict[str, Penalty] | None = None, noise: Noise | None = None,
    train_conditions: tuple[int, ...] = (0,), **plan: Any,
) -> World:  # fmt: skip
    """A world around a policy (as it starts) and its reference; the plan's sizes as keywords."""
    policy = tiny_policy() if policy is None else policy
    sizes = {"samples": 16, "group": 4, "rollout_batch": 10**9, "pass_size": 10**9} | plan
    return World(
        domain=TinyDomain(train_conditions=train_conditions), policy=policy, reference=reference or policy.reference(),
        reward=reward or Quadratic(), heldout=None, penalties=penalties(penalty), plan=Plan(**sizes),
        noise=noise or Noise(0),
    )  # fmt: skip


def penalties(given: Penalty | dict[str, Penalty] | None) -> Penalties:
    """All penalties of a world: none, one, or several by name."""
    if given is None or isinstance(given, dict):
        return Penalties(given)
    return Penalties({"the": given})


def planned(world: World, **sizes: Any) -> World:
    """The world with other sizes of its plan, and a capacity of that plan."""
    return replace(world, plan=replace(world.plan, **sizes), capacity=Capacity())


def every(rows: int, trained: int) -> tuple[Tensor, Tensor]:
    """Row and column of every pair."""
    return torch.arange(rows).repeat_interleave(trained), torch.arange(trained).repeat(rows)


def gradient(world: World, algorithm: Any, experience: Any = None, update: int = 0) -> dict[str, Tensor]:
    """The gradient of a whole update's loss, by parameter name."""
    experience = algorithm.collect(world, 0) if experience is None else experience
    trained = {name: p for name, p in world.policy.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in trained.items()}
    for piece in algorithm.micro_batches(experience, update, world):
        some = torch.autograd.grad(
            algorithm.loss(experience, piece, world).value, list(trained.values()), allow_unused=True
        )
        for name, g in zip(trained, some, strict=True):
            total[name] += 0 if g is None else g
    return total
