"""Checks of a run before it trains: what would silently ruin it, found in seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from pgdlab.functional.gaussian import kl_same_std
from pgdlab.rewards.base import Outcome
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.sampler import Extras
from pgdlab.rollout.trajectory import Trajectory, initial_kl, replay
from pgdlab.trainers.interaction import OneShot, Request, in_turn
from pgdlab.trainers.ppo import PPO
from pgdlab.training.checks_densities import densities, drawn, reached
from pgdlab.training.checks_network import network
from pgdlab.training.checks_pipeline import pipeline
from pgdlab.training.findings import Check
from pgdlab.training.module import SteeringModule
from pgdlab.training.rehearsal import rehearse
from pgdlab.training.reward_checks import environment, heldout, reward
from pgdlab.world import World

ROWS = 16  # trajectories that the checks use
PAIRS = 32  # (trajectory, step) pairs for gradients
RATIO_LIMIT = 0.02  # nats; fp32 rounding gives below 1e-3, a wrong replay at once far more


class DoctorError(ValueError):
    """A check failed: training would not do what it seems to."""


def examine(module: SteeringModule, precision: str | None = None) -> list[Check]:
    """All checks, in the order in which a reader would ask, in the run's precision (runtime.precision).

    Weights, modes and torch's generator are left as they were.
    """
    world = module.world
    noise = Noise(world.noise.seed, Stream.DOCTOR)
    checks: list[Callable[[], Iterator[Check]]] = [
        lambda: _optimizer(module),
        lambda: _guidance(world),
        lambda: (_check(*finding) for finding in pipeline(world)),
        lambda: network(world),
        lambda: _noise(world, trajectory, replayed[0]),
        lambda: _ratio(trajectory, replayed[1]),
        lambda: _densities(world, trajectory, replayed[0]),
        lambda: _clip(module),
        lambda: _kl(world, trajectory),
        lambda: (
            reward(world, outcome, sampling, _group(world)) if world.environment is None else environment(world, noise)
        ),
        lambda: heldout(world, outcome),
    ]
    # without autocast's cache of weights, which would not see them nudged
    half = torch.autocast(world.device.type, torch.bfloat16, enabled=precision == "bf16-mixed", cache_enabled=False)
    with _mode(module, training=module.algorithm.dropout), torch.random.fork_rng(devices=[]), half:
        started = time.perf_counter()
        trajectory, outcome = _sample(world, noise)
        sampling = ROWS / (time.perf_counter() - started)
        replayed = _replayed(world, trajectory)
        findings = [finding for check in checks for finding in check()]
    with _mode(module, training=False), torch.random.fork_rng(devices=[]):
        return [*findings, Check("afterwards", *rehearse(world, trajectory))]


@contextmanager
def _mode(module: SteeringModule, *, training: bool) -> Iterator[None]:
    """All parts in one mode; afterwards every part has its own again."""
    modes = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def require(checks: list[Check]) -> None:
    """Raises DoctorError with every failed check."""
    failed = [f"{c.name}: {c.message}" for c in checks if c.verdict == "failed"]
    if failed:
        raise DoctorError("the doctor stopped the run. " + " | ".join(failed))


def _sample(world: World, noise: Noise) -> tuple[Trajectory, Outcome]:
    group = _group(world)
    cond = in_turn(world.domain.train_conditions, -(-ROWS // group)).repeat_interleave(group)[:ROWS]
    trained = world.policy.stochastic_steps
    request = Request(
        policy=world.policy, reference=world.reference, noise=noise.of(0, range(ROWS)), cond=cond, trained=trained,
        extras=Extras(bool(trained), world.reward.needs_estimates(), half=world.plan.bf16_states),
    )  # fmt: skip
    return OneShot().sample(world, request)


def _group(world: World) -> int:
    """Trajectories of one condition, as in training where they are few enough."""
    return min(world.plan.group, ROWS)


def _check(name: str, good: bool, message: str, cause: str) -> Check:
    return Check(name, "ok" if good else "failed", message if good else f"{message}; {cause}")


def _optimizer(module: SteeringModule) -> Iterator[Check]:
    """Exactly the parameters that require gradients are in the optimizer, and nothing frozen requires one."""
    world = module.world
    made = module.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parts = {"": world.policy} | {f"{name}.": part for name, part in module.outside_policy().items()}
    named = {prefix + n: p for prefix, part in parts.items() for n, p in part.named_parameters()}
    trained = {n: p for n, p in named.items() if p.requires_grad}
    missing = [n for n, p in trained.items() if id(p) not in held]
    frozen = [n for n, p in named.items() if not p.requires_grad and id(p) in held]
    own = {id(p) for p in named.values()}
    outside = [p for p in (world.reference, world.old, world.reward, world.heldout, world.penalties) if p is not None]
    loose = [n for part in outside for n, p in part.named_parameters() if p.requires_grad and id(p) not in own]
    stray = len(held - own)
    good = not (missing or frozen or loose or stray)
    count = sum(p.numel() for p in trained.values())
    cause = (
        f"not in the optimizer: {missing[:3]}; in it though frozen: {frozen[:3]}; trainable outside the policy: {loose[:3]}; "
        f"in it though not the policy's: {stray}"
    )
    yield _check("parameters", good, f"{count:,} trained, all in the optimizer", cause)


def _densities(world: World, trajectory: Trajectory, taken: Tensor) -> Iterator[Check]:
    """What a gradient is made of, against figures of another make."""
    rho = [p for p in world.policy.initial.parameters() if p.requires_grad]
    yield from (
        _check(*f) for f in densities(world.policy, world.penalties, trajectory, drawn(world.policy, trajectory, taken))
    )
    with _nudged(rho):  # a last layer of zeros lets nothing through to those before it
        yield from (_check(*f) for f in reached(world.policy, trajectory))


@torch.no_grad()
def _replayed(world: World, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
    """By replay, for all rows and trained steps: the noise that the action took (ROWS, K, D), its log-probability (ROWS, K)."""
    trained = trajectory.trained
    if not trained:
        return trajectory.initial.new_empty(ROWS, 0, trajectory.initial[0].numel()), trajectory.log_prob
    g, score = replay(
        world.policy, trajectory, trajectory.pairs(torch.arange(ROWS * len(trained), device=world.device))
    )
    actions = torch.stack([trajectory.states[:, trajectory.stored_at[h + 1]] for h in trained], 1).flatten(0, 1)
    return ((actions - g.mean) / g.std).reshape(ROWS, len(trained), -1), score.reshape(ROWS, -1)


@torch.no_grad()
def _noise(world: World, trajectory: Trajectory, taken: Tensor) -> Iterator[Check]:
    """The noise that the trajectories really took, that of s_0 first: no two samples and no two steps have the same."""
    every = drawn(world.policy, trajectory, taken)
    parts = {"samples": every.flatten(1), "steps": every.transpose(0, 1).flatten(1)}
    near = {name: _nearest(x) for name, x in parts.items()}
    # of independent numbers the nearest of some hundred pairs are nearer than that once in a thousand times: the distance
    # of two is sqrt(2), and chance brings them together only where they are few
    shared = [name for name, x in parts.items() if near[name] < 0.1 ** (1 + 4 / x.shape[1])]
    message = ", ".join(f"the nearest two {name} are {distance:.2g} apart" for name, distance in near.items())
    yield _check("noise", not shared, f"{message} (independent: around 1.4)", f"{' and '.join(shared)} share noise")


def _nearest(rows: Tensor) -> float:
    """Root mean square difference of the two rows that differ least; infinite for a single row."""
    return torch.pdist(rows).min().item() / rows.shape[1] ** 0.5 if len(rows) > 1 else math.inf


def _clip(module: SteeringModule) -> Iterator[Check]:
    if isinstance(module.algorithm, PPO):
        updates = module.algorithm.updates_per_iteration(module.world.plan)
        idle = "; the ratio stays 1 and the clip does nothing: trainer=reinforce is the same" if updates == 1 else ""
        yield Check("clip", "warning" if idle else "ok", f"{updates} updates a rollout{idle}")


def _guidance(world: World) -> Iterator[Check]:
    """Guidance is the difference between a prompt and none: where no prompt names anything it is 0, and costs its rows."""
    if not world.policy.denoiser.guided:
        return
    none, prompts = world.domain.conditioning.unconditional, world.domain.train_conditions
    named = sum(prompt != none for prompt in prompts)
    cause = "guidance changes nothing then: set policy.guidance=1, or prompts that name something"
    yield _check("guidance", named > 0, f"{named} of {len(prompts)} prompts name something", cause)


def _ratio(trajectory: Trajectory, score: Tensor) -> Iterator[Check]:
    """log pi(a|s) of replay minus that of the rollout, for every step: 0 before the first update."""
    if not trajectory.trained:
        yield Check("ratio", "ok", "no stochastic step: the initial distribution alone is trained")
        return
    off = (score - trajectory.log_prob).abs()
    worst, step = off.max(0).values.max(0)
    message = f"log-ratio mean {off.mean():.1e}, worst {worst:.1e} nats at step {trajectory.trained[int(step)]}"
    cause = "replay does not give the density that was sampled from (dropout, precision, conditioning order?)"
    yield _check("ratio", bool(worst < RATIO_LIMIT), message, cause)


@contextmanager
def _nudged(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Parameters moved by a hundredth, and put back bit for bit."""
    saved = [p.detach().clone() for p in parameters]
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in parameters:
            p += 0.01 * torch.randn(p.shape, generator=g, dtype=torch.float32).to(p)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, s in zip(parameters, saved, strict=True):
                p.copy_(s)


