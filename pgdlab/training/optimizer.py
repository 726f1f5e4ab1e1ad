"""The optimizer of a run: learning rates by part, clipping, warm-up, the half-life of the averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pgdlab.world import World


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101), fused.

    lr: the denoiser's; initial_lr: the initial distribution's; critic_lr: the critic's, where there is one. clip_norm:
    largest gradient norm, 0 for none; the critic's is its own.
    ema_halflife: of the averaged weights, as a share of all updates. warmup: updates of linear warm-up; final_lr: the
    share of the learning rate that a cosine decays to at the last update (1: constant).
    """

    lr: float = 1e-4
    initial_lr: float = 1e-2
    critic_lr: float = 3e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_halflife: float = 0.1
    warmup: int = 0
    final_lr: float = 1.0

    def __post_init__(self) -> None:
        allowed: list[tuple[str, Callable[[float], bool], str]] = [
            ("lr initial_lr critic_lr ema_halflife", lambda x: x > 0, "above 0"),
            ("beta1 beta2", lambda x: 0 <= x < 1, "from 0 to below 1"),
            ("weight_decay clip_norm warmup", lambda x: x >= 0, "at least 0"),
            ("final_lr", lambda x: 0 <= x <= 1, "from 0 to 1"),
        ]
        for name, good, words in ((name, good, words) for names, good, words in allowed for name in names.split()):
            if not good(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; it is {words}")

    def build(self, world: World) -> torch.optim.AdamW:
        """An optimizer over exactly the parameters that train."""
        groups = [
            {"params": [p for p in part.parameters() if p.requires_grad], "lr": lr}
            for part, lr in ((world.policy.denoiser, self.lr), (world.policy.initial, self.initial_lr))
        ]
        groups = [g for g in groups if g["params"]]
        if not groups:
            raise ValueError("nothing to train: set policy=full or policy=lora, or initial=diagonal or conditional")
        if world.critic is not None:
            groups.append({"params": list(world.critic.parameters()), "lr": self.critic_lr})
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(groups, betas=betas, weight_decay=self.weight_decay, fused=True)

    def lr_factor(self, update: int, updates: int) -> float:
        """What the learning rates are multiplied by at an update."""
        ramp = min(1.0, (update + 1) / max(1, self.warmup))
        return ramp * (self.final_lr + (1 - self.final_lr) * (1 + math.cos(math.pi * min(1.0, update / updates))) / 2)

    def ema_decay(self, updates: int) -> float:
        """Decay a step, so that the half-life is ema_halflife of all updates."""
        return 0.5 ** (1 / max(1.0, self.ema_halflife * updates))
