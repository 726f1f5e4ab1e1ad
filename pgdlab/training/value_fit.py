"""Fits a value to the base's own rollouts, and says how well it does on paths that it has not seen."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from pgdlab.credit.critic import Critic, Perceptron
from pgdlab.diffusion.values import FittedValue
from pgdlab.rewards.base import RewardError
from pgdlab.rollout.noise import Noise, Stream
from pgdlab.rollout.sampler import Extras
from pgdlab.trainers.interaction import OneShot, Request, in_turn
from pgdlab.training.fit import make_trainer
from pgdlab.world import World

FARTHEST = 12.0  # nats: beyond that the loss goes on as its tangent
LOOKS = 20  # at the paths that say when to stop
PASS = 8192  # states that are valued at once where nothing is differentiated


@dataclass(frozen=True)
class Paths:
    """N paths of the base: states s_0 .. s_{H-1}, conditions, and the rewards of their samples."""

    states: Float[Tensor, "N H *D"]
    cond: Int[Tensor, " N"]
    reward: Float[Tensor, " N"]

    def rows(self, rows: Tensor | slice) -> Paths:
        """Those of these numbers."""
        return Paths(self.states[rows], self.cond[rows], self.reward[rows])


@dataclass(frozen=True, kw_only=True)
class ValueFit:
    """Regression of a value on paths.

    of: "soft", lam log E[exp(r / lam) | s_h], by the linex loss E[e^d - d - 1], d = r / lam - V / lam, whose minimiser it is
    (Varian 1975), with no exponential of large rewards; "mean", E[r | s_h], by squares. lam: in units of the reward. critic: the
    network. held_out: share of the paths that are not fitted: half of them say which weights are kept, the other half how good
    those are. updates, batch: of AdamW, batch in states; lr: falls to 0 by a cosine.
    """

    of: Literal["soft", "mean"] = "soft"
    lam: float = 0.1
    critic: Critic = field(default_factory=Perceptron)
    held_out: float = 0.2
    updates: int = 2000
    batch: int = 512
    lr: float = 2e-3

    def __post_init__(self) -> None:
        if not self.lam > 0:
            raise ValueError(f"lam is {self.lam}; it must be above 0, in units of the reward")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it must be a share of the paths, above 0 and below 1")
        for name in ("updates", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")

    @property
    def unit(self) -> float:
        """Of what is fitted, in units of the reward: nats of a soft value."""
        return self.lam if self.of == "soft" else 1.0

    def loss(self, off: Float[Tensor, "*P"]) -> Float[Tensor, "*P"]:
        """Of r - V in that unit."""
        if self.of == "mean":
            return off.square()
        near = off.clamp(max=FARTHEST)
        return near.exp() * (1 + (off - near)) - off - 1

    def constant(self, reward: Float[Tensor, " N"]) -> Float[Tensor, ""]:
        """The best value that does not look at the state."""
        if self.of == "mean":
            return reward.mean()
        return self.lam * ((reward / self.lam).logsumexp(0) - math.log(len(reward)))

    def parts(self, paths: int) -> tuple[slice, slice, slice]:
        """Paths that are fitted, that say when to stop, and that are judged by. Raises ValueError where there are too few."""
        judged = int(self.held_out * paths / 2)
        if judged < 2 or paths - 2 * judged < 2:
            raise ValueError(
                f"of {paths} measured paths a share of {self.held_out:g} is held out, {2 * judged}: it takes 4, and 2 to fit. "
                "Raise plan.iterations, plan.samples or value.held_out"
            )
        fitted = paths - 2 * judged
        return slice(0, fitted), slice(fitted, fitted + judged), slice(fitted + judged, paths)


def collected(world: World, say: Callable[[str], None]) -> tuple[Paths, dict[str, int]]:
    """Paths of the base, plan.iterations x plan.samples, and their costs; those whose reward was not measured are left out."""
    parts, costs = [], {"queries": 0, "evaluations": 0}
    plan, base = world.plan, world.reference
    for k in range(plan.iterations):
        say(f"paths of the base: {k * plan.samples:,} of {plan.iterations * plan.samples:,}")
        noise = Noise(world.noise.seed, Stream.TRAIN).of(k, range(plan.samples))
        cond = in_turn(world.domain.train_conditions, plan.samples).to(world.device)
        request = Request(policy=base, reference=base, noise=noise, cond=cond, extras=Extras(states=True))
        found = OneShot().collect(world, request)
        known = found.rewards.measured
        states = found.trajectory.states[known, : base.steps]
        parts.append(Paths(states, cond[known], found.rewards.total.double()[known]))
        costs = {
            "queries": costs["queries"] + found.rewards.queries,
            "evaluations": costs["evaluations"] + found.evaluations,
        }
    names = ("states", "cond", "reward")
    return Paths(*(torch.cat([getattr(part, name) for part in parts]) for name in names)), costs


class Regression(LightningModule):
    """AdamW on random states of the fitted paths. Every so often the paths that say when to stop are looked at, and the weights
    of the smallest loss are kept."""

    def __init__(self, how: ValueFit, value: FittedValue, fitted: Paths, watched: Paths) -> None:
        super().__init__()
        self.how, self.value, self.fitted, self.watched = how, value, fitted, watched
        self.best, self.kept = math.inf, copy.deepcopy(value.state_dict())

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        row, h = batch[0] // self.fitted.states.shape[1], batch[0] % self.fitted.states.shape[1]
        value = self.value(self.fitted.states[row, h], h, self.fitted.cond[row])
        loss = self.how.loss((self.fitted.reward[row] - value) / self.how.unit).mean()
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        every = max(1, self.how.updates // LOOKS)
        if (index + 1) % every == 0 or index + 1 == self.how.updates:
            loss = self.how.loss(off(self.how, self.value, self.watched)).mean().item()
            self.log("stopping_loss", loss, prog_bar=True)
            if loss < self.best:
                self.best, self.kept = loss, copy.deepcopy(self.value.state_dict())

    def configure_optimizers(self) -> Any:
        adam = torch.optim.AdamW(self.value.parameters(), lr=self.how.lr, weight_decay=0.01)
        plan = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.how.updates)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": plan, "interval": "step"}}


def fit(
    how: ValueFit, world: World, paths: Paths, runtime: Mapping[str, Any], bar: bool = True
) -> tuple[FittedValue, dict[str, Any]]:
    """The value, and its figures on the paths that are held out. bar: whether its progress is shown. Raises ValueError
    for too few paths, or equal rewards."""
    fitted, watched, judged = (paths.rows(part) for part in how.parts(len(paths.reward)))
    spread = fitted.reward.std().item()
    if not spread > 0:
        raise RewardError(
            f"reward {world.reward.called} gave all {len(fitted.reward)} paths {fitted.reward[0].item():g}: nothing to fit"
        )
    value = FittedValue(how.critic.build(world), world.reference.coefficients.double())
    flat = fitted.states.flatten(2).double()
    value.low, value.high = flat.amin(0), flat.amax(0)
    value.offset, value.scale = how.constant(fitted.reward), torch.full_like(value.scale, spread)
    regression = Regression(how, value, fitted, watched)
    size = len(fitted.reward) * world.reference.steps
    order = RandomSampler(range(size), True, how.updates * how.batch, torch.Generator().manual_seed(world.noise.seed))
    loader = DataLoader(
        TensorDataset(torch.arange(size)), batch_size=None, sampler=BatchSampler(order, how.batch, False)
    )
    trainer = make_trainer(
        dict(runtime), max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=bar,
        gradient_clip_val=1.0,
    )  # fmt: skip
    with torch.enable_grad():
        trainer.fit(regression, loader)
    value.load_state_dict(regression.kept)
    value = value.to(world.device)
    best = how.constant(fitted.reward)
    return value, figures(how, off(how, value, judged), (judged.reward - best) / how.unit)


@torch.no_grad()
def off(how: ValueFit, value: FittedValue, paths: Paths) -> Float[Tensor, "N H"]:
    """r - V of every state of paths, in the unit of the fit."""
    n, steps = paths.states.shape[:2]
    states, h = paths.states.flatten(0, 1), torch.arange(steps, device=paths.cond.device).repeat(n)
    cond = paths.cond.repeat_interleave(steps)
    parts = [
        value(states[i : i + PASS], h[i : i + PASS], cond[i : i + PASS]).double() for i in range(0, n * steps, PASS)
    ]
    return (paths.reward[:, None] - torch.cat(parts).reshape(n, steps)) / how.unit


def figures(how: ValueFit, error: Float[Tensor, "N H"], constant: Float[Tensor, " N"]) -> dict[str, Any]:
    """By step and on the whole: the loss, the share of it that the best constant has and the value has not, and what should be 1
    (soft: E[exp(r / lam - V / lam)]) or 0 (mean: E[r - V]) where the value is right on average."""
    loss, none = how.loss(error).mean(0), how.loss(constant).mean().item()
    right = error.exp().mean(0) if how.of == "soft" else error.mean(0)
    each = [
        {"state": h, "loss": a.item(), "explained": 1 - a.item() / none, "calibration": b.item()}
        for h, (a, b) in enumerate(zip(loss, right, strict=True))
    ]
    whole = loss.mean().item()
    return {
        "heldout_paths": len(error), "heldout_loss": whole, "heldout_loss_constant": none,
        "value_explained": 1 - whole / none, "by_state": each,
    }  # fmt: skip
