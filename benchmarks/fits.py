"""What of a large model's run takes how much memory, counted on fake tensors, without a card: python -m benchmarks.fits

Weights in bf16; adapters in fp32 with their gradient, AdamW's moments and the moving average (20 bytes a weight); what a
differentiated pass keeps of one row, as it is and where blocks are computed again (then one block's is there besides, for a
moment); the trajectories of 16 samples of 10 trained steps with the reference's means, in fp32. Rows: of a pass on a card of
80 GB, in half of what is left, as the program takes them. Encoders, the decoder and rewards are not counted.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.large import MODELS, Shape, Told
from pgdlab.diffusion.pipelines import targets_in
from pgdlab.rollout.memory import SHARE, saved_by

GB, CARD, SAMPLES, STEPS = 1e9, 80e9, 16, 10
PER_ADAPTER = 5 * 4  # bytes: weight, gradient, two moments, average
__all__ = ["Fit", "count", "main"]


@dataclass(frozen=True)
class Fit:
    """Bytes, but for weights and adapters, which are numbers."""

    weights: int
    adapters: int
    row: int
    row_again: int
    trajectories: int

    @property
    def rest(self) -> int:
        """What is there before any pass."""
        return 2 * self.weights + PER_ADAPTER * self.adapters + self.trajectories

    def rows(self, each: int) -> int:
        """Of a pass."""
        return max(0, int(SHARE * (CARD - self.rest) // each))


def adapted(shape: Shape, rank: int) -> nn.Module:
    """The network with adapters where a pipeline's would be."""
    from peft import LoraConfig, get_peft_model

    told = Told(shape, torch.bfloat16).eval()
    told.network = get_peft_model(told.network, LoraConfig(r=rank, target_modules=list(targets_in(told.network))))
    return told


def kept(told: nn.Module, shape: Shape, rows: int) -> int:
    """Bytes that a pass of so many rows keeps."""
    numbers = torch.zeros(rows, dtype=torch.long)
    return saved_by(lambda: told(torch.zeros(rows, *shape.sample), numbers, numbers), told)


def faked(module: nn.Module) -> None:
    """Gives a module on the meta device weights and buffers that are on the CPU, as far as operations see, and take no memory."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
        for name, x in part._buffers.items():
            if x is not None:
                part._buffers[name] = torch.empty(x.shape, dtype=x.dtype)


def count(shape: Shape, rank: int) -> Fit:
    """Nothing is allocated."""
    with torch.device("meta"):
        told = adapted(shape, rank)
    with FakeTensorMode():
        faked(told)
        adapters = sum(p.numel() for p in told.parameters() if p.requires_grad)
        weights = sum(p.numel() for p in told.parameters()) - adapters
        row = kept(told, shape, 1)
        told.enable_gradient_checkpointing()
        again = kept(told, shape, 1)
    return Fit(weights, adapters, row, again, 4 * SAMPLES * (2 * STEPS + 1) * math.prod(shape.sample))


def main(sizes: list[str], rank: int) -> None:
    """Prints the table."""
    columns = (
        "model", "weights", "in bf16, GB", "adapters", "with all of theirs, GB", "a row, GB", "again, GB", "trajectories, GB",
        "rows", "again",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for size in sizes:
        fit = count(MODELS[size], rank)  # type: ignore[index]
        print(
            f"| {size} | {fit.weights / 1e9:.2f} G | {2 * fit.weights / GB:.1f} | {fit.adapters / 1e6:.1f} M | "
            f"{PER_ADAPTER * fit.adapters / GB:.2f} | {fit.row / GB:.2f} | {fit.row_again / GB:.2f} | "
            f"{fit.trajectories / GB:.3f} | {fit.rows(fit.row)} | {fit.rows(fit.row_again)} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rank", type=int, default=16)
    given = parser.parse_args()
    main(given.sizes, given.rank)
