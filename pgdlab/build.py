"""From a resolved config to the objects of a run."""

from __future__ import annotations

import os
from typing import Any

import torch

from pgdlab.compose import instantiate
from pgdlab.diffusion.denoisers import Denoiser
from pgdlab.diffusion.policy import Policy
from pgdlab.domains.base import Domain
from pgdlab.module import SteeringModule
from pgdlab.noise import Noise
from pgdlab.trainers.base import World


def device_of(runtime: Any) -> torch.device:
    """The device of this process under cfg.runtime. Raises ValueError for a GPU that is not there."""
    wanted, there = runtime.accelerator, torch.cuda.is_available()
    if wanted in ("gpu", "cuda") and not there:
        raise ValueError(f"runtime.accelerator is {wanted}, but torch sees no GPU; runtime=cpu does without")
    if wanted == "cpu" or not there:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def build_policy_for(cfg: Any, domain: Domain, denoiser: Denoiser) -> Policy:
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


def build_world(cfg: Any, denoiser: Denoiser | None = None) -> World:
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
    ).to(device_of(cfg.runtime))


def build_module(cfg: Any) -> SteeringModule:
    """The LightningModule of a run. Raises ValueError where its parts do not go together."""
    world, algorithm = build_world(cfg), instantiate(cfg.trainer)
    algorithm.refuse(world)
    module = SteeringModule(world, algorithm, instantiate(cfg.optimizer))
    return module.to(world.device)  # so that Lightning's weight averaging is made where training will be
