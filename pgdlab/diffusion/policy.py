"""The policy: initial distribution and denoising steps as Gaussians of one finite-horizon MDP."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pgdlab.diffusion.compiled import Compiled
from pgdlab.diffusion.compiled import channels_last as in_channels_last
from pgdlab.diffusion.denoisers import ClassifierFreeGuidance, Denoiser, NetworkDenoiser
from pgdlab.diffusion.initial import InitialDistribution
from pgdlab.diffusion.kernels import DDIM, Chain, Kernel, NoiseAt
from pgdlab.diffusion.space import Space
from pgdlab.diffusion.tuning import Tuning
from pgdlab.functional.gaussian import Gaussian


class Policy(nn.Module):
    """pi_h(a|s) = N(mean(s, h), std_h^2 I) for h in 0..H-1, and rho(s_0).

    forward takes any set of (state, step) pairs in one network pass. Coefficients are fp64 vectors over the steps. The state, and
    so a checkpoint, holds what trains: frozen weights are those of the domain's files.
    """

    times: Tensor
    coefficients: Tensor

    def __init__(
        self, denoiser: Denoiser, space: Space, initial: InitialDistribution, kernel: Kernel, steps: int
    ) -> None:
        super().__init__()
        self.denoiser, self.space, self.initial, self.kernel = denoiser, space, initial, kernel
        self.steps = steps
        chain = Chain.of(denoiser.schedule, kernel, steps)
        self.register_buffer("times", chain.times, persistent=False)
        rows = torch.stack([chain.from_x, chain.from_x0, chain.std])  # together, so that a pass looks them up at once
        self.register_buffer("coefficients", rows, persistent=False)
        self.stochastic_steps: list[int] = (chain.std > 0).nonzero().flatten().tolist()
        self.register_state_dict_post_hook(leave_out)
        self.register_load_state_dict_pre_hook(put_back)

    @property
    def device(self) -> torch.device:
        """The device of the coefficients, and so of everything else."""
        return self.times.device

    @property
    def from_x(self) -> Float[Tensor, " H"]:
        """The coefficient of the state in each step's mean."""
        return self.coefficients[0]

    @property
    def from_x0(self) -> Float[Tensor, " H"]:
        """The coefficient of the x0 estimate in each step's mean."""
        return self.coefficients[1]

    @property
    def std(self) -> Float[Tensor, " H"]:
        """Every step's standard deviation, in the units of the data."""
        return self.coefficients[2]

    @property
    def trains_denoiser(self) -> bool:
        """Whether any weight of the denoiser requires a gradient."""
        return any(p.requires_grad for p in self.denoiser.parameters())

    @property
    def trains_initial(self) -> bool:
        """Whether the initial distribution has anything that requires a gradient."""
        return any(p.requires_grad for p in self.initial.parameters())

    def estimate(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Tensor) -> Float[Tensor, "P *D"]:
        """E[x_0 | x_h] at states x of steps h, in the dtype of x whatever the network computes in. Clipped last, as pipelines
        do: guidance extrapolates between estimates, and between clipped ones it would leave the range again."""
        x0, clip = self.denoiser(x, self.times[h], cond).to(x.dtype), self.denoiser.schedule.clip
        return x0 if clip is None else x0.clamp(-clip, clip)

    def step(self, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], h: Int[Tensor, " P"]) -> Gaussian:
        """The action's Gaussian, given the x0 estimate."""
        rows = self.coefficients.index_select(1, h).to(x.dtype)
        from_x, from_x0, std = rows.reshape(3, -1, *(1,) * (x.ndim - 1)).unbind()
        return Gaussian(torch.addcmul(from_x * x, from_x0, x0), std)

    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Tensor) -> Gaussian:
        """pi_h(.|x) for P pairs of a state x (P, *D) and a step h (P,) under cond (P, ...)."""
        return self.step(x, self.estimate(x, h, cond), h)

    def reference(self) -> Policy:
        """The frozen pretrained policy pi_pre, rho_pre. Shares the weights where none or only adapters are trained."""
        denoiser = self.denoiser.frozen() if self.trains_denoiser else self.denoiser
        prior = self.initial.prior()
        return Policy(denoiser, self.space, prior, self.kernel, self.steps).to(self.device)

    def snapshot(self) -> Policy:
        """The policy as it is now, frozen: what trains is copied, all else shared (under LoRA the adapters are copied)."""
        shared = {id(x): x for x in (*self.parameters(), *self.buffers()) if not x.requires_grad}
        return copy.deepcopy(self, shared).eval().requires_grad_(False)

    def copies(self, policy: Policy) -> dict[str, nn.Parameter]:
        """The weights of a snapshot of the policy that are its own, by name: those that train in the policy."""
        pairs = zip(self.named_parameters(), policy.parameters(), strict=True)
        return {name: own for (name, own), other in pairs if own is not other}

    @torch.no_grad()
    def follow(self, policy: Policy, decay: float = 0.0) -> None:
        """weights = decay weights + (1 - decay) those of the policy that this is a snapshot of; takes them over at 0."""
        pairs = zip(self.parameters(), policy.parameters(), strict=True)
        own, new = zip(*((a, b) for a, b in pairs if a is not b), strict=True)
        if decay:
            torch._foreach_lerp_(own, new, 1 - decay)
        else:
            torch._foreach_copy_(own, new)

    def with_kernel(self, kernel: Kernel) -> Policy:
        """The same denoiser and initial distribution under another sampler, weights shared."""
        return Policy(self.denoiser, self.space, self.initial, kernel, self.steps).to(self.device)

    def with_noise_at(self, steps: Sequence[int]) -> Policy:
        """The same policy, whose other steps are those of the ODE."""
        return self.with_kernel(NoiseAt(kernel=self.kernel, steps=tuple(steps)))


