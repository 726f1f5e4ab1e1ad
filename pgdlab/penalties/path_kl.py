"""The path KL: sum over the denoising steps of the exact KL to the pretrained policy, and that of rho to its prior."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.functional.returns import reward_to_go, strictly_later
from pgdlab.penalties.base import Penalty
from pgdlab.rollout.trajectory import Trajectory

Form = Literal["A", "B"]


class KLPenalty(Penalty):
    """lambda sum_h KL(pi_h || pi_pre_h) + lambda_0 KL(rho || rho_pre), with its full gradient (docs/notation.md).

    Form A: the exact KL of a step is differentiated, and the exact KL of strictly later ones enters its return. Form B:
    the sampled log pi/pi_pre of this and later steps enters the return, nothing is differentiated (the per-token KL
    reward of RLHF; more variance). coefficient: lambda, reward units per nat. initial_coefficient: lambda_0, lambda if
    None.
    """

    coefficient: Tensor

    def __init__(self, coefficient: float, initial_coefficient: float | None, form: Form) -> None:
        super().__init__()
        self.form, self.positive, self.given_initial = form, coefficient > 0, initial_coefficient
        self.register_buffer("coefficient", torch.tensor(coefficient, dtype=torch.float64))

    def refuse(self, trains_initial: bool) -> None:
        if self.given_initial is not None and not trains_initial:
            raise ValueError(
                f"initial_coefficient is {self.given_initial}, but the initial distribution is not trained and has no KL: leave "
                "it out, or set initial=diagonal"
            )

    @property
    def initial_coefficient(self) -> Tensor:
        """lambda_0 of now, reward units per nat."""
        return self.coefficient if self.given_initial is None else torch.full_like(self.coefficient, self.given_initial)

    def needs_reference(self) -> bool:
        return self.positive

    def step_cost(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        steps = trajectory.kl if self.form == "A" else trajectory.log_ratio
        if not steps.shape[1]:  # the denoiser is frozen, or the coefficient is 0
            steps = steps.new_zeros(len(steps), trajectory.steps)
        first = self.initial_coefficient * trajectory.initial_log_ratio.double() * (self.form == "B")
        return torch.cat([first[:, None], self.coefficient * steps.double()], 1)

    def return_cost(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        cost = self.step_cost(trajectory)
        own = cost[:, 1:]
        later = strictly_later(own) if self.form == "A" else reward_to_go(own)
        return torch.cat([cost.sum(1, keepdim=True), later], 1)

    def loss_term(self, kl: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return self.coefficient * (self.form == "A") * kl

    def initial_loss_term(self, kl: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.initial_coefficient * (self.form == "A") * kl

    def logs(self) -> dict[str, float]:
        return {"penalty/coefficient": self.coefficient.item()}


class PathKL(KLPenalty):
    """lambda sum_h KL(pi_h || pi_pre_h) + lambda_0 KL(rho || rho_pre) at fixed coefficients, as in KLPenalty.

    coefficient: lambda, reward units per nat. initial_coefficient: lambda_0, lambda if None. form: A differentiates the
    exact KL, B charges the sampled log-ratio to the returns.
    """

    def __init__(
        self, *, coefficient: float = 0.05, initial_coefficient: float | None = None, form: Form = "A"
    ) -> None:
        for name, value in (("coefficient", coefficient), ("initial_coefficient", initial_coefficient or 0)):
            if value < 0:
                raise ValueError(f"{name} is {value}; it must be at least 0")
        super().__init__(coefficient, initial_coefficient, form)
