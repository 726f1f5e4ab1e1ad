"""The world of an algorithm: the problem, who solves it, and the plan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from pgdlab.control.environment import Environment
from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.values import Value
from pgdlab.domains.base import Domain
from pgdlab.domains.control import Control
from pgdlab.penalties.base import Penalties
from pgdlab.processes import Processes
from pgdlab.rewards.base import Reward, prefetching
from pgdlab.rollout.memory import Capacity, rows_that_fit
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.offload import offload
from pgdlab.rollout.plan import Plan
from pgdlab.rollout.trajectory import dtype_of


@dataclass(frozen=True, kw_only=True)
class World:
    """The problem (domain, reward, heldout, penalties), its solver (policy, reference, old, critic) and the plan.

    old: the policy that sampled an iteration, for what is compared with it; critic: a value learned with the policy. An
    algorithm that needs either adds it (Algorithm.equip). capacity: how much at once memory allows, the one part that
    changes; what the plan leaves open in it is measured by to().
    """

    domain: Domain
    policy: Policy
    reference: Policy
    reward: Reward
    plan: Plan
    noise: Noise
    heldout: Reward | None = None
    penalties: Penalties = field(default_factory=Penalties)
    old: Policy | None = None
    critic: Value | None = None
    processes: Processes = field(default_factory=Processes)
    capacity: Capacity = field(default_factory=Capacity)

    def __post_init__(self) -> None:
        if not (self.capacity.rollout_batch or self.capacity.pass_size):
            object.__setattr__(self, "capacity", Capacity(self.plan.rollout_batch, self.plan.pass_size))

    @property
    def environment(self) -> Environment | None:
        """What the domain's actions are taken in, where they are."""
        return self.domain.environment if isinstance(self.domain, Control) else None

    @property
    def device(self) -> torch.device:
        """Where the policy is, and so everything else."""
        return self.policy.device

    def to(self, device: torch.device) -> World:
        """Moves every part that has weights; measures the capacity that is not known. With plan.offload the decoder and the
        rewards go there for each of their calls only."""
        seldom = [part for part in (self.domain.decoder, self.reward, self.heldout) if part is not None]
        always = [self.policy, self.reference, self.old, self.critic, self.penalties]
        for part in [*always, *([] if self.plan.offload else seldom)]:
            if part is not None:
                part.to(device)
        for part in seldom if self.plan.offload else ():
            offload(part, device)
        self.measure()
        return self

    def measure(self) -> None:
        """Fills in what is open in the capacity: as much as fits in memory."""
        capacity, device = self.capacity, self.device
        if capacity.rollout_batch and capacity.pass_size:
            return
        x = torch.zeros(2, *self.policy.space.shape, dtype=dtype_of(self.policy), device=device)
        most = rows_that_fit(self.policy, x, torch.tensor(self.domain.train_conditions[:1] * 2, device=device))
        # a slow reward looks at a batch while the next one is sampled
        batch = -(-self.plan.samples // 4) if prefetching(self.reward) else most
        capacity.rollout_batch = capacity.rollout_batch or min(batch, most)
        capacity.pass_size = capacity.pass_size or most

    def with_old(self) -> World:
        """The same, with `old`: the policy as it is, of which only what trains is a copy."""
        return replace(self, old=self.policy.snapshot())
