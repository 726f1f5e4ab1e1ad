"""A check of pipelines: our sampler without noise against the pipeline's own call."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.pipelines import PipelineDenoiser
from pgdlab.diffusion.policy import ODE, Policy
from pgdlab.domains.diffusers import Diffusers
from pgdlab.training.checks_densities import Finding
from pgdlab.world import World

SEED = 0
ALLOWED = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 3e-2}  # of the norm: rounding gives 1e-6 and 1e-2


def pipeline(world: World) -> Iterator[Finding]:
    """The final states of two prompts, from the noise that the pipeline drew. Weights are those of now, adapters included."""
    domain = world.domain
    if not isinstance(domain, Diffusers):
        return
    denoiser = next(m for m in world.policy.modules() if isinstance(m, PipelineDenoiser))
    plain = Policy(denoiser, domain.space, world.policy.initial.prior(), ODE, world.policy.steps).to(world.device)
    first, theirs = domain.playback.own_run([0, 1], SEED)
    ours = without_noise(plain, first, torch.tensor(domain.playback.heard, device=world.device))
    off = float((ours - theirs).norm() / theirs.norm())
    half = torch.is_autocast_enabled(world.device.type)
    allowed = ALLOWED[torch.bfloat16 if half else next(denoiser.network.parameters()).dtype]
    message = f"the samples of two prompts are {off:.1e} off the pipeline's own (allowed: {allowed:g} of their norm)"
    cause = "this pipeline does something at its steps that was not understood; please report its class and domain.call"
    yield Finding("pipeline", off < allowed, message, cause)


@torch.no_grad()
def without_noise(policy: Policy, x: Float[Tensor, "B *D"], cond: Tensor) -> Float[Tensor, "B *D"]:
    """The samples of a deterministic policy from initial states."""
    for h in range(policy.steps):
        x = policy(x, torch.full((len(x),), h, device=x.device), cond).mean
    return x
