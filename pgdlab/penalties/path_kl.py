"""The path KL: sum over the denoising steps of the exact KL to the pretrained policy, and that of rho to its prior."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.functional.returns import reward_to_go, strictly_later
from pgdlab.penalties.base import Penalty
from pgdlab.rollout.trajectory import Trajectory


class PathKL(Penalty):
    """lambda sum_h KL(pi_h || pi_pre_h) + lambda_0 KL(rho || rho_pre), with its full gradient (docs/notation.md).

    Form A: the exact KL of a step is differentiated, and the exact KL of strictly later ones enters its return. Form B:
    the sampled log pi/pi_pre of this and later steps enters the return, nothing is differentiated (the per-token KL
    reward of RLHF; more variance). coefficient: lambda, reward units per nat. initial_coefficient: lambda_0, lambda if
    None. target: nats of path KL that the coefficient is steered to, beta *= 1 + gain clip(kl/target - 1, +-.2)
    (Ziegler et al. 2019, arXiv:1909.08593, sec. 2.2); None keeps it fixed. lambda_0 keeps its ratio to lambda.
    """

    coefficient: Tensor

    def __init__(
        self,
        *,
        coefficient: float = 0.05,
        initial_coefficient: float | None = None,
        form: Literal["A", "B"] = "A",
        target: float | None = None,
        gain: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("coefficient", coefficient), ("initial_coefficient", initial_coefficient or 0)):
            if value < 0:
                raise ValueError(f"{name} is {value}; it is at least 0")
        if target is not None and (target <= 0 or coefficient == 0):
            raise ValueError(f"target is {target} and coefficient {coefficient}; with a target both are above 0")
        self.form, self.target, self.gain, self.positive = form, target, gain, coefficient > 0
        self.initial_ratio = 1.0 if initial_coefficient is None else initial_coefficient / max(coefficient, 1e-300)
        self.fixed_initial = initial_coefficient if coefficient == 0 else None
        self.register_buffer("coefficient", torch.tensor(coefficient, dtype=torch.float64))

    @property
    def initial_coefficient(self) -> Tensor:
        """lambda_0 of now, reward units per nat: it follows lambda, unless that is 0."""
        if self.fixed_initial is not None:
            return torch.full_like(self.coefficient, self.fixed_initial)
        return self.coefficient * self.initial_ratio

    def needs_reference(self) -> bool:
        return self.positive  # a steered coefficient never reaches 0

    def charge(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        steps = trajectory.kl if self.form == "A" else trajectory.log_ratio
        if not steps.shape[1]:  # the denoiser is frozen, or the coefficient is 0
            steps = steps.new_zeros(len(steps), len(trajectory.stored_at) - 1)
        first = self.initial_coefficient * trajectory.initial_log_ratio.double() * (self.form == "B")
        return torch.cat([first[:, None], self.coefficient * steps.double()], 1)

    def shape(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        charge = self.charge(trajectory)
        own = charge[:, 1:]
        later = strictly_later(own) if self.form == "A" else reward_to_go(own)
        return torch.cat([charge.sum(1, keepdim=True), later], 1)

    def cost(self, kl: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return self.coefficient * (self.form == "A") * kl

    def initial_cost(self, kl: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.initial_coefficient * (self.form == "A") * kl

    def update(self, kl: float) -> None:
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coefficient.mul_(1 + self.gain * error)

    def logs(self) -> dict[str, float]:
        return {"penalty/coefficient": self.coefficient.item()}
