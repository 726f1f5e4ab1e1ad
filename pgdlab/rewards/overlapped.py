"""A reward in a thread of its own: one batch is scored while the next one is sampled."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pgdlab.rewards.base import Prefetch, Reward, Score, joined, prefetching
from pgdlab.rewards.text.ahead import Threads


class Overlapped(Prefetch):
    """reward, in a thread that begins with samples as soon as `reward.batch` of them are there. The thread asks it for the same
    batches in the same order as without, and nothing else does: values, parts and errors are the same, to the bit.

    Worth it where the reward works elsewhere than the policy: on a card of its own, on the CPU beside a card, or over a network.
    It must not need the main thread. Its values carry no gradients.
    """

    def __init__(self, *, reward: Reward) -> None:
        super().__init__()
        if prefetching(reward):
            raise ValueError(f"reward {reward.called} begins early by itself: take it out of Overlapped")
        if reward.batch < 1 or type(reward).forward is not Reward.forward:
            raise ValueError(
                f"reward {reward.called} is asked for all samples at once, so that nothing can begin earlier: set its batch, or "
                "put Overlapped around the rewards inside it"
            )
        self.reward, self.batch, self.takes = reward, reward.batch, reward.takes
        self.threads: Threads | None = None
        self.left: list[tuple[Any, Tensor]] = []  # fewer than a batch
        self.begun: list[tuple[Any, Tensor, Future[Score]]] = []

    @property
    def called(self) -> str:
        return self.reward.called

    def submit(self, sample: Any, cond: Tensor) -> None:
        self.left.append((sample, cond))
        samples, conditions = (joined([*parts]) for parts in zip(*self.left, strict=True))
        whole = len(conditions) // self.batch * self.batch
        for start in range(0, whole, self.batch):
            rows = slice(start, start + self.batch)
            self.begun.append((samples[rows], conditions[rows], self.asked(samples[rows], conditions[rows])))
        self.left = [(samples[whole:], conditions[whole:])]

    def scored(self, sample: Any, cond: Tensor) -> Score:
        try:
            return super().scored(sample, cond)
        finally:
            self.left, self.begun = [], []

    def score(self, sample: Any, cond: Tensor) -> Score:
        while self.begun:
            known, under, future = self.begun.pop(0)
            if torch.equal(under, cond) and same(known, sample):
                return future.result()
        return self.asked(sample, cond).result()

    def asked(self, sample: Any, cond: Tensor) -> Future[Score]:
        """The thread's next task. It has the precision of the run, and its card, as the main thread has them."""
        kind = cond.device.type
        half, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

        def call() -> Score:
            card: AbstractContextManager[Any] = torch.cuda.device(cond.device) if cond.is_cuda else nullcontext()
            with card, torch.no_grad(), torch.autocast(kind, dtype, enabled=half):
                return self.reward.scored(sample, cond)

        self.threads = self.threads or Threads(1)
        return self.threads.submit(call)


def same(a: Any, b: Any) -> bool:
    """Whether two batches hold the same samples."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
