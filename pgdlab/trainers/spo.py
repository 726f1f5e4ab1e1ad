"""SPO: direct preference optimisation on the densities of the chain, of actions from one state."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from pgdlab.rollout.sampler import SAMPLES
from pgdlab.trainers.chain_pairs import Actions, ChainPairs
from pgdlab.trainers.interaction import Interaction, OneShot, cost, summarise, training_request
from pgdlab.trainers.prompts import prompt_rewards
from pgdlab.trainers.ranked import Ranked
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class SPO(ChainPairs):
    """-log sigmoid(beta (log w(best) - log w(worst))) a step, best and worst of `actions` actions from one state (Liang et al.
    2024, arXiv:2406.04314), by the reward of the reference's x0 estimate of each, where the paper has a step-aware model.

    At 2 actions each step's minimum is its tilt by exp(that reward / (beta temperature)). actions: rows of a group that follow
    one another. start: steps before it are not trained. w is not clamped.
    """

    actions: int = 2
    start: int = 4
    interaction: Interaction = field(default_factory=OneShot, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.actions < 2 or self.start < 0:
            raise ValueError(f"actions is {self.actions}, start {self.start}; they must be at least 2, and at least 0")

    @property
    def together(self) -> int:
        return self.actions

    def refuse(self, world: World) -> None:
        super().refuse(world)
        if world.reward.needs_estimates():
            raise ValueError(
                f"reward {world.reward.called} pays intermediate states, and this trainer scores those itself: take the reward "
                "inside it"
            )
        if not [h for h in world.policy.stochastic_steps if h >= self.start]:
            raise ValueError(f"trainer.start is {self.start}, and no step from there on has noise: lower it")

    @torch.no_grad()
    def collect(self, world: World, iteration: int) -> Actions:
        request = training_request(world, iteration, (), SAMPLES)
        index = world.processes.share(world.plan.samples)
        u = world.noise.uniform(iteration, index, 2 * world.policy.steps)
        sampler = Ranked(world, self.actions, self.start, self.temperature, u)
        collected = self.interaction.collect(world, replace(request, sampler=sampler))
        points, known = torch.cat(sampler.points), torch.cat(sampler.known)
        slot, column = known.nonzero().unbind(1)
        at = 3 * (slot * known.shape[1] + column)
        first, total = self.numbered(world, len(at))
        state = at[:, None, None].expand(-1, 1, 2)
        h = torch.tensor(sampler.compared, device=at.device)
        prompts, paid = prompt_rewards(world, collected), cost(world, collected)
        spent = torch.tensor([[sampler.queries, sampler.evaluated]], device=at.device)
        queries, rows = world.processes.gather(spent).sum(0).tolist()
        logs = summarise(world, collected) | (prompts.logs if prompts else {}) | {"pairs": float(total)}
        return Actions(
            points=points.flatten(0, 2), state=state, action=state + torch.tensor([1, 2], device=at.device),
            step=h[column][:, None], cond=collected.trajectory.cond[slot * self.actions], share=torch.ones_like(at).to(points),
            first=first, total=total, iteration=iteration, logs=logs, queries=paid["queries"] + queries,
            evaluations=paid["evaluations"] + rows, prompts=prompts,
        )  # fmt: skip
