"""The base of trainers on pairs of actions: how much likelier the policy takes either than the reference does."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgdlab.functional.gaussian import log_prob
from pgdlab.rollout.plan import Plan
from pgdlab.trainers.base import Algorithm, Loss, refuse_idle_guidance, refuse_ode
from pgdlab.trainers.denoising import turn
from pgdlab.trainers.own_samples import refuse_path_terms
from pgdlab.trainers.prompts import PromptRewards
from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class Actions:
    """This process's T terms, each of K steps: a pair of actions a step, the preferred one first. state, action: which of the
    points; share: of the vote that the first one has; first: number of the first term here; total: of all processes' terms."""

    points: Float[Tensor, "M *D"]
    state: Int[Tensor, "T K 2"]
    action: Int[Tensor, "T K 2"]
    step: Int[Tensor, "T K"]
    cond: Tensor
    share: Float[Tensor, " T"]
    first: int
    total: int
    iteration: int
    logs: dict[str, float] = field(default_factory=dict)
    queries: int = 0
    evaluations: int = 0
    prompts: PromptRewards | None = None


@dataclass(frozen=True)
class SomeTerms:
    """Terms of a pass, and how many the global minibatch has."""

    terms: Int[Tensor, " R"]
    count: int


@dataclass(frozen=True, kw_only=True)
class ChainPairs(Algorithm[Actions, SomeTerms]):
    """Minimises -log sigmoid(beta sum_k (log w(winner) - log w(loser))) over terms, w = pi_h(a|s) / pi_pre_h(a|s).

    temperature: of the reward's answers, in its units; 0: the larger one is preferred; above: with the odds of reward over
    temperature. beta: times temperature it is reward units a nat. batch: terms an update.
    """

    beta: float = 0.1
    temperature: float = 0.0
    updates: int = 8
    batch: int = 64

    def __post_init__(self) -> None:
        for name in ("updates", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.beta < float("inf") or not 0 <= self.temperature < float("inf"):
            raise ValueError(
                f"beta is {self.beta}, temperature {self.temperature}; they must be above 0, and at least 0"
            )

    @property
    @abstractmethod
    def together(self) -> int:
        """How many samples that follow one another are compared."""

    def reduced(self, log_ratio: Float[Tensor, "R K 2"]) -> Float[Tensor, "R K 2"]:
        """The log-ratios that are compared."""
        return log_ratio

    def refuse(self, world: World) -> None:
        refuse_path_terms(world)
        refuse_ode(world.policy)
        refuse_idle_guidance(world)
        rows, here = self.together, len(world.processes.share(world.plan.samples))
        if world.plan.group % rows or here % rows:
            raise ValueError(
                f"plan.group is {world.plan.group}, and a process has {here} samples; {rows} that follow one another are "
                f"compared, so that both must be multiples of {rows}"
            )

    def numbered(self, world: World, terms: int) -> tuple[int, int]:
        """The number of this process's first term, and how many there are over all processes."""
        counts = world.processes.gather(torch.tensor([terms], device=world.device)).tolist()
        return sum(counts[: world.processes.rank]), sum(counts)

    def updates_per_iteration(self, plan: Plan) -> int:
        return self.updates

    def release(self, experience: Actions) -> None:
        """Nothing to free."""

    def micro_batches(self, experience: Actions, update: int, world: World) -> list[SomeTerms]:
        if not experience.total:
            return []
        chosen = turn(experience.total, self.batch, update, experience.iteration, world)
        here = chosen[(chosen >= experience.first) & (chosen < experience.first + len(experience.state))]
        parts = (here - experience.first).split(max(1, world.capacity.pass_size // (2 * experience.state.shape[1])))
        return [SomeTerms(part.to(world.device), len(chosen)) for part in parts if len(part)]

    def loss(self, experience: Actions, piece: SomeTerms, world: World) -> Loss:
        state, action = (x.index_select(0, piece.terms).flatten() for x in (experience.state, experience.action))
        count = experience.state.shape[1]
        step = experience.step.index_select(0, piece.terms).flatten().repeat_interleave(2)
        cond = experience.cond.index_select(0, piece.terms).repeat_interleave(2 * count, 0)
        x, taken = (experience.points.index_select(0, i) for i in (state, action))
        score = log_prob(world.policy(x, step, cond), taken, world.policy.space, cond)
        with torch.no_grad():
            before = log_prob(world.reference(x, step, cond), taken, world.policy.space, cond)
        gain = (score - before).reshape(-1, count, 2)
        first, second = self.reduced(gain).unbind(-1)
        odds = self.beta * (first - second).sum(1)
        each = binary_cross_entropy_with_logits(
            odds, experience.share.index_select(0, piece.terms).to(odds), reduction="sum"
        )
        terms, known = float(len(odds)), gain.detach().sum(1)
        logs = {
            "preference_accuracy": ((odds > 0).double().sum(), terms), "log_odds": (odds.detach().sum(), terms),
            "winner_gain": (known[:, 0].sum(), terms), "loser_gain": (known[:, 1].sum(), terms),
        }  # fmt: skip
        return Loss(each / piece.count, 2 * len(x), logs)
