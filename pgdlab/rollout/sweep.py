"""The sweep: the gradient of a function of the final samples, carried back along stored trajectories step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pgdlab.diffusion.policy import Policy
from pgdlab.functional.gaussian import kl_same_std
from pgdlab.processes import is_cut
from pgdlab.rollout.memory import Capacity, release
from pgdlab.rollout.trajectory import Trajectory

Cost = Callable[[Float[Tensor, " P"]], Float[Tensor, " P"]]


@dataclass(frozen=True)
class Adjoints:
    """What the function gains per unit that a state moves. after: a_{h+1}, of the state that trained step h leads to; first: a of
    the earliest state that was asked for, a_0 for the initial distribution. rows: network rows that it took (forward and
    backward); queries: of the reward, where it took any more."""

    after: Float[Tensor, "B K *D"]
    first: Float[Tensor, "B *D"]
    rows: int
    queries: int = 0


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One vector-Jacobian product a step, at the states as they are stored:

    lean: a_h = (dm_pre_h/ds)^T a_{h+1}   (Adjoint Matching: Domingo-Enrich et al. 2024, arXiv:2409.08861, eq. 38, on the chain
    as it is sampled); full: a_h = (dm_h/ds)^T a_{h+1} - d cost(KL_h)/ds, the chain rule through the sampler (DRaFT: Clark et al.
    2023, arXiv:2309.17400). A deterministic step is the reference's in both. cost: of a step's exact KL to the reference
    (nats), None for none. The memory is that of one step, however many there are.
    """

    policy: Policy
    reference: Policy
    lean: bool
    cost: Cost | None = None

    def carry(
        self, trajectory: Trajectory, gradient: Float[Tensor, "B *D"], *, down_to: int, capacity: Capacity
    ) -> Adjoints:
        """Back to the state of step `down_to`, as many trajectories at a time as a training pass has pairs, from now on half as
        many where memory runs out. The trajectory must hold all states from there on (Extras.states). gradient: of the function
        in the final samples. Raises ValueError where a product is not finite."""
        torch.clear_autocast_cache()  # torch before 2.10 uses weights again that were cast without a graph
        after = gradient.new_empty(len(gradient), len(trajectory.trained), *gradient.shape[1:])
        first, done, passed = torch.empty_like(gradient), 0, 0
        while done < len(gradient):
            part = slice(done, min(done + capacity.pass_size, len(gradient)))
            try:
                passed += self._carry_rows(trajectory, gradient, part, down_to, after, first)
            except RuntimeError as error:
                capacity.shrink(len(gradient) - done, error, is_cut(self.policy))
            else:
                done = part.stop
                continue
            release()
        if not (after.isfinite().all() and first.isfinite().all()):
            raise ValueError("the reward's gradient is not finite once it is carried back through the sampler's steps")
        return Adjoints(after, first, passed)

    def _carry_rows(
        self, trajectory: Trajectory, gradient: Tensor, part: slice, down_to: int, after: Tensor, first: Tensor
    ) -> int:
        a, passed = gradient[part], 0
        for h in reversed(range(down_to, trajectory.steps)):
            if h in trajectory.trained:
                after[part, trajectory.trained.index(h)] = a
            x = trajectory.states[part, trajectory.stored_at[h]]
            a, networks = self.back(x, h, trajectory.cond[part], a)
            passed += networks * len(x)
        first[part] = a
        return passed

    def back(
        self, x: Float[Tensor, "P *D"], h: int, cond: Tensor, a: Float[Tensor, "P *D"]
    ) -> tuple[Float[Tensor, "P *D"], int]:
        """a_h at states x of step h, of a_{h+1}; and how many networks were asked."""
        own = not self.lean and h in self.policy.stochastic_steps
        compared = self.cost is not None and own
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            at = torch.full((len(x),), h, device=x.device)
            g = (self.policy if own else self.reference)(x, at, cond)
            carried = (g.mean * a).sum(dtype=torch.float64)
            if compared and self.cost is not None:
                pre = self.reference(x, at, cond)
                carried = carried - self.cost(kl_same_std(g.mean, pre.mean, g.std, self.policy.space, cond)).sum()
            return torch.autograd.grad(carried, x)[0], 1 + compared
