"""What an algorithm works with: domain, policy, reference, rewards, penalty, plan."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from pgdlab.diffusion.policy import Policy
from pgdlab.diffusion.values import Value
from pgdlab.domains.base import Domain
from pgdlab.penalties.base import Penalty
from pgdlab.processes import Processes
from pgdlab.rewards.base import Reward, prefetching
from pgdlab.rollout.memory import rows_that_fit
from pgdlab.rollout.noise import Noise
from pgdlab.rollout.plan import Plan
from pgdlab.rollout.trajectory import dtype_of


@dataclass
class World:
    """What an algorithm works with. critic: the value that it learns beside the policy, if it does. once: the first update
    follows its rollout at once and is differentiated once (SteeringModule), so that it can use sampling's own graph."""

    domain: Domain
    policy: Policy
    reference: Policy
    reward: Reward
    heldout: Reward | None
    penalty: Penalty
    plan: Plan
    noise: Noise
    processes: Processes = field(default_factory=Processes)
    critic: Value | None = None
    once: bool = False

    @property
    def device(self) -> torch.device:
        """Where the policy is, and so everything else."""
        return self.policy.device

    def to(self, device: torch.device) -> World:
        """Every part that has weights, moved; sizes of passes that the plan leaves open are chosen for that device."""
        for part in (self.policy, self.reference, self.reward, self.heldout, self.penalty, self.critic):
            if part is not None:
                part.to(device)
        plan = self.plan
        if not (plan.rollout_batch and plan.pass_size):
            x = torch.zeros(2, *self.policy.space.shape, dtype=dtype_of(self.policy), device=device)
            most = rows_that_fit(self.policy, x, torch.tensor(self.domain.train_conditions[:1] * 2, device=device))
            # a slow reward looks at a batch while the next one is sampled
            batch = -(-plan.samples // 4) if prefetching(self.reward) else most
            batch = plan.rollout_batch or min(batch, most)
            self.plan = replace(plan, rollout_batch=batch, pass_size=plan.pass_size or most)
        return self
