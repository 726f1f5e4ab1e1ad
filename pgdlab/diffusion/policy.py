"""The policy: initial distribution and denoising steps as Gaussians of one finite-horizon MDP."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pgdlab.diffusion.denoisers import ClassifierFreeGuidance, Denoiser
from pgdlab.diffusion.initial import InitialDistribution
from pgdlab.diffusion.kernels import DDIM, Chain, Kernel
from pgdlab.diffusion.space import Space
from pgdlab.diffusion.tuning import Tuning
from pgdlab.functional.gaussian import Gaussian, expand


class Policy(nn.Module):
    """pi_h(a|s) = N(mean(s, h), std_h^2 I) for h in 0..H-1, and rho(s_0).

    forward takes any set of (state, step) pairs in one network pass. Coefficients are fp64 vectors over the steps.
    """

    times: Tensor
    from_x: Tensor
    from_x0: Tensor
    std: Tensor

    def __init__(
        self, denoiser: Denoiser, space: Space, initial: InitialDistribution, kernel: Kernel, steps: int
    ) -> None:
        super().__init__()
        self.denoiser, self.space, self.initial, self.kernel = denoiser, space, initial, kernel
        self.steps = steps
        chain = Chain.of(denoiser.schedule, kernel, steps)
        for name in ("times", "from_x", "from_x0", "std"):
            self.register_buffer(name, getattr(chain, name), persistent=False)
        self.stochastic_steps: list[int] = (chain.std > 0).nonzero().flatten().tolist()

    @property
    def trains_denoiser(self) -> bool:
        """Whether any weight of the denoiser requires a gradient."""
        return any(p.requires_grad for p in self.denoiser.parameters())

    @property
    def trains_initial(self) -> bool:
        """Whether the initial distribution has anything that requires a gradient."""
        return any(p.requires_grad for p in self.initial.parameters())

    def estimate(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Tensor) -> Float[Tensor, "P *D"]:
        """E[x_0 | x_h] at states x of steps h, in the dtype of x whatever the network computes in."""
        return self.denoiser(x, self.times[h], cond).to(x.dtype)

    def step(self, x: Float[Tensor, "P *D"], x0: Float[Tensor, "P *D"], h: Int[Tensor, " P"]) -> Gaussian:
        """The action's Gaussian, given the x0 estimate."""
        mean = torch.addcmul(expand(self.from_x[h], x) * x, expand(self.from_x0[h], x), x0)
        return Gaussian(mean, expand(self.std[h], x))

    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Tensor) -> Gaussian:
        """pi_h(.|x) for P pairs of a state x (P, *D) and a step h (P,) under cond (P, ...)."""
        return self.step(x, self.estimate(x, h, cond), h)

    def reference(self) -> Policy:
        """The frozen pretrained policy pi_pre, rho_pre. Shares the weights where none or only adapters are trained."""
        denoiser = self.denoiser.frozen() if self.trains_denoiser else self.denoiser
        prior = self.initial.prior()
        return Policy(denoiser, self.space, prior, self.kernel, self.steps).to(self.std.device)

    def with_kernel(self, kernel: Kernel) -> Policy:
        """The same denoiser and initial distribution under another sampler, weights shared."""
        return Policy(self.denoiser, self.space, self.initial, kernel, self.steps).to(self.std.device)


def build_policy(
    *,
    denoiser: Denoiser,
    space: Space,
    initial: InitialDistribution,
    null: int,
    kernel: Kernel,
    tuning: Tuning,
    steps: int = 20,
    guidance: float = 1.0,
) -> Policy:
    """A policy from a pretrained denoiser.

    null: the condition that means "none", the number of classes. kernel: the sampler. tuning: what is trained. steps: H.
    guidance: scale of classifier-free guidance, 1 for none.
    """
    tuned = tuning.apply(denoiser, Chain.of(denoiser.schedule, kernel, steps), space, null)
    guided = tuned if guidance == 1.0 else ClassifierFreeGuidance(tuned, guidance, null)
    return Policy(guided, space, initial, kernel, steps)


ODE = DDIM(eta=0.0)
