"""Keyed noise: the numbers of sample i at step h depend on (seed, stream, iteration, i, h) and nothing else."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 2**20  # numbers that are drawn at once, where one step has no more


class Stream(IntEnum):
    """Independent uses of one seed."""

    TRAIN = 0
    EVALUATE = 1
    DOCTOR = 2
    REFERENCE = 3
    TABLE = 4
    PILOT = 5


@dataclass(frozen=True)
class Noise:
    """Standard normal numbers from the counter-based generator Philox 4x64 (Salmon et al. 2011, as in numpy).

    Every sample has a generator of its own, whose counter starts at (0, 0, index, iteration): batch size, rank and
    process count cannot matter. Drawn on the CPU in fp32, so every device gets the same numbers.
    """

    seed: int
    stream: Stream = Stream.TRAIN

    def of(self, iteration: int, index: range) -> SampleNoise:
        """The noise of the samples with these global indices in one iteration."""
        return SampleNoise(self, iteration, index)

    def steps(
        self, iteration: int, index: range, steps: int, shape: tuple[int, ...]
    ) -> Iterator[Float[Tensor, "B *D"]]:
        """The numbers of step 0, 1, ..., each (len(index), *shape), row b for sample index[b]. Drawn as they are asked for, a
        few steps at once where they are small."""
        size, key = math.prod(shape), [self.seed, int(self.stream)]
        each = [np.random.Generator(np.random.Philox(counter=[0, 0, i, iteration], key=key)) for i in index]
        most = max(1, BLOCK // max(1, size * len(index)))
        for start in range(0, steps, most):
            count = min(most, steps - start)
            out = torch.empty(len(index), count * size, dtype=torch.float32, device="cpu")  # torch counts its memory
            for row, generator in zip(out.numpy(), each, strict=True):
                generator.standard_normal(out=row, dtype=np.float32)
            yield from out.reshape(len(index), count, *shape).unbind(1)

    def uniform(self, iteration: int, index: range, count: int) -> Float[Tensor, "B C"]:
        """Numbers in [0, 1) for choices among samples, fp64, row b for index[b]. The counter's second word keeps them apart from
        the numbers of steps."""
        key = [self.seed, int(self.stream)]
        each = [np.random.Generator(np.random.Philox(counter=[0, 1, i, iteration], key=key)) for i in index]
        return torch.from_numpy(np.stack([generator.random(count) for generator in each]))

    def episode(self, iteration: int, index: int, number: int) -> np.random.Generator:
        """What is random in the episode of this number of environment `index`. The counter's second word keeps episodes apart
        from each other and from the numbers above."""
        counter, key = [0, 2 + number, index, iteration], [self.seed, int(self.stream)]
        return np.random.Generator(np.random.Philox(counter=counter, key=key))

    def generator(self, iteration: int, purpose: int = 0) -> torch.Generator:
        """For everything that is not a trajectory's noise (conditions, shuffling), the same on every process."""
        words = np.random.SeedSequence([self.seed, int(self.stream), iteration, purpose]).generate_state(2)
        return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


class RowNoise(ABC):
    """The standard normal numbers of the rows of a rollout."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def steps(self, start: int, stop: int, steps: int, shape: tuple[int, ...]) -> Iterator[Float[Tensor, "B *D"]]:
        """The numbers of step 0, 1, ..., each (stop - start, *shape), of the rows start..stop-1."""


@dataclass(frozen=True)
class SampleNoise(RowNoise):
    """The noise of some samples: noise.steps() for all of them, or for a part."""

    noise: Noise
    iteration: int
    index: range

    def __len__(self) -> int:
        return len(self.index)

    def every(self, start: int, step: int) -> SampleNoise:
        """Of the samples start, start + step, ... of these."""
        return SampleNoise(self.noise, self.iteration, self.index[start::step])

    def steps(self, start: int, stop: int, steps: int, shape: tuple[int, ...]) -> Iterator[Float[Tensor, "B *D"]]:
        return self.noise.steps(self.iteration, self.index[start:stop], steps, shape)


@dataclass(frozen=True)
class Interleaved(RowNoise):
    """`each` rows for every index, one after another: row i * each + k has the numbers of (iteration k, index[i]), as the k-th
    candidate of best-of-n has. More rows an index leave the first ones as they are."""

    noise: Noise
    index: range
    each: int

    def __len__(self) -> int:
        return len(self.index) * self.each

    def steps(self, start: int, stop: int, steps: int, shape: tuple[int, ...]) -> Iterator[Float[Tensor, "B *D"]]:
        """Raises ValueError where the rows of an index are not all among them."""
        if start % self.each or stop % self.each:
            raise ValueError(f"rows {start} to {stop} cut the {self.each} rows of an index apart")
        index = self.index[start // self.each : stop // self.each]
        parts = [self.noise.steps(k, index, steps, shape) for k in range(self.each)]
        return (torch.stack(rows, 1).flatten(0, 1) for rows in zip(*parts, strict=True))
