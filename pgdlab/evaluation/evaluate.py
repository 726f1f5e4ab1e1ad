"""Before and after on fresh noise: {base, raw, EMA} x {stochastic, ODE}."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgdlab.control.episodes import Episodes
from pgdlab.diffusion.policy import ODE, Policy
from pgdlab.evaluation.samples import evaluation_request
from pgdlab.processes import alone
from pgdlab.rewards.base import Outcome, StepRewards, part_mean
from pgdlab.rewards.guard import guarded
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.trajectory import Trajectory, initial_kl
from pgdlab.trainers.closed_loop import interaction_of
from pgdlab.trainers.interaction import decoded
from pgdlab.training.checkpoint import require_own
from pgdlab.training.fit import LAST, load, require_base, require_fit
from pgdlab.training.progress import Working
from pgdlab.world import World


@dataclass(frozen=True)
class Measured:
    """Samples of one policy and what they are worth, per sample and on the whole. episodes: of an environment."""

    trajectory: Trajectory
    reward: Tensor
    measured: Tensor
    figures: dict[str, Any]
    episodes: Episodes | None = None


def measure(world: World, policy: Policy, conditions: Sequence[int] = ()) -> Measured:
    """plan.eval_samples fresh samples of a policy: reward, held-out reward, exact KL, the domain's metrics; of these conditions,
    the training's where none are given. In a closed loop as
    many episodes, the first one of each environment.

    kl_nats covers the stochastic steps (and rho); it is None where a deterministic step uses moved weights: such a
    policy has no density relative to the reference.
    """
    noise = Noise(world.noise.seed, Stream.EVALUATE)
    ode = not policy.stochastic_steps
    compared = not ode and policy.trains_denoiser  # a frozen denoiser's KL is 0
    request = evaluation_request(world, policy, noise, compared, tuned_deterministic=ode, conditions=conditions)
    collected = interaction_of(world).collect(world, request)
    trajectory = collected.trajectory
    rho = initial_kl(policy, world.reference, trajectory.cond).double()
    exact = not ode or not policy.trains_denoiser
    kl = (trajectory.kl.sum(1).double() + rho).mean().item() if exact else None
    return measured(world, trajectory, collected.outcome, collected.rewards, kl)


def judge(world: World, trajectory: Trajectory, kl_nats: float | None) -> Measured:
    """Scores given samples. kl_nats: how far from the base they were made, None where that is not known."""
    outcome = decoded(world, trajectory)
    return measured(world, trajectory, outcome, guarded(world.reward, outcome, world.plan.max_failed), kl_nats)


def measured(
    world: World, trajectory: Trajectory, outcome: Outcome, rewards: StepRewards, kl_nats: float | None
) -> Measured:
    """The figures of samples and their rewards."""
    reward, known = rewards.judged
    figures: dict[str, Any] = described("reward", reward[known])
    if rewards.episodes is not None:
        figures |= rewards.episodes.figures(alone, reward.device)
    figures |= {f"reward/{name}": part_mean(part, rewards.measured) for name, part in rewards.parts.items()}
    if world.heldout is not None:
        held = guarded(world.heldout, outcome, max_failed=1.0)  # a figure to look at: it must not lose the run
        figures |= described("heldout", held.total[held.measured])
    figures |= {"failed": 1 - rewards.measured.double().mean().item()}
    figures |= {"kl_nats": kl_nats} | world.domain.metrics(trajectory.sample, trajectory.cond)
    return Measured(trajectory, reward, known, figures, rewards.episodes)


def mean_and_error(name: str, values: Tensor) -> dict[str, float | None]:
    """Mean and its standard error; None where there are fewer than two values."""
    if len(values) < 2:
        return {name: None, f"{name}_stderr": None}
    return {name: values.mean().item(), f"{name}_stderr": (values.std() / len(values) ** 0.5).item()}


def described(name: str, values: Tensor) -> dict[str, float | None]:
    """Mean, its standard error, and the standard deviation, which does not depend on how many values are known."""
    spread = values.std().item() if len(values) > 1 else None
    return mean_and_error(name, values) | {f"{name}_std": spread}


def shown(figure: float | None, digits: int = 3, times: float = 1.0) -> str:
    """A figure to read, "-" where it is not known."""
    return "-" if figure is None else f"{times * figure:.{digits}f}"


def evaluate(world: World, checkpoint: Path) -> dict[str, Measured]:
    """base, raw and EMA weights under the training sampler (sde) and the deterministic one (ode).

    Raises ValueError where the checkpoint does not fit the world's policy, or was made on another base.
    """
    state = load(checkpoint)
    load_weights(world.policy, state["current_model_state"], checkpoint)
    require_base(world.reference, state, checkpoint)
    results: dict[str, Measured] = {}
    with Working() as working:
        for name, policy in (("base", world.reference), ("raw", world.policy), ("ema", world.policy)):
            if name != "base":
                load_weights(policy, state["current_model_state" if name == "raw" else "state_dict"], checkpoint)
            kinds = {"sde": policy} if policy.stochastic_steps else {}
            for sampler, variant in (kinds | {"ode": policy.with_kernel(ODE)}).items():
                place = f"{len(results) + 1} of {3 * (len(kinds) + 1)}"
                working.say(f"evaluating {name}/{sampler}, {place}: {world.plan.eval_samples:,} samples")
                results[f"{name}/{sampler}"] = measure(world, variant)
    return results


@torch.no_grad()
def unseen(world: World) -> dict[str, Measured]:
    """The base and the policy as it is on the domain's test conditions, under the training sampler, named as evaluate() does;
    empty for a domain without any."""
    if not world.domain.test_conditions:
        return {}
    stochastic = bool(world.policy.stochastic_steps)
    named = {"base": world.reference, "ema": world.policy}
    samplers = {name: policy if stochastic else policy.with_kernel(ODE) for name, policy in named.items()}
    kind = "sde" if stochastic else "ode"
    return {f"{name}/{kind}": measure(world, policy, world.domain.test_conditions) for name, policy in samplers.items()}


def load_weights(policy: Policy, state: dict[str, Tensor], path: Path) -> None:
    """The policy's weights out of a module's state. Raises ValueError where they are of another model."""
    own = {k.removeprefix("policy."): v for k, v in state.items() if k.startswith("policy.")}
    require_fit(policy, own, path)
    policy.load_state_dict(own)


def load_run(policy: Policy, folder: Path) -> dict[str, Any]:
    """Puts the averaged weights of the run in a folder into a policy; what its checkpoint holds. Raises ValueError where that is
    another run's, or of another model."""
    state = load(folder / LAST)
    require_own(state, folder)
    load_weights(policy, state["state_dict"], folder / LAST)
    return state


def headline(results: dict[str, Measured]) -> dict[str, Any]:
    """reward_before, reward_after, ... of the training sampler with averaged weights, and the paired gain."""
    kind = "sde" if "base/sde" in results else "ode"
    before, after = results[f"base/{kind}"], results[f"ema/{kind}"]
    gain = (after.reward - before.reward)[after.measured & before.measured]
    summary: dict[str, Any] = {}
    for name in ("reward", "heldout"):
        if name in after.figures:
            summary |= {f"{name}_before": before.figures[name], f"{name}_after": after.figures[name]}
    summary |= mean_and_error("reward_gain", gain)
    summary |= {"unmeasured": int((~(after.measured & before.measured)).sum())}
    return summary | {"kl_nats": after.figures["kl_nats"]}


def timed(world: World, checkpoint: Path) -> tuple[dict[str, Measured], float]:
    """evaluate(), and the seconds it took."""
    started = time.perf_counter()
    with torch.no_grad():
        results = evaluate(world, checkpoint)
    return results, time.perf_counter() - started
