"""The processes of a run, and how their rows are put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def alone(x: Tensor) -> Tensor:
    """The rows of all processes where there is one."""
    return x


@dataclass(frozen=True)
class Processes:
    """The processes that share the work. gather: (n, ...) of each -> (size n, ...) in order of rank."""

    rank: int = 0
    size: int = 1
    gather: Callable[[Tensor], Tensor] = alone

    def share(self, total: int) -> range:
        """The indices of 0..total-1 that this process owns: equal, contiguous parts."""
        if total % self.size:
            raise ValueError(f"{total} samples do not divide among {self.size} processes")
        part = total // self.size
        return range(self.rank * part, (self.rank + 1) * part)
