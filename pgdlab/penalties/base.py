"""The seam of penalties: a cost that is differentiated, and a part that is subtracted from returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pgdlab.diffusion.policy import Policy
from pgdlab.rollout.trajectory import Trajectory

Draw = Callable[[int], tuple[Tensor, Tensor]]  # n -> n samples of the reference, conditions in turn, and the conditions
DataSource = Literal["reference", "train"]


@dataclass(frozen=True)
class Known:
    """Samples (N, *D) with conditions and rewards (N,), of the base or of the domain's data."""

    sample: Float[Tensor, "N *D"]
    cond: Int[Tensor, " N"]
    reward: Float[Tensor, " N"]


class Penalty(nn.Module):
    """One thing that a policy is charged for. Every hook does nothing by default, and adds up over a run's penalties.

    The gradient of E[cost] under the policy's own state distribution needs both loss_term and return_cost.
    """

    def refuse(self, trains_initial: bool) -> None:
        """Raises ValueError where a setting would change nothing. trains_initial: whether the initial distribution is trained."""

    def needs_reference(self) -> bool:
        """Whether the rollout must compute the reference's means."""
        return False

    def needs_old(self) -> bool:
        """Whether updates must know the policy that sampled (World.old)."""
        return False

    def step_cost(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        """Cost of each step: column 0 rho's, column h + 1 step h's. The value of a state is E[sum_{j >= h} r_j - step_cost_j].
        fp64, in reward units."""
        return trajectory.initial_log_prob.new_zeros(len(trajectory.cond), trajectory.steps + 1, dtype=torch.float64)

    def return_cost(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        """Subtracted from the returns: column 0 from rho's, column h + 1 from action h's. fp64, in reward units."""
        return trajectory.initial_log_prob.new_zeros(len(trajectory.cond), trajectory.steps + 1, dtype=torch.float64)

    def loss_term(self, kl: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """Added to the loss of a step, given its exact KL to the reference (nats, with gradient)."""
        return torch.zeros_like(kl)

    def initial_loss_term(self, kl: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Added to the loss of rho, given KL(rho || rho_pre) (nats, with gradient)."""
        return torch.zeros_like(kl)

    def trusted(self, kl: Float[Tensor, " P"], onward: Bool[Tensor, " P"]) -> Bool[Tensor, " P"]:
        """Which steps' surrogates count, given the exact KL of each step to the policy that sampled it (nats), and whether the
        surrogate would move its ratio further from 1."""
        return torch.ones_like(kl, dtype=torch.bool)

    def reference_samples(self) -> int:
        """Samples of the reference that sample_cost() draws, once in a run; with 0 it is not called."""
        return 0

    def sample_cost(self, sample: Float[Tensor, "N *D"], cond: Tensor, draw: Draw) -> Float[Tensor, " N"]:
        """Cost of the final samples of all processes, as an advantage: with its own baseline, subtracted from that of all
        actions that led there. fp64."""
        return torch.zeros(len(sample), dtype=torch.float64, device=sample.device)

    def data_source(self) -> tuple[DataSource, int] | None:
        """Which samples learn() is given, and how many, once in a run; None for none."""
        return None

    def learn(self, known: Known) -> None:
        """Hears them, with their rewards."""

    def utility(self, total: Float[Tensor, " B"], cond: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What trajectories' returns count as; only asked where there is a data_source()."""
        return total

    def own_loss(
        self, policy: Policy, reference: Policy, generator: torch.Generator, rank: int, processes: int
    ) -> tuple[Tensor, int]:
        """This process's part of what is added to an update's loss, apart from trajectories, and its network rows; only asked
        where there is a data_source()."""
        return torch.zeros((), dtype=torch.float64, device=policy.device), 0

    def adapt(self, kl: float) -> None:
        """Hears the mean KL of an iteration's trajectories (rho's included, nats) before it is charged."""

    def logs(self) -> dict[str, float]:
        """Current coefficients and figures, by the name of their column."""
        return {}


class Penalties(Penalty):
    """All penalties of a run, by name: costs add up, and a step is trusted where every one of them trusts it.

    Raises ValueError where two of them would log the same column (two KL terms).
    """

    def __init__(self, penalties: Mapping[str, Penalty] | None = None) -> None:
        super().__init__()
        self.asked = 0  # reward queries of what learn() was given
        columns: dict[str, str] = {}
        for name, penalty in (penalties or {}).items():
            self.add_module(name, penalty)
            for column in penalty.logs():
                if column in columns:
                    raise ValueError(f"penalty {name} does the same as {columns[column]}: choose one of them")
                columns[column] = name

    def each(self) -> Iterator[Penalty]:
        """The penalties, in their order."""
        return (part for part in self.children() if isinstance(part, Penalty))

    def __len__(self) -> int:
        return sum(1 for _ in self.each())

    def refuse(self, trains_initial: bool) -> None:
        for p in self.each():
            p.refuse(trains_initial)

    def needs_reference(self) -> bool:
        return any(p.needs_reference() for p in self.each())

    def needs_old(self) -> bool:
        return any(p.needs_old() for p in self.each())

    def step_cost(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        return sum((p.step_cost(trajectory) for p in self.each()), super().step_cost(trajectory))

    def return_cost(self, trajectory: Trajectory) -> Float[Tensor, "B H1"]:
        return sum((p.return_cost(trajectory) for p in self.each()), super().return_cost(trajectory))

    def loss_term(self, kl: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        return sum((p.loss_term(kl) for p in self.each()), super().loss_term(kl))

    def initial_loss_term(self, kl: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return sum((p.initial_loss_term(kl) for p in self.each()), super().initial_loss_term(kl))

    def trusted(self, kl: Float[Tensor, " P"], onward: Bool[Tensor, " P"]) -> Bool[Tensor, " P"]:
        inside = super().trusted(kl, onward)
        for p in self.each():
            inside = inside & p.trusted(kl, onward)
        return inside

    def reference_samples(self) -> int:
        return sum(p.reference_samples() for p in self.each())

    def sample_cost(self, sample: Float[Tensor, "N *D"], cond: Tensor, draw: Draw) -> Float[Tensor, " N"]:
        return sum((p.sample_cost(sample, cond, draw) for p in self.each()), super().sample_cost(sample, cond, draw))

    def data_source(self) -> tuple[DataSource, int] | None:
        return next((found for p in self.each() if (found := p.data_source())), None)

    def learn(self, known: Known) -> None:
        for p in self.each():
            p.learn(known)

    def utility(self, total: Float[Tensor, " B"], cond: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        for p in self.each():
            total = p.utility(total, cond)
        return total

    def own_loss(
        self, policy: Policy, reference: Policy, generator: torch.Generator, rank: int, processes: int
    ) -> tuple[Tensor, int]:
        each = [p.own_loss(policy, reference, generator, rank, processes) for p in self.each()]
        return sum((loss for loss, _ in each), each[0][0].new_zeros(())), sum(rows for _, rows in each)

    def adapt(self, kl: float) -> None:
        for p in self.each():
            p.adapt(kl)

    def logs(self) -> dict[str, float]:
        return {name: figure for p in self.each() for name, figure in p.logs().items()}
