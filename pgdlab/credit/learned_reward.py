"""A regression of the reward on the samples that were scored, in the policy's own coordinates: its gradient costs no query."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pgdlab.diffusion.values import Value


class LearnedReward(Value):
    """offset + scale f(x, cond), f a value of step 0, fitted to the last rows that learn() was given, standardised; 0 before.

    memory: rows that are kept. updates: of AdamW, from f as it is, in each learn(); batch: rows each; rate: the learning rate.
    """

    sample: Tensor
    cond: Tensor
    reward: Tensor
    count: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(
        self, value: Value, like: Float[Tensor, " *D"], memory: int, updates: int, batch: int, rate: float
    ) -> None:
        super().__init__()
        self.value, self.updates, self.batch, self.rate = value.requires_grad_(False), updates, batch, rate
        zero = torch.zeros((), dtype=torch.float64, device=like.device)
        buffers = {
            "sample": like.new_zeros(memory, *like.shape), "cond": zero.long().repeat(memory), "reward": zero.repeat(memory),
            "count": zero.long(), "offset": zero, "scale": zero,
        }  # fmt: skip
        for name, start in buffers.items():
            self.register_buffer(name, start.clone())

    def sizes(self) -> dict[str, int]:
        return self.value.sizes()

    def forward(self, x: Float[Tensor, "P *D"], h: Int[Tensor, " P"], cond: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        return self.offset + self.scale * self.value(x, torch.zeros_like(h), cond).double()

    def at(self, x: Float[Tensor, "P *D"], cond: Int[Tensor, " P"]) -> Float[Tensor, " P"]:
        """Of samples."""
        return self(x, torch.zeros_like(cond), cond)

    def slope(self, x: Float[Tensor, "P *D"], cond: Int[Tensor, " P"]) -> Float[Tensor, "P *D"]:
        """The gradient in the samples."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.at(x, cond).sum(), x)[0]

    def learn(
        self, x: Float[Tensor, "B *D"], cond: Int[Tensor, " B"], reward: Float[Tensor, " B"], generator: torch.Generator
    ) -> None:
        """Takes rows in, in the place of the oldest ones, and fits anew. Equal rewards leave f alone."""
        place = (torch.arange(len(x), device=x.device) + self.count) % len(self.sample)
        self.sample[place], self.cond[place], self.reward[place] = x.to(self.sample), cond, reward.double()
        self.count += len(x)
        known = min(int(self.count), len(self.sample))
        reward = self.reward[:known]
        self.offset.copy_(reward.mean())
        if known < 2 or not reward.std() > 0:
            return
        self.scale.copy_(reward.std())
        self.fit(known, ((reward - self.offset) / self.scale), generator)

    def fit(self, known: int, target: Float[Tensor, " N"], generator: torch.Generator) -> None:
        """Least squares of the known rows."""
        self.value.requires_grad_(True)
        optimizer = torch.optim.AdamW(self.value.parameters(), lr=self.rate, weight_decay=1e-4)
        with torch.enable_grad():
            for _ in range(self.updates):
                rows = torch.randint(known, (min(self.batch, known),), generator=generator).to(target.device)
                cond = self.cond[rows]
                off = self.value(self.sample[rows], torch.zeros_like(cond), cond).double() - target[rows]
                optimizer.zero_grad()
                off.square().mean().backward()
                optimizer.step()
        self.value.requires_grad_(False)
        for p in self.value.parameters():
            p.grad = None


def explained(reward: Float[Tensor, " B"], guess: Float[Tensor, " B"]) -> float:
    """1 - Var[r - guess] / Var[r]; 0 where all rewards are equal."""
    return (1 - (reward - guess).var() / reward.var()).item() if len(reward) > 1 and reward.var() > 0 else 0.0
