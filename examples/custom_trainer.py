"""A trainer of your own: the surrogate that an update maximises. Rollout, credit, penalty and resume are the base's."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

import pgdlab
from pgdlab.trainers.likelihood_ratio import LikelihoodRatio


@dataclass(frozen=True, kw_only=True)
class Soft(LikelihoodRatio):
    """A tanh(log w / width) width: the ratio's logarithm, which a step cannot drive further than about `width` nats."""

    width: float = 0.2
    epochs: int = 2
    minibatches: int = 2

    def surrogate(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        return advantage * self.width * torch.tanh(log_ratio / self.width)

    def diagnostics(self, log_ratio: Tensor) -> dict[str, tuple[Tensor, float]]:
        return {"log_ratio_abs": (log_ratio.abs().sum(), float(len(log_ratio)))}


def main(overrides: list[str]) -> pgdlab.Run:
    """Trains the digits of the quickstart with it."""
    run = pgdlab.train("digits/quickstart", trainer=Soft(width=0.3), overrides=["name=soft", *overrides])
    print(run, run.config["trainer"])
    return run


if __name__ == "__main__":
    main(sys.argv[1:])
