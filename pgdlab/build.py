"""From a resolved config to the objects of a run."""

from __future__ import annotations

from typing import Any

import torch

from pgdlab.compose import instantiate
from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.diffusion.policy import Policy
from pgdlab.domains.base import Domain
from pgdlab.module import SteeringModule
from pgdlab.noise import Noise
from pgdlab.trainers.base import World


def build_policy_for(cfg: Any, domain: Domain, denoiser: DiffusersDenoiser) -> Policy:
    """The policy of a config around a given denoiser."""
    # seeded here, because initial distributions with a network draw their first weights
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        initial = instantiate(
            cfg.initial, space=domain.space, conditions=domain.conditions, std=denoiser.schedule.initial_std
        )
        policy: Policy = instantiate(
            cfg.policy, denoiser=denoiser, space=domain.space, initial=initial, null=domain.conditions
        )
    return policy


def build_world(cfg: Any, denoiser: DiffusersDenoiser | None = None) -> World:
    """Everything that an algorithm works with; denoiser: instead of the domain's pretrained one."""
    domain: Domain = instantiate(cfg.domain)
    policy = build_policy_for(cfg, domain, denoiser or domain.base())
    return World(
        domain=domain,
        policy=policy,
        reference=policy.reference(),
        reward=instantiate(cfg.reward),
        heldout=instantiate(cfg.heldout) if cfg.heldout else None,
        penalty=instantiate(cfg.penalty),
        plan=instantiate(cfg.plan),
        noise=Noise(cfg.seed),
    )


def build_module(cfg: Any) -> SteeringModule:
    """The LightningModule of a run. Raises ValueError where its parts do not go together."""
    world, algorithm = build_world(cfg), instantiate(cfg.trainer)
    algorithm.refuse(world)
    return SteeringModule(world, algorithm, instantiate(cfg.optimizer))
