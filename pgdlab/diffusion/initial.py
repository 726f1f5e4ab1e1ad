"""Initial distributions rho(s_0): the first action of the MDP, fixed or trained."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pgdlab.diffusion.conditioning import Conditioning, Observations, require_small
from pgdlab.diffusion.networks.perceptron import Head
from pgdlab.diffusion.space import Space
from pgdlab.functional.gaussian import Gaussian


class InitialDistribution(nn.Module, ABC):
    """rho(s_0 | cond), a Gaussian. num_conditions: without the one that means "none". std: the prior's
    standard deviation (Schedule.initial_std)."""

    def __init__(self, *, space: Space, num_conditions: int, std: float) -> None:
        super().__init__()
        self.space, self.num_conditions, self.std = space, num_conditions, std

    @abstractmethod
    def forward(self, cond: Int[Tensor, " B"]) -> Gaussian:
        """mean and std, each (B, *D)."""

    def meet(self, conditioning: Conditioning) -> None:
        """Hears what the numbers of cond stand for, once, before anything is trained. Ignored by default."""

    def prior(self) -> Standard:
        """rho_pre, in this one's dtype and on its device."""
        own = next(itertools.chain(self.parameters(), self.buffers()))
        return Standard(space=self.space, num_conditions=self.num_conditions, std=self.std).to(own)

    def gaussian(self, mean: Tensor, log_scale: Tensor, cond: Tensor) -> Gaussian:
        """N(mean, (std e^log_scale)^2) inside the space; mean and log_scale (B, *D)."""
        return Gaussian(self.space.project(mean, cond), self.std * self.space.scales(log_scale).exp())


class Standard(InitialDistribution):
    """N(0, std^2 I): the pretrained prior. Nothing to train."""

    zero: Tensor

    def __init__(self, *, space: Space, num_conditions: int, std: float) -> None:
        super().__init__(space=space, num_conditions=num_conditions, std=std)
        self.register_buffer("zero", torch.zeros(space.shape), persistent=False)

    def forward(self, cond: Int[Tensor, " B"]) -> Gaussian:
        mean = self.zero.expand(len(cond), *self.zero.shape)
        return Gaussian(mean, torch.full_like(mean, self.std))


class Diagonal(InitialDistribution):
    """N(mean, diag(std e^log_scale)^2), one mean and scale per coordinate; starts as the prior. per_condition: one for
    every condition instead of one for all."""

    def __init__(self, *, space: Space, num_conditions: int, std: float, per_condition: bool = False) -> None:
        super().__init__(space=space, num_conditions=num_conditions, std=std)
        self.per_condition = per_condition
        if per_condition:
            again = "initial.per_condition=false has one mean for all, initial=conditional a small network"
            require_small("a mean and a scale", num_conditions + 1, 8 * math.prod(space.shape), again)
        shape = (num_conditions + 1, *space.shape) if per_condition else space.shape
        self.mean = nn.Parameter(torch.zeros(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def meet(self, conditioning: Conditioning) -> None:
        if self.per_condition:
            refuse_observations(conditioning, "initial.per_condition=true")

    def forward(self, cond: Int[Tensor, " B"]) -> Gaussian:
        if self.per_condition:
            return self.gaussian(self.mean[cond], self.log_scale[cond], cond)
        rows = (len(cond), *self.mean.shape)
        return self.gaussian(self.mean.expand(rows), self.log_scale.expand(rows), cond)


class Shared(InitialDistribution):
    """N(mean, diag(std e^log_scale)^2), one mean and scale for all coordinates of an orbit of the space: the noise stays
    invariant under what the samples are (the atoms of a molecule may change places). Starts as the prior."""

    orbit: Tensor

    def __init__(self, *, space: Space, num_conditions: int, std: float) -> None:
        super().__init__(space=space, num_conditions=num_conditions, std=std)
        self.register_buffer("orbit", space.orbits(), persistent=False)
        self.mean = nn.Parameter(torch.zeros(int(self.orbit.max()) + 1))
        self.log_scale = nn.Parameter(torch.zeros_like(self.mean))

    def forward(self, cond: Int[Tensor, " B"]) -> Gaussian:
        rows = (len(cond), *self.orbit.shape)
        return self.gaussian(self.mean[self.orbit].expand(rows), self.log_scale[self.orbit].expand(rows), cond)


class Conditional(InitialDistribution):
    """A small network from the class to mean and scale; starts as the prior (zero last layer). hidden: its width."""

    def __init__(self, *, space: Space, num_conditions: int, std: float, hidden: int = 64) -> None:
        super().__init__(space=space, num_conditions=num_conditions, std=std)
        self.embedding = nn.Embedding(num_conditions + 1, hidden)
        self.head = nn.Linear(hidden, 2 * int(torch.tensor(space.shape).prod()))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def meet(self, conditioning: Conditioning) -> None:
        refuse_observations(conditioning, "initial=conditional")

    def forward(self, cond: Int[Tensor, " B"]) -> Gaussian:
        out = self.head(nn.functional.silu(self.embedding(cond)))
        mean, log_scale = out.reshape(len(cond), 2, *self.space.shape).unbind(1)
        return self.gaussian(mean, log_scale, cond)


def refuse_observations(conditioning: Conditioning, setting: str) -> None:
    """Raises ValueError where conditions are no classes."""
    if isinstance(conditioning, Observations):
        raise ValueError(
            f"{setting} has weights for each condition, and here conditions are observations: initial=informed"
        )


class Informed(InitialDistribution):
    """A small network from what the conditioning tells of a condition (its tables of real numbers, in a row) to mean and scale;
    starts as the prior (zero last layer). Conditions that were never trained on have theirs too. Of observations it is a policy:
    where the denoiser is frozen the noise is the action   (after DSRL: Wagenmaker et al. 2025, arXiv:2506.15799, with a Gaussian
    in the place of a box). hidden: its width; layers: how many of that width; scaled: whether the scale is trained too, not the
    mean alone. Made in meet(), which raises ValueError where nothing but numbers of conditions is told.
    """

    def __init__(
        self, *, space: Space, num_conditions: int, std: float, hidden: int = 256, layers: int = 3, scaled: bool = True
    ) -> None:
        super().__init__(space=space, num_conditions=num_conditions, std=std)
        for name, given in (("hidden", hidden), ("layers", layers)):
            if given < 1:
                raise ValueError(f"{name} is {given}; it must be at least 1")
        self.hidden, self.layers, self.scaled = hidden, layers, scaled

    def meet(self, conditioning: Conditioning) -> None:
        self.told = (conditioning,)  # in a tuple: no part of its own
        facts = self.facts(torch.zeros(1, dtype=torch.long)).shape[1]
        if not facts:
            raise ValueError(
                "initial=informed reads what is told of a condition, and here that is its number alone: set initial=conditional"
            )
        self.head = Head(facts, (1 + self.scaled) * math.prod(self.space.shape), self.hidden, self.layers)

    def facts(self, cond: Int[Tensor, " B"]) -> Float[Tensor, "B F"]:
        """The tables of real numbers, flattened."""
        told = [x.flatten(1) for x in self.told[0](cond).values() if x.is_floating_point()]
        return torch.cat(told, 1) if told else torch.zeros(len(cond), 0, device=cond.device)

    def forward(self, cond: Int[Tensor, " B"]) -> Gaussian:
        out = self.head(self.facts(cond)).reshape(len(cond), 1 + self.scaled, *self.space.shape)
        return self.gaussian(out[:, 0], out[:, 1] if self.scaled else torch.zeros_like(out[:, 0]), cond)
