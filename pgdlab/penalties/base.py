"""The seam of penalties: a cost that is differentiated, and a part that is subtracted from returns."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from pgdlab.rollout import Trajectory


class Penalty(nn.Module, ABC):
    """The gradient of E[cost] under the policy's own state distribution needs both parts."""

    @abstractmethod
    def needs_reference(self) -> bool:
        """Whether the rollout must compute the reference's means."""

    @abstractmethod
    def charge(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        """What each step costs: column 0 rho, column h + 1 step h. The value of a state is E[sum_{j >= h} r_j - charge_j].
        fp64, nats times the coefficient."""

    @abstractmethod
    def shape(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        """What is subtracted from the returns: column 0 from rho's, column h + 1 from action h's. fp64, nats times
        the coefficient."""

    @abstractmethod
    def cost(self, kl: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """What is added to the loss of a step, given its exact KL (nats, with gradient)."""

    @abstractmethod
    def initial_cost(self, kl: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What is added to the loss of rho, given KL(rho || rho_pre) (nats, with gradient)."""

    @abstractmethod
    def update(self, kl: float) -> None:
        """Told the mean KL of an iteration's trajectories (rho's included, nats)."""

    @abstractmethod
    def logs(self) -> dict[str, float]:
        """Current coefficients."""


class NoPenalty(Penalty):
    """Nothing: no reference pass is made."""

    def needs_reference(self) -> bool:
        return False

    def charge(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        rows, steps = len(trajectory.cond), len(trajectory.slot) - 1
        return trajectory.initial_log_prob.new_zeros(rows, steps + 1).double()

    def shape(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        return self.charge(trajectory)

    def cost(self, kl: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return kl.new_zeros(kl.shape)

    def initial_cost(self, kl: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return kl.new_zeros(kl.shape)

    def update(self, kl: float) -> None:
        pass

    def logs(self) -> dict[str, float]:
        return {}
