"""DRaFT: the gradient of the expected reward by the chain rule through the sampler, of all steps or of the last ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgdlab.rollout.plan import AllSteps, Last, Plan, Steps
from pgdlab.rollout.sweep import Adjoints, Sweep
from pgdlab.trainers.interaction import Collected
from pgdlab.trainers.pathwise import Pathwise
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class DRaFT(Pathwise):
    """grad E[r(s_H) - sum_h cost(KL_h)] through s_{h+1} = m_h + std_h z_h   (Clark et al. 2023, arXiv:2309.17400), by the full
    adjoint: a_h = (dm_h/ds)^T a_{h+1} - d cost(KL_h)/ds.

    last: null trains all steps: the gradient of J. K trains the last K steps that have noise, with their KL alone (DRaFT-K);
    "random" draws K anew each iteration, 1 to all of them (AlignProp: Prabhudesai et al. 2023, arXiv:2310.03739). Both are biased
    where the steps share weights, and leave the initial distribution out.
    """

    last: int | Literal["random"] | None = None

    def steps(self, plan: Plan) -> Steps:
        if self.last is None:
            return plan.trained_steps
        return Last(count=None if self.last == "random" else self.last)

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if self.last is not None and world.policy.trains_initial:
            raise ValueError(
                f"trainer.last is {self.last}: the gradient ends before it reaches the initial distribution; leave last out, or "
                "set initial=standard"
            )
        if self.last is not None and world.plan.trained_steps != AllSteps():
            raise ValueError(
                f"trainer.last is {self.last} and plan.trained_steps is given: each says which steps are trained"
            )

    def adjoints(self, world: World, collected: Collected, down_to: int) -> Adjoints:
        penalties = world.penalties
        cost = penalties.loss_term if penalties.needs_reference() and world.policy.trains_denoiser else None
        sweep = Sweep(policy=world.policy, reference=world.reference, lean=False, cost=cost)
        return self.swept(sweep, world, collected, down_to)
