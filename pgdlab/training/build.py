"""From a resolved config to the objects of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import OmegaConf

from pgdlab.config.compose import make, stated
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.initial import InitialDistribution
from pgdlab.diffusion.policy import Policy
from pgdlab.domains.base import Domain
from pgdlab.penalties.base import Penalties, Penalty
from pgdlab.rewards.base import Reward
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.plan import Plan
from pgdlab.trainers.base import Algorithm
from pgdlab.trainers.denoising import Pretrain
from pgdlab.training.budget import Budget
from pgdlab.training.module import SteeringModule
from pgdlab.training.optimizer import Optimization
from pgdlab.world import World


def plan_of(cfg: Any) -> Plan:
    """The plan, within the budget."""
    budget: Budget = stated(Budget, cfg, "budget")
    return budget.within(make(Plan, cfg.plan))


def device_of(runtime: Any) -> torch.device:
    """The device of this process under cfg.runtime. Raises ValueError for one that is not there or not supported."""
    wanted, there = runtime.get("accelerator"), torch.cuda.is_available()
    if wanted not in ("auto", "cpu", "cuda", "gpu"):
        raise ValueError(f"runtime.accelerator is {wanted!r}; it is one of auto, cpu, cuda, gpu")
    if wanted in ("gpu", "cuda") and not there:
        raise ValueError(f"runtime.accelerator is {wanted}, but torch sees no GPU; runtime=cpu does without")
    if wanted == "cpu" or not there:
        return torch.device("cpu")
    devices, rank = runtime.get("devices"), int(os.environ.get("LOCAL_RANK", 0))
    if isinstance(devices, str) and devices != "auto":
        raise ValueError(f"runtime.devices is {devices!r}; it is a number, -1 or auto for all, or a list, as in [0,1]")
    return torch.device("cuda", devices[rank] if isinstance(devices, Sequence) and devices != "auto" else rank)


def build_policy_for(cfg: Any, domain: Domain, denoiser: Denoiser) -> Policy:
    """The policy of a config around a given denoiser."""
    # seeded here, because initial distributions with a network draw their first weights
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        initial = make(
            InitialDistribution,
            cfg.initial,
            space=domain.space,
            num_conditions=domain.conditioning.size,
            std=denoiser.schedule.initial_std,
        )
        policy: Policy = make(
            Policy,
            cfg.policy,
            denoiser=denoiser,
            space=domain.space,
            initial=initial,
            unconditional=domain.conditioning.unconditional,
        )
    return policy


def penalties_of(cfg: Any) -> Penalties:
    """The penalties, by name."""
    return Penalties({name: make(Penalty, node) for name, node in cfg.penalty.items()})


def build_world(cfg: Any, denoiser: Denoiser | None = None) -> World:
    """Everything that an algorithm works with; denoiser: instead of the domain's pretrained one."""
    device, domain = device_of(cfg.runtime), make(Domain, cfg.domain)
    policy = build_policy_for(cfg, domain, denoiser or domain.base())
    return World(
        domain=domain,
        policy=policy,
        reference=policy.reference(),
        reward=make(Reward, cfg.reward),
        heldout=make(Reward, cfg.heldout) if cfg.heldout else None,
        penalties=penalties_of(cfg),
        plan=plan_of(cfg),
        noise=Noise(cfg.seed),
    ).to(device)


def steering(cfg: Any) -> Algorithm:
    """The algorithm of a run that steers. Raises ValueError for pretraining."""
    algorithm: Algorithm = make(Algorithm, cfg.trainer)
    if isinstance(algorithm, Pretrain):
        raise ValueError(
            f"trainer=pretrain goes with task=pretrain (experiment=pretrain/digits or pretrain/fashion), not with "
            f"task={cfg.task}: it steers nothing. Its run's summary.json says how good the base is"
        )
    return algorithm


def build_module(cfg: Any) -> SteeringModule:
    """The LightningModule of a run. Raises ValueError where its parts do not go together."""
    algorithm, world = steering(cfg), build_world(cfg)
    algorithm.refuse(world)
    module = SteeringModule(world, algorithm, make(Optimization, cfg.optimizer))
    return module.to(world.device)


def origin(cfg: Any, policy: Policy) -> dict[str, Any]:
    """The sampler that a run trained and measured under, and what was tuned: a network under another sampler, or with
    another initial distribution, is another policy."""
    nodes = OmegaConf.to_container(OmegaConf.masked_copy(cfg, ["policy", "initial", "plan"]), resolve=True)
    assert isinstance(nodes, dict)
    tuned = {
        "tuning": nodes["policy"].get("tuning"),
        "initial": nodes["initial"],
        "trained_steps": nodes["plan"]["trained_steps"],
    }
    return {
        "sampler": {key: nodes["policy"].get(key) for key in ("kernel", "steps", "guidance")},
        "tuned": tuned | {"stochastic_steps": len(policy.stochastic_steps)},
    }