def frozen_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that do not train, by name."""
    return {name: p for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad}


def leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Takes the frozen weights out of a state."""
    for name in frozen_weights(module):
        state.pop(prefix + name, None)


def put_back(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Puts the module's own frozen weights into a state that lacks them."""
    for name, parameter in frozen_weights(module).items():
        state.setdefault(prefix + name, parameter.data)


def checkpointed(denoiser: Denoiser) -> None:
    """Lets the network's blocks be computed again in the backward. Raises ValueError where diffusers has no such thing for it."""
    network: Any = denoiser.network if isinstance(denoiser, NetworkDenoiser) else denoiser
    if not getattr(network, "_supports_gradient_checkpointing", False):
        what = type(network).__name__
        raise ValueError(
            f"policy.checkpoint_activations is true, but a {what} has no blocks to checkpoint: leave it false"
        )
    network.enable_gradient_checkpointing()


MOST = 100_000  # steps, the coefficients of all of which are in memory


def build_policy(
    *,
    denoiser: Denoiser,
    space: Space,
    initial: InitialDistribution,
    unconditional: int,
    kernel: Kernel,
    tuning: Tuning,
    steps: int = 20,
    guidance: float = 1.0,
    checkpoint_activations: bool = False,
    channels_last: bool = False,
    compiled_rows: int = 0,
) -> Policy:
    """A policy from a pretrained denoiser.

    unconditional: the condition that means "none" (Conditioning.unconditional). kernel: the sampler. tuning: what is trained.
    steps: H, MOST at most. guidance: scale of classifier-free guidance, 1 for none. checkpoint_activations: whether a pass that
    is differentiated keeps the inputs of the network's blocks alone (Chen et al. 2016, arXiv:1604.06174). channels_last: the
    layout of convolutions' weights. compiled_rows: rows of a compiled pass, 0 for a network that is not compiled: see Compiled.
    """
    if steps > MOST:
        raise ValueError(f"policy.steps is {steps:,}; it must be at most {MOST:,}")
    if checkpoint_activations:
        checkpointed(denoiser)
    tuned = tuning.apply(denoiser, Chain.of(denoiser.schedule, kernel, steps), space, unconditional)
    if channels_last:
        in_channels_last(tuned)
    tuned = Compiled(tuned, compiled_rows) if compiled_rows else tuned
    guided = tuned if guidance == 1.0 else ClassifierFreeGuidance(tuned, guidance, unconditional)
    return Policy(guided, space, initial, kernel, steps)


ODE = DDIM(eta=0.0)