def _kl(world: World, trajectory: Trajectory) -> Iterator[Check]:
    """The KL's gradient: zero on the reference, not zero off it."""
    if not world.penalties.needs_reference():
        yield Check("kl gradient", "ok", "no penalty, nothing to check")
        return
    trained = [p for p in world.policy.parameters() if p.requires_grad]
    on = _kl_gradient(world, trajectory, trained)
    with _nudged(trained):
        off = _kl_gradient(world, trajectory, trained)
    if on == off == 0 and _flat(world):
        yield Check("kl gradient", "ok", "the penalty differentiates nothing: it acts through the returns alone")
        return
    message = f"norm {on:.1e} on the reference, {off:.1e} off it"
    cause = "the penalty would not hold the policy (computed without gradient, or against a reference that moves)"
    yield _check("kl gradient", off > 0 and on < 1e-2 * off, message, cause)


def _flat(world: World) -> bool:
    """Whether the cost does not depend on the KL, on purpose: it can be differentiated, and the derivative is 0."""
    kl = torch.ones(1, device=world.device, requires_grad=True)
    cost = world.penalties.loss_term(kl)
    return cost.requires_grad and not torch.autograd.grad(cost.sum(), kl)[0].any()


def _kl_gradient(world: World, trajectory: Trajectory, trained: Sequence[Tensor]) -> float:
    """Norm of the gradient of the penalty's cost; 0 where nothing can be differentiated."""
    penalties, policy = world.penalties, world.policy
    total = penalties.initial_loss_term(initial_kl(policy, world.reference, trajectory.cond)).sum()
    if policy.trains_denoiser:
        indices = torch.arange(ROWS * len(trajectory.trained), device=world.device)
        pairs = trajectory.pairs(indices[:: max(1, len(indices) // PAIRS)])
        g, _ = replay(policy, trajectory, pairs)
        with torch.no_grad():
            mean = replay(world.reference, trajectory, pairs)[0].mean
        exact = kl_same_std(g.mean, mean, g.std, policy.space, pairs.cond)
        total = total + penalties.loss_term(exact).sum()
    if not total.requires_grad:
        return 0.0
    some = torch.autograd.grad(total, trained, allow_unused=True)
    return math.hypot(*(g.norm().item() for g in some if g is not None))
