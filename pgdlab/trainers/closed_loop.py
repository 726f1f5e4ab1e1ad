"""The closed loop: an environment is acted in, and every action is the end of a denoising chain that sees its observation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pgdlab.control.episodes import Episodes, Loop
from pgdlab.diffusion.residual import Residual
from pgdlab.domains.control import Control
from pgdlab.rewards.base import Outcome, RewardError, StepRewards
from pgdlab.rewards.environment import Paid
from pgdlab.rollout.noise import SampleNoise
from pgdlab.rollout.sampler import rollout
from pgdlab.rollout.trajectory import Trajectory, concatenate
from pgdlab.trainers.interaction import Collected, Interaction, OneShot, Request, evaluations, require_finite
from pgdlab.world import World


def interaction_of(world: World, otherwise: Interaction | None = None) -> Interaction:
    """How the world's conditions become rewards: through its environment where there is one."""
    return (otherwise or OneShot()) if world.environment is None else ClosedLoop()


def rows_of(world: World, samples: int) -> int:
    """The rows that as many samples are: in a closed loop a sample is an episode, and a row one of its chunks."""
    return samples * (world.domain.chunks if isinstance(world.domain, Control) else 1)


@dataclass(frozen=True, kw_only=True)
class ClosedLoop(Interaction):
    """N environments act T chunks each, from new episodes: row n T + t of a trajectory is the chain of chunk t of environment n,
    its condition the observation before it, what it is paid the sum over the chunk, at its last step.

    The numbers of a row's chain are keyed by the row, those of an episode by its environment, so that neither depends on the
    processes. The request's conditions are not used.
    """

    def collect(self, world: World, request: Request) -> Collected:
        domain, noise = world.domain, request.noise
        assert isinstance(domain, Control), "interaction_of()"
        assert isinstance(noise, SampleNoise), "as training and evaluation ask with"
        chunks = domain.chunks
        count = len(noise) // chunks
        first = noise.index.start // chunks
        loop = Loop(
            domain.environment,
            count,
            chunks,
            lambda row, number: noise.noise.episode(noise.iteration, first + row, number),
        )
        trajectory = self.acted(world, request, noise, loop)
        told = domain.conditioning
        after = told.size + count * chunks + torch.arange(count * chunks, device=world.device)
        told.write(after, torch.stack(loop.afters, 1).flatten(0, 1))
        episodes = loop.episodes(after)
        rewards = paid(episodes, trajectory, request, world.plan.max_failed)
        outcome = Outcome(domain.decoder(trajectory.sample), trajectory.cond, trajectory.steps)
        return Collected(trajectory, outcome, rewards, evaluations(request))

    def acted(self, world: World, request: Request, noise: SampleNoise, loop: Loop) -> Trajectory:
        """The chains of all rows. Fills in the observations before them, and reserves as many rows for those after them."""
        domain, parts = world.domain, []
        assert isinstance(domain, Control)
        cond = domain.conditioning.reserve(2 * len(noise))[: len(noise)].reshape(-1, loop.chunks)
        for t in range(loop.chunks):
            domain.conditioning.write(cond[:, t], loop.observation)
            part = rollout(
                request.policy, request.reference, noise.every(t, loop.chunks), cond[:, t],
                batch=world.capacity.rollout_batch, trained=request.trained, extras=request.extras, sampler=request.sampler,
                fewer=world.capacity.sample_fewer,
            )  # fmt: skip
            require_finite(part, request.policy, request.reference)
            loop.act(domain.decoder(part.sample).cpu())
            parts.append(part)
        rows = torch.arange(len(noise), device=world.device).reshape(loop.chunks, -1).T.flatten()
        return concatenate(parts).rows(rows)


def paid(episodes: Episodes, trajectory: Trajectory, request: Request, max_failed: float) -> StepRewards:
    """Each row's reward at its last step. Raises RewardError where more than the share max_failed of all processes' rows have
    failed."""
    measured = episodes.measured.to(trajectory.cond.device)
    everywhere = request.processes.gather(measured)
    share = 1 - everywhere.double().mean().item()
    if share > max_failed:
        raise RewardError(
            f"the environment failed in {share:.0%} of {len(everywhere)} chunks of actions (plan.max_failed allows "
            f"{max_failed:.0%}): it raised, or gave out what is not finite. Mend it, or raise plan.max_failed"
        )
    values = torch.zeros(len(measured), trajectory.steps, dtype=torch.float64, device=measured.device)
    values[:, -1] = episodes.reward.to(measured.device).masked_fill(~measured, 0.0)
    return StepRewards(values, torch.zeros_like(values[:, 0]), measured, {}, queries=episodes.steps, episodes=episodes)


def refuse_closed_loop(world: World) -> None:
    """Raises ValueError where an environment is to be acted in and something else does not go with that, and the other way."""
    if not isinstance(world.domain, Control):
        if any(isinstance(part, Paid) for part in world.reward.modules()):
            raise ValueError(
                f"reward=paid is an environment's, and domain={world.domain.name} has none: choose another"
            )
        return
    plan, chunks = world.plan, world.domain.chunks
    if not isinstance(world.reward, Paid):
        raise ValueError("an environment pays for actions, not another reward: set reward=paid, and leave heldout out")
    if world.heldout is not None:
        raise ValueError("an environment's return is what is measured: set heldout=null")
    if plan.group != 1:
        raise ValueError(f"plan.group is {plan.group}; no two actions answer the same observation: set plan.group=1")
    if any(isinstance(part, Residual) for part in world.policy.modules()):
        raise ValueError(
            "a correction of the estimate does not see the observation: set policy=full or policy=lora, or policy=frozen with "
            "initial=informed"
        )
    if world.penalties.reference_samples():
        raise ValueError("a penalty on the law of final samples is of one law, not of one an observation: leave it out")
    whole = chunks * world.processes.size
    if plan.samples % whole:
        raise ValueError(
            f"plan.samples is {plan.samples}; it must be a multiple of {whole}, the {chunks} chunks of an episode for each "
            "environment, and the same number of environments a process"
        )
