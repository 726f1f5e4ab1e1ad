"""Keyed noise: the numbers of sample i at step h depend on (seed, stream, iteration, i, h) and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Stream(IntEnum):
    """Independent uses of one seed."""

    TRAIN = 0
    EVALUATE = 1
    DOCTOR = 2
    REFERENCE = 3


@dataclass(frozen=True)
class Noise:
    """Standard normal numbers from the counter-based generator Philox 4x64 (Salmon et al. 2011, as in numpy).

    Every sample has a generator of its own, whose counter starts at (0, 0, index, iteration): batch size, rank and
    process count cannot matter. Drawn on the CPU in fp32, so every device gets the same numbers.
    """

    seed: int
    stream: Stream = Stream.TRAIN

    def normal(self, iteration: int, index: range, steps: int, shape: tuple[int, ...]) -> Float[Tensor, "B S *D"]:
        """(len(index), steps, *shape): row b, step h for sample index[b]; a prefix in steps gives the same numbers."""
        size = math.prod(shape)
        out = torch.empty(len(index), steps * size, dtype=torch.float32, device="cpu")  # torch counts its memory
        for row, i in zip(out.numpy(), index, strict=True):
            philox = np.random.Philox(counter=[0, 0, i, iteration], key=[self.seed, int(self.stream)])
            np.random.Generator(philox).standard_normal(out=row, dtype=np.float32)
        return out.reshape(len(index), steps, *shape)

    def generator(self, iteration: int, purpose: int = 0) -> torch.Generator:
        """For everything that is not a trajectory's noise (conditions, shuffling), the same on every process."""
        words = np.random.SeedSequence([self.seed, int(self.stream), iteration, purpose]).generate_state(2)
        return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))
