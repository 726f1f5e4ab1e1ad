"""A reward of your own: digits with ink in their upper half. A function (samples, prompts) -> scores is all it takes."""

from __future__ import annotations

import sys

import torch

import pgdlab


def upper_ink(samples: torch.Tensor, prompts: list[object]) -> torch.Tensor:
    """Ink above minus ink below, in grey levels: samples (B, 1, H, W) of 0..1 -> (B,)."""
    half = samples.shape[2] // 2
    return samples[:, :, :half].mean((1, 2, 3)) - samples[:, :, half:].mean((1, 2, 3))


def main(overrides: list[str]) -> pgdlab.Run:
    """Trains, and draws from what came of it. overrides: as on the command line, plan.iterations=30."""
    run = pgdlab.train("digits/ppo", reward=upper_ink, overrides=["name=upper-ink", *overrides])
    print(run)
    print("reward an iteration:", [round(value, 3) for value in run.metrics["reward"]])
    scores = upper_ink(run.sample(64, seed=1), [])
    print(f"64 new samples: {scores.mean():.3f} +- {scores.std() / 8:.3f}; exported to {run.export()}")
    return run


if __name__ == "__main__":
    main(sys.argv[1:])
