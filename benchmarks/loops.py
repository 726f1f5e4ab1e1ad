"""The training loops of ddpo-pytorch and of trl on the network of a run of ours, for benchmarks.card --peers.

Written here as their repositories have them (kvablack/ddpo-pytorch, scripts/train.py; huggingface/trl 0.23, DDPOTrainer), which
need pipelines and versions of their own: a batch is sampled step by step without gradients; then, for every minibatch, each step
is a pass with its backward, gradients add up over the steps, the norm is clipped and AdamW steps. ddpo-pytorch takes the steps
of each sample in an order of its own and has the log-probabilities under autocast too; trl takes them in the order of sampling,
and has the network alone under it. Both take the mean over dimensions in the ratio, and train the last step too, which has next
to no noise and is no part of our gradient. `python -m benchmarks.peers` runs trl itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgdlab.diffusion.denoisers import DiffusersDenoiser
from pgdlab.world import World

CLIP, ADVANTAGE, NORM = 1e-4, 5.0, 1.0  # of the ratio around 1, of advantages, of the gradient


@dataclass(frozen=True, kw_only=True)
class Loop:
    """name: whose. shuffles: whether each sample's steps are trained in an order of its own. half: autocast to bf16; all_half:
    of the log-probabilities too. rows: of a pass; epochs, minibatches: of an iteration."""

    name: str
    shuffles: bool
    all_half: bool
    half: bool
    rows: int
    epochs: int
    minibatches: int

    def network(self, world: World, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """The network's output, in fp32."""
        inner = next(m for m in world.policy.modules() if isinstance(m, DiffusersDenoiser))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            return inner.output(x, t, cond).float()

    def step(self, world: World, scheduler: Any, x: Tensor, t: Tensor, cond: Tensor, action: Tensor | None) -> Any:
        """DDIM with eta 1: the next states and their log-probabilities, or those of given ones; a time for each row."""
        out = self.network(world, x, t, cond)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half and self.all_half):
            before = t - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
            table = scheduler.alphas_cumprod.to(x.device)
            last = torch.where(before >= 0, table[before.clamp(min=0)], scheduler.final_alpha_cumprod.to(x.device))
            now, last = (a.view(-1, *(1,) * (x.ndim - 1)) for a in (table[t], last))
            x0, noise = estimates(scheduler.config.prediction_type, x, out, now)
            std = (((1 - last) / (1 - now)) * (1 - now / last)).clamp(min=1e-12).sqrt()
            mean = last.sqrt() * x0 + (1 - last - std**2).clamp(min=0).sqrt() * noise
            action = mean + std * torch.randn_like(mean) if action is None else action
            score = -((action.detach() - mean) ** 2) / (2 * std**2) - std.log() - math.log(math.sqrt(2 * math.pi))
            return action, score.flatten(1).mean(1)

    def iteration(self, world: World, scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
        """One epoch of theirs: samples, rewards, and all updates."""
        cond = torch.tensor(world.domain.train_conditions).repeat(world.plan.samples)[: world.plan.samples]
        cond = cond.to(world.device)
        states, old = self.sample(world, scheduler, cond)
        reward = world.reward.scored(world.domain.decoder(states[:, -1]), cond).value
        advantage = ((reward - reward.mean()) / (reward.std(correction=0) + 1e-8)).clamp(-ADVANTAGE, ADVANTAGE)
        steps = scheduler.timesteps.to(world.device)
        for _ in range(self.epochs):
            for chosen in torch.randperm(len(cond), device=world.device).chunk(self.minibatches):
                order = [torch.randperm(len(steps)) if self.shuffles else torch.arange(len(steps)) for _ in chosen]
                places = torch.stack(order).to(world.device)
                for k in range(len(steps)):
                    for part in torch.arange(len(chosen), device=world.device).split(self.rows):
                        row, h = chosen[part], places[part, k]
                        now, action = states[row, h], states[row, h + 1]
                        _, score = self.step(world, scheduler, now, steps[h], cond[row], action)
                        ratio = (score - old[row, h]).exp()
                        gain = torch.minimum(ratio * advantage[row], ratio.clamp(1 - CLIP, 1 + CLIP) * advantage[row])
                        (-gain.sum() / (len(chosen) * len(steps))).backward()
                weights = [p for group in optimizer.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(weights, NORM)
                optimizer.step()
                optimizer.zero_grad()

    @torch.no_grad()
    def sample(self, world: World, scheduler: Any, cond: Tensor) -> tuple[Tensor, Tensor]:
        """All states (B, H + 1, *D), and log-probabilities (B, H)."""
        states, scores = [], []
        for part in cond.split(self.rows):
            x = torch.randn(len(part), *world.policy.space.shape, device=world.device)
            path, found = [x], []
            for t in scheduler.timesteps.to(world.device):
                x, score = self.step(world, scheduler, x, t.expand(len(part)), part, None)
                path.append(x)
                found.append(score)
            states.append(torch.stack(path, 1))
            scores.append(torch.stack(found, 1))
        return torch.cat(states), torch.cat(scores)


def estimates(kind: str, x: Tensor, out: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """x0 and the noise, of what a network predicts; alpha: the cumulative product."""
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    if kind == "epsilon":
        return (x - sigma * out) / signal, out
    if kind == "v_prediction":
        return signal * x - sigma * out, signal * out + sigma * x
    return out, (x - signal * out) / sigma


def loops(half: bool, rows: int, epochs: int, minibatches: int) -> list[Loop]:
    """Both, at one size."""
    same: dict[str, Any] = {"half": half, "rows": rows, "epochs": epochs, "minibatches": minibatches}
    return [
        Loop(name="ddpo-pytorch's loop", shuffles=True, all_half=True, **same),
        Loop(name="trl's loop", shuffles=False, all_half=False, **same),
    ]
